"""A flight over land that no network has seen: frame by frame, by a network that takes guidance and by one that does
not. Both train for the same processor time, in one thread, from the same seeds; each is kept, then flown. A run that
was stopped goes on where it was.

python tools/flight.py --out runs/flight --minutes 3.6 --seeds 3    # train, fly, measure: flight.csv
python tools/flight.py --out runs/flight --picture nbs/images       # flight.jpg for the chapter"""
import itertools
from functools import partial
from pathlib import Path
import matplotlib.pyplot as plt, torch
from fastai.vision.all import FuncSplitter, set_seed
from spade_fastai.all import *
from spade_fastai.apps.flight import *
from spade_fastai.apps.flight import branches, crop, look, moved
from study import ProcessorMinutes, append, begin, options, rows

NETS = dict(alone=dict(mask=branches['mask']), guided=branches)
FILMS = dict(alone=[None], guided=[None, LastFrame, World])         # what each network is flown with
MAP = 512

def learner(name, dls, seed):
    "A learner by name: the same networks but for the branch of the guidance"
    set_seed(seed)
    return flight_learner(dls, NETS[name], seed=seed, cbs=EMA(n_batches=0))

def train(learn, minutes) -> dict:
    "A third of the time by pixels, the rest as a game; batches of both"
    clocks = [ProcessorMinutes(minutes*o) for o in (1/3, 2/3)]
    for o, clock in zip((copying(learn), learn), clocks, strict=True):
        with o.no_bar(), o.no_logging(): o.fit(1000, cbs=clock)
    return dict(copied=clocks[0].batches, played=clocks[1].batches)

def paths():
    "Four flights: straight on by parts of a pixel, turning on the spot, nearer and nearer, and once around"
    c = MAP/2
    return dict(shift=[View(c, c - 30 + 1.3*i) for i in range(24)],
                turn=[View(c, c, .13*i) for i in range(24)],
                zoom=[View(c, c, 0, .9*1.03**i) for i in range(24)],
                round=flight())

def few(mask) -> bool: return int(mask.stem) % 100 == 0     # the flights are the test; a few tiles show the loss

def lands(n=2): return [landcover_tile([77, i], MAP, 3) for i in range(n)]

def picture_of(rgb): return torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None]/127.5 - 1

def seen(picture, views): return torch.cat([look(picture, v.points((64, 64)))[0] for v in views])

def films(name, gen, ids, real, views):
    "Films by what they remember; and two that cannot flicker: of a map drawn at once, and of the real one"
    yield from [(getattr(o, '__name__', 'nothing'), fly(gen, ids, views, o)) for o in FILMS[name]]
    with torch.no_grad(): yield 'drawn at once', seen(gen(ids[None]), views)
    yield 'the real map', seen(real, views)

def judge(name, gen) -> list[dict]:
    "The numbers of every film, means over the lands; detail is a share of the real map's"
    sums, lands_ = {}, lands()
    for ids, rgb in lands_:
        ids, real = torch.from_numpy(ids).long(), picture_of(rgb)
        for way, views in paths().items():
            for memory, film in films(name, gen, ids, real, views):
                row = {f'{way}_flicker': flicker(film, views), f'{way}_detail': detail(film)/detail(seen(real, views))}
                if way == 'round': row |= dict(again=change(film[0], views[0], film[-1], views[-1]))
                for k, v in row.items(): sums.setdefault(memory, {}).setdefault(k, []).append(v)
    mean = lambda o: {k: round(sum(v)/len(v), 3) for k, v in o.items()}
    return [dict(film=memory, **mean(o)) for memory, o in sums.items()]

def run(o):
    "Every network that is not yet in the table, a seed at a time"
    table, land = o.out/'flight.csv', make_landcover(o.out/'land', n=o.tiles, size=128, season=3)
    done = {(r['name'], int(r['seed'])) for r in rows(table)}
    for seed, name in itertools.product(range(o.seeds), o.only or NETS):
        if (name, seed) in done: continue
        dls = SpadeDataLoaders.from_folder(land, split=FuncSplitter(few), size=128, bs=4, device='cpu', num_workers=0)
        learn = learner(name, dls, seed)
        batches = train(learn, o.minutes)
        torch.save(learn.model.generator.state_dict(), o.out/f'{name}-{seed}.pt')
        for row in judge(name, learn.model.generator): append(table, dict(name=name, seed=seed, **batches, **row))

def picture(o, seed=0):
    "flight.jpg: masks and films of one way round, and the last frame as the first view sees it"
    views, (ids, _), shown = flight(), lands(1)[0], (0, 1, 12, 24, 36)
    ids, palette = torch.from_numpy(ids).long(), Palette(LANDCOVER_CODES)
    masks = torch.cat([picture_of(palette.paint(crop(ids, v, (64, 64)))) for v in views])
    rows_ = [('mask', masks)]
    for name, memory in (('alone', None), ('guided', LastFrame), ('guided', World)):
        parts = tiny['generator'] | dict(norm=partial(MultiSPADE, maps=NETS[name]), start=MapStart)
        gen = SPADEGenerator(len(LANDCOVER_CODES), **parts)
        gen.load_state_dict(torch.load(o.out/f'{name}-{seed}.pt', weights_only=True))
        rows_.append((f"memory: {getattr(memory, '__name__', 'none')}", fly(gen, ids, views, memory)))
    fig, axs = plt.subplots(len(rows_), len(shown) + 1, figsize=(9, 6.2), dpi=80, layout='constrained')
    for row, (what, film) in zip(axs, rows_, strict=True):
        back, known = moved(film[-1:], views[-1], views[0])
        for ax, x in zip(row, [*film[list(shown)], (back*known + 1 - known)[0]], strict=True):
            ax.imshow((x.permute(1, 2, 0)/2 + .5).clamp(0, 1), interpolation='nearest')
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(what, fontsize=9)
    for ax, i in zip(axs[0], shown, strict=False): ax.set_title(f'frame {i}', fontsize=9)
    axs[0, -1].set_title(f'frame {len(views) - 1}, turned\nback to frame 0', fontsize=9)
    fig.savefig(o.picture/'flight.jpg', pil_kwargs=dict(quality=85))

if __name__ == '__main__':
    p = options(__doc__, 'runs/flight', 3.6, seeds=3, tiles=400)
    p.add_argument('--picture', type=Path, help='folder for flight.jpg; nothing is trained')
    p.add_argument('--only', nargs='*', choices=list(NETS))
    o = begin(p)
    picture(o) if o.picture else run(o)
