"""The family table: every norm, critic and baseline trains on the built-in land for the same processor time, in one
thread, from the same seeds; each network is kept, then judged. A run that was stopped goes on where it was.

python tools/family.py --out runs/family --minutes 2 --seeds 3     # train and judge
python tools/family.py --out runs/family --report nbs/course/more  # family.csv and the pictures for the chapter"""
import argparse, csv, shutil, time
from functools import partial
from pathlib import Path
import numpy as np, torch
from fastai.vision.all import CancelFitException, Callback, DataBlock, FuncSplitter, Image, get_image_files, set_seed
from spade_fastai.all import *
from spade_fastai.commands.bench import gflop

def norm(cls, start=MapFieldStart, **kwargs):
    "`tiny` with another norm, and perhaps another start"
    start = partial(MapFieldStart, nz=16) if start is MapFieldStart else start
    return dict(preset=tiny, generator=dict(norm=partial(cls, **kwargs), start=start))

maps = dict(mask=partial(MapBranch, hidden=16), edges=partial(MapBranch, nc=1, hidden=16))
norms = {'SPADE': dict(preset=tiny), 'CLADE': norm(CLADE), 'CLADE-ICPE': norm(CLADEICPE),
         'INADE': norm(INADE, start=MapStart, nz=16), 'Multi-SPADE': norm(MultiSPADE, maps=maps),
         'OASIS': dict(preset=tiny_oasis)}
NAMES = [*norms, *baselines]

class ProcessorMinutes(Callback):
    "Ends training after `minutes` of this process' own time; the learning rate falls to zero in the last third"
    order = 70
    def __init__(self, minutes): self.minutes, self.batches = minutes, 0
    def before_fit(self): self.start, self.lrs = time.process_time(), [o['lr'] for o in self.opt.hypers]
    def share(self) -> float: return (time.process_time() - self.start)/60/self.minutes
    def before_batch(self):
        if self.training: self.opt.set_hypers(lr=[lr*min(1, max(1 - self.share(), 0)*3) for lr in self.lrs])
    def after_batch(self):
        self.batches += self.training
        if self.training and self.share() >= 1: raise CancelFitException()

def draw_edges(land):
    "`edges/*.png`, 255 where a pixel's class is not its neighbour's: the second map of Multi-SPADE"
    (land/'edges').mkdir(exist_ok=True)
    for file in get_image_files(land/'labels'):
        ids = torch.from_numpy(np.array(Image.open(file)).astype(int))[None]
        Image.fromarray(instance_edges(ids)[0, 0].numpy().astype(np.uint8)*255).save(land/'edges'/file.name)

def held_back(mask) -> bool: return int(mask.stem) % 5 == 0

def land_of(name, out, tiles, size):
    "The tiles as batches of four, the same split for all"
    land = make_landcover(out/'land', n=tiles, size=size)
    kw = dict(bs=4, device='cpu', num_workers=0)
    if name != 'Multi-SPADE': return SpadeDataLoaders.from_folder(land, split=FuncSplitter(held_back), size=size, **kw)
    if not (land/'edges').exists(): draw_edges(land)
    blocks = SpadeMaskBlock(land/'codes.txt'), SpadeMapBlock('edges'), SpadeImageBlock()
    getters = [lambda o: o, lambda o: land/'edges'/o.name, lambda o: land/'images'/o.name]
    files = lambda folder: get_image_files(folder).sorted()
    block = DataBlock(blocks, get_items=files, splitter=FuncSplitter(held_back), getters=getters,
                      n_inp=2)
    return block.dataloaders(land/'labels', **kw)

def learner(name, dls, seed):
    "A learner by name"
    set_seed(seed)
    args = baselines[name](dls) if name in baselines else norms[name]
    return spade_learner(dls, **args, sample_grid=None, cbs=EMA())

def train(name, seed, o) -> dict:
    "Train one, keep it, judge it: a row of the table; `gmac` for a picture, `seconds` of the processor a batch"
    dls = land_of(name, o.out, o.tiles, o.size)
    learn, clock = learner(name, dls, seed), ProcessorMinutes(o.minutes)
    gen, (*xb, _) = learn.model.generator, dls.valid.one_batch()
    million = sum(p.numel() for p in gen.parameters())/1e6
    with learn.no_bar(), learn.no_logging(): learn.fit(1000, cbs=clock)
    set_seed(seed)
    with plain_math(): gmac = gflop(learn.model.eval(), *xb)/2/len(xb[0])
    learn.save_spade(o.out/f'{name}-{seed}.safetensors')
    return dict(name=name, seed=seed, million=round(million, 3), gmac=round(gmac, 3), batches=clock.batches,
                seconds=round(60*o.minutes/clock.batches, 4), **{k: round(v, 4) for k, v in judge(learn, seed).items()})

def judge(learn, seed) -> dict:
    "The scores of `colour_accuracy`, and how far two draws of one mask are apart, in grey levels"
    set_seed(seed)
    (*xb, _), gen = learn.dls.valid.one_batch(), learn.model.eval()
    with torch.no_grad(): two = [gen(*xb) for _ in range(2)]
    return dict(colour_accuracy(learn), diversity=float((two[0] - two[1]).abs().mean())*127.5)

def rows(file) -> list[dict]:
    return list(csv.DictReader(file.open())) if file.exists() else []

def run(o):
    "Every network that is not yet in the table, a seed at a time"
    table = o.out/'family.csv'
    done = {(r['name'], int(r['seed'])) for r in rows(table)}
    for seed in range(o.seeds):
        for name in o.only or NAMES:
            if (name, seed) in done: continue
            row = train(name, seed, o)
            new = not table.exists()
            with table.open('a', newline='') as f:
                writer = csv.DictWriter(f, row)
                if new: writer.writeheader()
                writer.writerow(row)
            print(row, flush=True)

def as_bytes(pictures, n:int=4) -> np.ndarray:
    "The first `n` of pictures [B,3,H,W] in [-1,1] as [n,H,W,3] of bytes"
    pictures = pictures[:n].as_subclass(torch.Tensor).clamp(-1, 1)
    return ((pictures + 1)*127.5).byte().permute(0, 2, 3, 1).numpy()

def drawn_by(name, o, tiles:int=4) -> tuple:
    "The first held-back tiles drawn by a network, real, arrays [B,H,W,3] of bytes, and their masks"
    dls, gan = land_of(name, o.out, o.tiles, o.size), load_gan(o.out/f'{name}-0.safetensors').eval()
    set_seed(0)
    *xb, y = dls.valid.one_batch()
    with torch.no_grad(): fakes = gan(*xb)
    return as_bytes(fakes, tiles), as_bytes(y, tiles), xb[0][:tiles].as_subclass(torch.Tensor)

def report(o):
    "The table, and one picture: a row a tile; mask, real picture, then every network"
    import matplotlib.pyplot as plt
    shutil.copy(o.out/'family.csv', o.report/'family.csv')
    columns, palette = {}, Palette(LANDCOVER_CODES)
    for name in NAMES:
        fakes, reals, ids = drawn_by(name, o)
        columns[name] = fakes
    columns = {'mask': [palette.paint(m) for m in ids], 'real': reals, **columns}
    fig, axs = plt.subplots(len(reals), len(columns), dpi=100, layout='constrained',
                            figsize=(len(columns)*.9, len(reals)*.9 + .25))
    for i, (name, pics) in enumerate(columns.items()):
        for ax, pic in zip(axs[:, i], pics, strict=True):
            ax.imshow(pic, interpolation='nearest')
            ax.set_axis_off()
        axs[0, i].set_title(name.replace(' at the ', '\nat the '), fontsize=6)
    fig.get_layout_engine().set(w_pad=.01, h_pad=.01, wspace=0, hspace=0)
    fig.savefig(o.report.parents[1]/'images'/'family.jpg', pil_kwargs=dict(quality=88))

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', type=Path, default=Path('runs/family'))
    p.add_argument('--minutes', type=float, default=2, help='of processor time, each')
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--tiles', type=int, default=1000)
    p.add_argument('--size', type=int, default=64)
    p.add_argument('--only', nargs='*', choices=NAMES)
    p.add_argument('--report', type=Path, help='write the table and the pictures of what is trained into this folder')
    o = p.parse_args()
    torch.set_num_threads(1)
    o.out.mkdir(parents=True, exist_ok=True)
    report(o) if o.report else run(o)
