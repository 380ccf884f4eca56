"""The family table: every norm, critic and baseline trains on the built-in land for the same processor time, in one
thread, from the same seeds; each network is kept, then judged. A run that was stopped goes on where it was.

python tools/family.py --out runs/family --minutes 2 --seeds 3     # train and judge
python tools/family.py --out runs/family --report nbs/course/more  # family.csv and the pictures for the chapter"""
import shutil
from functools import partial
from pathlib import Path
import numpy as np, torch
from fastai.vision.all import DataBlock, FuncSplitter, Image, get_image_files, set_seed
from spade_fastai.all import *
from spade_fastai.commands.bench import gflop
from study import ProcessorMinutes, append, as_bytes, begin, held_back, options, rows, strip

def norm(cls, start=MapFieldStart, **kwargs):
    "`tiny` with another norm, and perhaps another start"
    start = partial(MapFieldStart, nz=16) if start is MapFieldStart else start
    return dict(preset=presets.tiny_hinge, generator=dict(norm=partial(cls, **kwargs), start=start))

maps = dict(mask=partial(MapBranch, hidden=16), edges=partial(MapBranch, nc=1, hidden=16))
norms = {'SPADE': dict(preset=presets.tiny_hinge), 'CLADE': norm(CLADE), 'CLADE-ICPE': norm(CLADEICPE),
         'INADE': norm(INADE, start=MapStart, nz=16), 'Multi-SPADE': norm(MultiSPADE, maps=maps),
         'OASIS': dict(preset=tiny_oasis)}
NAMES = [*norms, *baselines]

def draw_edges(land):
    "`edges/*.png`, 255 where a pixel's class is not its neighbour's: the second map of Multi-SPADE"
    (land/'edges').mkdir(exist_ok=True)
    for file in get_image_files(land/'labels'):
        ids = torch.from_numpy(np.array(Image.open(file)).astype(int))[None]
        Image.fromarray(instance_edges(ids)[0, 0].numpy().astype(np.uint8)*255).save(land/'edges'/file.name)

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

def run(o):
    "Every network that is not yet in the table, a seed at a time"
    table = o.out/'family.csv'
    done = {(r['name'], int(r['seed'])) for r in rows(table)}
    for seed in range(o.seeds):
        for name in o.only or NAMES:
            if (name, seed) in done: continue
            append(table, train(name, seed, o))

def drawn_by(name, o, tiles:int=4) -> tuple:
    "The first held-back tiles drawn by a network, real, arrays [B,H,W,3] of bytes, and their masks"
    dls, gan = land_of(name, o.out, o.tiles, o.size), load_gan(o.out/f'{name}-0.safetensors').eval()
    set_seed(0)
    *xb, y = dls.valid.one_batch()
    with torch.no_grad(): fakes = gan(*xb)
    return as_bytes(fakes, tiles), as_bytes(y, tiles), xb[0][:tiles].as_subclass(torch.Tensor)

def report(o):
    "The table, and one picture: a row a tile; mask, real picture, then every network"
    shutil.copy(o.out/'family.csv', o.report/'family.csv')
    columns, palette = {}, Palette(LANDCOVER_CODES)
    for name in NAMES:
        fakes, reals, ids = drawn_by(name, o)
        columns[name] = fakes
    columns = {k.replace(' at the ', '\nat the '): v for k, v in columns.items()}
    masks = [palette.paint(m) for m in ids]
    strip({'mask': masks, 'real': reals, **columns}, o.report.parents[1]/'images'/'family.jpg')

if __name__ == '__main__':
    p = options(__doc__, 'runs/family', 2, seeds=3, tiles=1000, size=64)
    p.add_argument('--only', nargs='*', choices=NAMES)
    p.add_argument('--report', type=Path, help='write the table and the pictures of what is trained into this folder')
    o = begin(p)
    report(o) if o.report else run(o)
