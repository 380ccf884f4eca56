"""How long each chapter of the course takes, as the tests run it, and as it is committed: each in a process of its own,
on one thread. Writes nbs/course/seconds.csv, which the teacher's page shows. They are processor seconds, so what else
the machine does hardly counts.

python tools/seconds.py              # all chapters
python tools/seconds.py -v 02 06     # these alone, the rows of the others stay; and which cells take the time"""
import csv, multiprocessing, os, platform, sys, time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT/'nbs/course/seconds.csv'

def run(nb, as_test):
    "Processor seconds of a notebook's cells"
    import matplotlib
    matplotlib.use('Agg')
    import torch
    from execnb.shell import CaptureShell
    from nbdev.test import nb_test_cells
    torch.set_num_threads(1)
    os.environ.pop('IN_TEST', None)
    if as_test: os.environ['IN_TEST'] = '1'
    os.chdir(nb.parent)
    shell, times = CaptureShell(nb.parent), []
    for cell in nb_test_cells(nb, ['slow', 'cuda']):
        start = time.process_time()
        shell.run(cell.source)
        if shell.exc: raise RuntimeError(f'{nb.name}: {shell.exc!r} in\n{cell.source}')
        times.append((time.process_time() - start, cell.source.strip().splitlines()[-1]))
    slow = [f'{t:6.1f} {src[:80]}' for t, src in times if t > 1]
    if '-v' in sys.argv: print(nb.name, 'as tests' if as_test else 'as committed', *slow, sep='\n', flush=True)
    return sum(t for t, _ in times)

def seconds(nb, as_test):
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as alone:
        return round(alone.submit(run, nb, as_test).result())

if __name__ == '__main__':
    rows = {o['chapter']: o for o in csv.DictReader(TABLE.open())} if TABLE.exists() else {}
    only = [o for o in sys.argv[1:] if o != '-v']
    for nb in sorted((ROOT/'nbs/course').glob('[0-9]*.ipynb')):
        if only and not nb.stem.startswith(tuple(only)): continue
        rows[nb.stem] = dict(chapter=nb.stem, tests=seconds(nb, True), committed=seconds(nb, False),
                             date=date.today().isoformat(), machine=f'one thread of {platform.machine()}')
        with TABLE.open('w', newline='') as f:
            out = csv.DictWriter(f, list(rows[nb.stem]), lineterminator='\n')
            out.writeheader()
            out.writerows(rows[k] for k in sorted(rows))
