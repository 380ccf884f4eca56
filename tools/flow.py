"""The table of the chapter on flow: the chapter's denoiser and a SPADE GAN of about as many parameters learn the same
200 pieces of land for the same processor time, in one thread; both then draw the same held-back masks. A run that was
stopped goes on where it was.

python tools/flow.py --out runs/flow                               # train and judge
python tools/flow.py --out runs/flow --report nbs/course/more      # flow.csv, and the pictures for the chapter"""
import shutil, time
from functools import partial
from pathlib import Path
import torch
from fastai.vision.all import DataLoaders, TensorImage, TensorMask, set_seed
from spade_fastai.all import *
from spade_fastai.metrics import fit_segmenter, judged
from spade_fastai.texture import class_spectrum, texture
from study import ProcessorMinutes, append, as_bytes, begin, chapter, options, rows, strip

BUDGETS = (.5,)
PASSES = 1, 4, 16

ch = chapter('diffusion_glance.ipynb', 'def mixed', 'def best', 'def euler', 'class Denoiser', 'def flow_loss',
             'masks, reals =', 'def drawn', 'classes = masks')
masks, reals, new_masks, new_reals = (ch[o] for o in ('masks', 'reals', 'new_masks', 'new_reals'))

def flow(minutes):
    "The chapter's denoiser; its batches"
    set_seed(0)
    net, start, n, share = ch['Denoiser'](), time.process_time(), 0, 0
    opt = torch.optim.Adam(net.parameters(), 3e-3, betas=(.9, .99))
    while (share := (time.process_time() - start)/60/minutes) < 1:
        for o in opt.param_groups: o['lr'] = 3e-3*min(1, 3*(1 - share))
        ch['flow_step'](net, opt, *ch['some_of'](masks, reals))
        n += 1
    return net.eval(), n

def gan(minutes):
    "A generator of nearly as many parameters, trained with critic and feature matching; its batches"
    set_seed(0)
    start, norm = partial(MapFieldStart, nz=8), partial(SPADE, hidden=32)
    gen = SPADEGenerator(13, nf=10, mults=(8, 4, 2, 1), ups=(1, 1, 0), norm=norm, start=start)
    both = [*zip(masks, reals, strict=True), *((m.flip(-1), x.flip(-1)) for m, x in zip(masks, reals, strict=True))]
    pairs = [(TensorMask(m), TensorImage(x)) for m, x in both]
    dls = DataLoaders.from_dsets(pairs, pairs[:8], bs=8, num_workers=0, device='cpu')
    critic = MultiscaleDiscriminator(13, nf=16, n_layers=3, n_scales=1)
    for net in (gen, critic): init_weights(net, 1.)
    learn, clock = GANLearner(dls, gen, critic, weights=dict(feat=10), lr=slice(5e-4, 2e-3)), ProcessorMinutes(minutes)
    with learn.no_bar(), learn.no_logging(): learn.fit(10_000, cbs=clock)
    return gen.eval(), clock.batches

@torch.no_grad()
def drawn(net, way, passes, seed):
    "Pictures of the held-back masks, and milliseconds of the processor for each"
    start = time.process_time()
    if way == 'flow': pics = ch['drawn'](net, new_masks, passes, seed)
    else: pics = net(new_masks, net.draw_z(len(new_masks), new_masks.shape[-2:], torch.Generator().manual_seed(seed)))
    return pics, 1000*(time.process_time() - start)/len(new_masks)

def judge(net, way, passes, segmenter, real) -> dict:
    a, ms = drawn(net, way, passes, 0)
    b, _ = drawn(net, way, passes, 1)
    miou = judged(segmenter, a, new_masks, 13).miou/judged(segmenter, new_reals, new_masks, 13).miou
    db = texture(real, class_spectrum(a, new_masks, 13))['distance']
    return dict(passes=passes, ms=round(ms, 1), obeys=round(ch['obeys'](a), 3), miou=round(float(miou), 3),
                texture=round(db, 2), spread=round(ch['spread'](a, b), 1))

def run(o):
    table, segmenter = o.out/'flow.csv', fit_segmenter(reals, masks, 13, steps=300)
    done = {(r['way'], float(r['minutes'])) for r in rows(table)}
    real = class_spectrum(new_reals, new_masks, 13)
    for minutes in BUDGETS:
        for way, train in dict(flow=flow, gan=gan).items():
            if (way, minutes) in done: continue
            net, n = train(minutes*o.minutes)
            torch.save(net.state_dict(), o.out/f'{way}-{minutes}.pth')
            pics = {k: drawn(net, way, k, 0)[0] for k in ((16,) if way == 'flow' else (1,))}
            torch.save(pics, o.out/f'{way}-{minutes}.pics')
            count = sum(p.numel() for p in net.parameters())
            for k in (PASSES if way == 'flow' else (1,)):
                append(table, dict(way=way, minutes=minutes, batches=n, parameters=count,
                                   **judge(net, way, k, segmenter, real)))

def report(o):
    "The table, and one picture: a row a tile; mask, real picture, then both ways by minutes"
    shutil.copy(o.out/'flow.csv', o.report/'flow.csv')
    palette, columns = Palette(LANDCOVER_CODES), {}
    for way in ('flow', 'gan'):
        for minutes in BUDGETS:
            pics, = torch.load(o.out/f'{way}-{minutes}.pics').values()
            columns[f'{way.replace("gan", "GAN")}, {minutes:g} min'] = as_bytes(pics, 4)
    reals = dict(mask=[palette.paint(m) for m in new_masks[:4]], real=as_bytes(new_reals, 4))
    strip({**reals, **columns}, o.report.parents[1]/'images'/'flow.jpg')

if __name__ == '__main__':
    p = options(__doc__, 'runs/flow', 1)
    p.add_argument('--report', type=Path, help='write the table and the picture into this folder')
    o = begin(p)
    report(o) if o.report else run(o)
