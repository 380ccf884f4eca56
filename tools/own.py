"""What helps when pairs are few: 56 tiles of a survey in colour infrared, four recipes, equal minutes of the processor,
in one thread; then a segmenter that learned from other land of these colours looks at what is drawn for 100 tiles of
yet other land. Each network is judged twice, by the average of its weights and by the last ones.
The table is read by nbs/course/08_own_land_cover.ipynb.

python tools/own.py --out runs/own --minutes .5 --seeds 3     # train and judge: own.csv
python tools/own.py --out runs/own --report nbs/course          # table, and a picture"""
import warnings
from datetime import date
from pathlib import Path
import numpy as np, torch
from fastai.vision.all import Image, set_seed
from spade_fastai.all import *
from spade_fastai.metrics import fit_segmenter, judged, kid
from spade_fastai.spaces import lite0_space
from study import ProcessorMinutes, append, as_bytes, begin, options, rows, strip

TREE = (158, 40, 52)
INFRARED = {'Water': (24, 36, 58), 'Wetlands': (122, 74, 86), 'Shrubland': (178, 92, 92), 'Barren': (168, 178, 170),
            'Low vegetation': (214, 118, 124), 'Structures': (116, 150, 168), 'Impervious': (150, 172, 180),
            'Roads': (98, 116, 126), **{o: TREE for o in LANDCOVER_CODES if o.startswith('Tree')}}
TINTS = {k: [v] for k, v in INFRARED.items()}
NAMES = {'Tree canopy': 'Forest', 'Low vegetation': 'Grass', 'Structures': 'Buildings'}
SAME = {v: k for k, v in NAMES.items()}
CODES = [NAMES.get(o, o) for o in LANDCOVER_CODES]
RECIPES = {'plain': {}, '+ start': dict(start=True), '+ turns': dict(start=True, turns=True),
           '+ DiffAugment': dict(start=True, turns=True, augment=True)}

def column(fn) -> int: return int(Path(fn).stem.split('_c')[1].split('_')[0])

def survey(path) -> Path:
    "One scene as 8 rows and 10 columns of tiles, each half a tile from the next; three tiles are spoiled"
    ids, rgb = landcover_tile([11], (288, 352), tints=TINTS)
    for kind in ('labels', 'images'): (path/kind).mkdir(parents=True, exist_ok=True)
    for r in range(8):
        for c in range(10):
            at = np.s_[32*r:32*r + 64, 32*c:32*c + 64]
            for kind, o in (('labels', ids), ('images', rgb)): Image.fromarray(o[at]).save(path/kind/f'r{r}_c{c}.png')
    return path

def by_area(items):
    "Columns 0 to 6 to learn from, 8 and 9 held back, 7 touches both"
    at = [column(o) for o in items.masks]
    return [i for i, c in enumerate(at) if c < 7], [i for i, c in enumerate(at) if c > 7]

def tiles(seeds) -> tuple:
    "Masks [n,64,64] and pictures [n,3,64,64] of other land in these colours"
    both = [landcover_tile([s], 64, tints=TINTS) for s in seeds]
    return (torch.stack([torch.from_numpy(m).long() for m, _ in both]),
            torch.stack([torch.from_numpy(p).movedim(-1, 0).float() for _, p in both])/127.5 - 1)

class Judge:
    "A segmenter of real pictures, and features of real pictures"
    def __init__(self):
        self.n, self.space = len(CODES), lite0_space()
        masks, real = tiles(range(10_000, 10_300))
        self.net = fit_segmenter(real, masks, self.n, steps=250)
        self.masks, self.real = tiles(range(20_000, 20_100))
        self.features = self.space(self.real)

    def __call__(self, pictures) -> dict:
        seen = judged(self.net, pictures, self.masks, self.n)
        return dict(miou=round(float(seen.miou), 4), kid=round(float(kid(self.features, self.space(pictures))), 4))

def drawn(learn, masks, seed:int) -> torch.Tensor:
    gen, rng = learn.model.generator.eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad(): return torch.cat([gen(m, gen.draw_z(len(m), m.shape[-2:], rng)) for m in masks.split(20)])

def train(name, seed, o, judge):
    "Two rows: judged by the average, and by the last weights"
    how = RECIPES[name]
    tfms = aerial_tfms(64) if 'turns' in how else {}
    set_seed(seed)
    dls = SpadeDataLoaders.from_folder(survey(o.out/'survey'), codes=CODES, split=by_area, size=64, bs=4, num_workers=0,
                                       device='cpu', **tfms)
    clock, ema = ProcessorMinutes(o.minutes), EMA()
    learn = spade_learner(dls, tiny, cbs=ema, augment=DiffAugment() if 'augment' in how else None, sample_grid=None)
    if 'start' in how: start_from(learn, 'landcover', same=SAME)
    with learn.no_bar(), learn.no_logging(): learn.fit(10000, cbs=clock)
    for which in ('average', 'last'):
        if which == 'last': learn.model.load_state_dict(ema.raw, strict=False)
        pictures = drawn(learn, judge.masks, seed)
        if which == 'average' and not seed: torch.save(pictures[:8], o.out/f'{[*RECIPES].index(name)}.pt')
        append(o.out/'own.csv', dict(recipe=name, weights=which, seed=seed, batches=clock.batches, **judge(pictures),
                                     minutes=o.minutes, date=date.today().isoformat(), machine='one thread of x86_64'))

def run(o):
    "Every network that is not yet in the table, a seed at a time"
    done, judge = {(r['recipe'], int(r['seed'])) for r in rows(o.out/'own.csv')}, Judge()
    (o.out/'real.txt').write_text(str(judge(judge.real)['miou']))
    for seed in range(o.first, o.first + o.seeds):
        for name in RECIPES:
            if (name, seed) not in done: train(name, seed, o, judge)

def report(o, which=(1, 4, 5, 7)):
    "The table, in order, and a picture of four tiles by every recipe"
    said = sorted(rows(o.out/'own.csv'), key=lambda r: (int(r['seed']), [*RECIPES].index(r['recipe'])))
    (o.report/'own.csv').unlink(missing_ok=True)
    for r in said: append(o.report/'own.csv', r | dict(miou_real=(o.out/'real.txt').read_text()))
    masks, real = (x[list(which)] for x in tiles(range(20_000, 20_008)))
    columns = dict(mask=[Palette(LANDCOVER_CODES).paint(m) for m in masks], real=as_bytes(real))
    for i, name in enumerate(RECIPES): columns[name] = as_bytes(torch.load(o.out/f'{i}.pt')[list(which)])
    strip(columns, o.report.parent/'images'/'own.jpg')

if __name__ == '__main__':
    o = options(__doc__, 'runs/own', 1., first=0)
    o.add_argument('--seeds', type=int, default=3)
    o.add_argument('--report', type=Path)
    o = begin(o)
    warnings.simplefilter('ignore')
    if o.report: report(o)
    else: run(o)
