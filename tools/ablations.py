"""What is SPADE worth? One generator, one critic, one number of batches, as many parameters; only the way in which the
mask enters differs. Built-in land, judged as in recipes.py. A study that was stopped goes on where it was.

python tools/ablations.py --out runs/ablations --batches 500 --seeds 3
python tools/ablations.py --out runs/ablations --batches 2500 --seeds 1 --only concatenation CLADE SPADE
python tools/ablations.py --out runs/ablations --report nbs/course   # the table, and a picture"""
import shutil, time
from functools import partial
from pathlib import Path
import torch
from fastai.vision.all import Callback, CancelFitException, set_seed
from spade_fastai.all import *
from spade_fastai.nets.concat import AffineNorm, ConcatNorm
from spade_fastai.nets.pix2pix import DownStart
from recipes import judge, loaders
from study import append, as_bytes, begin, options, rows, strip

class WithoutOne(SPADE):
    "SPADE as gamma·norm(x) + beta"
    def forward(self, x, cond, act=None):
        gamma, beta = self.gamma_beta(cond, x.shape[-2:])
        y = gamma*self.param_free_norm(x) + beta
        return y if act is None else act(y)

HINGE, spade = presets.tiny_hinge, partial(SPADE, hidden=16)
WAYS = {
    'mask at the start': dict(norm=AffineNorm),
    "pix2pixHD's way":   dict(norm=AffineNorm, start=partial(DownStart, n_down=3)),
    'concatenation':     dict(norm=ConcatNorm),                                       # CRN's way
    'CBN':               dict(norm=CBN),
    'CLADE':             dict(norm=CLADE),
    'INADE':             dict(norm=partial(INADE, nz=16), start=MapStart),
    'SPADE':             dict(norm=spade),
    'SPADE, embedded':   dict(norm=spade, encode=partial(ClassEmbed, dim=8)),
    'SPADE, scalar':     dict(norm=spade, encode=Scalar),
    'SPADE, no 1':       dict(norm=partial(WithoutOne, hidden=16))}

def weight_of(n, way) -> int:
    "Parameters of the generator with `nf=n`"
    with torch.device('meta'): gen = SPADEGenerator(13, **HINGE['generator'] | way | dict(nf=n))
    return sum(p.numel() for p in gen.parameters())

def as_heavy(way) -> dict:
    "The way with the width at which it has most nearly the parameters of `tiny`"
    goal = weight_of(HINGE['generator']['nf'], {})
    return way | dict(nf=min(range(8, 40), key=lambda n: abs(weight_of(n, way) - goal)))

class Batches(Callback):
    "Ends training after `n` batches; the learning rate falls to zero in the last third"
    order = 70
    def __init__(self, n): self.n, self.done = n, 0
    def before_fit(self): self.start, self.lrs = time.process_time(), [o['lr'] for o in self.opt.hypers]
    def before_batch(self):
        if self.training: self.opt.set_hypers(lr=[lr*min(1, (1 - self.done/self.n)*3) for lr in self.lrs])
    def after_batch(self):
        self.done += self.training
        if self.done < self.n: return
        self.seconds = time.process_time() - self.start
        raise CancelFitException()

def train(name, seed, o) -> dict:
    "Train one, keep it, judge it: a row of the table"
    set_seed(seed)
    way, end = as_heavy(WAYS[name]), Batches(o.batches)
    learn = spade_learner(loaders('land', o), HINGE, generator=way, sample_grid=None, cbs=EMA())
    with learn.no_bar(), learn.no_logging(): learn.fit(10000, cbs=end)
    gen = learn.model.generator
    torch.save(gen.state_dict(), kept(name, seed, o))
    million = sum(p.numel() for p in gen.parameters())/1e6
    return dict(way=name, seed=seed, batches=o.batches, million=round(million, 3), width=way['nf'],
                seconds=round(end.seconds/o.batches, 4), **judge('land', learn, seed, o))

def kept(name, seed, o): return o.out/f'{[*WAYS].index(name)}-{o.batches}-{seed}.pt'

def run(o):
    "Every row that is not yet in the table, a seed at a time"
    table = o.out/'ablations.csv'
    done = {(r['way'], int(r['seed']), int(r['batches'])) for r in rows(table)}
    for seed in range(o.seeds):
        for name in o.only or WAYS:
            if (name, seed, o.batches) not in done: append(table, train(name, seed, o))

def report(o, n:int=6):
    "The table, and held-back tiles by every way"
    shutil.copy(o.out/'ablations.csv', o.report/'ablations.csv')
    dls = loaders('land', o)
    mask, real = dls.valid.one_batch()
    mask = mask.as_subclass(torch.Tensor)
    columns = {'mask': [dls.palette.paint(m) for m in mask[:n]], 'real': as_bytes(real, n)}
    for name, way in WAYS.items():
        gen = spade_learner(dls, HINGE, generator=as_heavy(way), sample_grid=None).model.generator.eval()
        gen.load_state_dict(torch.load(kept(name, 0, o), weights_only=True))
        set_seed(0)
        title = name.replace(', ', ',\n').replace(' at ', '\nat ').replace("'s ", "'s\n")
        with torch.no_grad(): columns[title] = as_bytes(gen(mask), n)
    strip(columns, o.report.parent/'images'/'ablations.jpg')

if __name__ == '__main__':
    p = options(__doc__, 'runs/ablations', 0, seeds=3, batches=500)
    p.add_argument('--only', nargs='*', choices=list(WAYS))
    p.add_argument('--report', help='write table and picture into this folder; nothing is trained', type=Path)
    o = begin(p)
    report(o) if o.report else run(o)
