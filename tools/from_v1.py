"""The table of the chapter "From the fastai v1 notebook to here": each of its choices trains the chapter's small game
for the same number of batches, in one thread, and is judged by the chapter's own measure, a seed at a time.

python tools/from_v1.py --out runs/from_v1 --seeds 3       # then copy from_v1.csv to nbs/course/more"""
import time
from study import append, begin, chapter, options, rows

def run(o):
    ch = chapter('from_v1.ipynb', 'def tiles', 'ways = ', 'def agrees')
    table = o.out/'from_v1.csv'
    done = {(r['way'], int(r['seed'])) for r in rows(table)}
    for seed in range(o.first, o.first + o.seeds):
        for name, way in ch['ways'].items():
            if (name, seed) in done: continue
            learn, start = ch['game'](seed, **way), time.process_time()
            with learn.no_bar(), learn.no_logging(): learn.fit(o.epochs)
            batches = o.epochs*len(learn.dls.train)
            seconds = (time.process_time() - start)/batches
            append(table, dict(way=name, seed=seed, batches=batches, obeys=round(ch['obeys'](ch['painted'](learn)), 3),
                               ms=round(1000*seconds)))

if __name__ == '__main__': run(begin(options(__doc__, 'runs/from_v1', 0, seeds=3, first=0, epochs=6)))
