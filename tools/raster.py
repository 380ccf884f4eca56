"""What it costs to draw a map by windows: less time than before, no seams, little done twice, memory flat.
All times are processor time of one thread, in turn, in one run; the network has the layout of the preset `tiny`.

python tools/raster.py speed                        # the fast way and the clear way, the same windows
python tools/raster.py overhead                     # 2048×2048 by windows and at once: multiplications, and time
python tools/raster.py agree                        # tiles of 256 and 1024, windows and the whole: bytes that differ
python tools/raster.py memory                       # peak of the process at 2048×2048 and at 16384×16384"""
import argparse, json, resource, subprocess, sys, tempfile, time
from functools import partial
from pathlib import Path
import numpy as np, torch
from spade_fastai.apps.raster import RasterJob, as_stored, draw_raster, drawn_box, noise_of
from spade_fastai.data.grids import gdal_env, need_rasterio
from spade_fastai.data.landcover import landcover_tile
from spade_fastai.data.raster import Raster
from spade_fastai.fast.drawing import cells_around, folded
from spade_fastai.fast.ways import plain_math, with_limits
from spade_fastai.nets.generator import SPADEGenerator, layouts
from spade_fastai.nets.norms import SPADE
from spade_fastai.nets.starts import MapFieldStart

def network(nf=16):
    "A generator of the layout of `tiny`, with statistics of its own and a picture of some contrast"
    torch.manual_seed(0)
    start = partial(MapFieldStart, nz=16)
    gen = SPADEGenerator(13, nf, (8, 8, 4, 2, 1), (1, 1, 1, 0), partial(SPADE, hidden=16), start=start)
    for p in gen.parameters(): torch.nn.init.normal_(p, 0, p[0].numel()**-.5 if p.ndim > 1 else .1)
    ids = torch.from_numpy(np.stack([landcover_tile([1, i], (64, 64))[0] for i in range(2)])).long()
    with torch.no_grad():
        for _ in range(20): gen.train()(ids)
    gen.conv_img.weight.data.mul_(.3)
    return gen.eval()

def a_mask(fn, side, off=0):
    "A mask of built-in land, `side` pixels high and wide, written in windows of 1024, with a place"
    rio = need_rasterio(fn)
    rng, n = np.random.default_rng(0), 256
    some = [landcover_tile([7, i], (n, n))[0] for i in range(8)]
    kw = dict(driver='GTiff', height=side, width=side, count=1, dtype='uint8', tiled=True, compress='deflate',
              transform=rio.Affine(2, 0, 2048 + 2*off, 0, -2, -2048 - 2*off), crs='EPSG:32633')
    with gdal_env(rio), rio.open(fn, 'w', **kw) as dst:
        for y in range(0, side, n):
            for x in range(0, side, n):
                a = some[rng.integers(8)][:side - y, :side - x]
                dst.write(a, 1, window=((y, y + a.shape[0]), (x, x + a.shape[1])))
    return fn

def spent(f):
    begin = time.process_time()
    f()
    return time.process_time() - begin

def all_of(job):
    for box in job.boxes: drawn_box(job, *box)

def whole_of(job):
    "(ids, z) of the whole canvas"
    rows, cols = ((0, n) for n in job.canvas.size)
    return torch.from_numpy(job.canvas.ids(rows, cols)[0])[None], noise_of(job, rows, cols)

def speed(tmp, side, rounds):
    gen, mask = network(), a_mask(tmp/'mask.tif', side)
    with plain_math(): clear = RasterJob(gen, mask, tmp/'o.tif')
    fast, times = RasterJob(gen, mask, tmp/'o.tif'), []
    for i in range(rounds + 1):
        pair = spent(lambda: all_of(clear)), spent(lambda: all_of(fast))
        if i: times.append(pair)
        print(f'{side}×{side}: clear {pair[0]:.2f} s, fast {pair[1]:.2f} s, {pair[0]/pair[1]:.2f}×', flush=True)
    print(f'median {np.median([a/b for a, b in times]):.2f} times as fast')

def multiplications(net, seen, ends) -> int:
    "Of the convolutions of a folded copy, gamma and beta at every pixel: a window that sees `seen` to draw `ends`"
    of = lambda m: sum(c.in_channels*c.weight[:, 0].numel() for c in m.modules() if isinstance(c, torch.nn.Conv2d))
    cells = lambda s: (seen[0][1] - seen[0][0])//s*((seen[1][1] - seen[1][0])//s)
    s, total = net.scale, of(net.start)*cells(net.scale)
    for block, ups, n in zip(net.blocks, net.ups, cells_around(net), strict=True):
        seen = [(max(a, c - n*s), min(b, d + n*s)) for (a, b), (c, d) in zip(seen, ends, strict=True)]
        total, s = total + of(block)*cells(s), s//2**len(ups)
    return total + of(net.conv_img)*cells(s)

def of_job(job) -> int:
    "Multiplications of all windows"
    def window(y, x, h, w):
        ends = (y, y + h), (x, x + w)
        seen = [(max(a - job.halo, 0), min(b + job.halo, n)) for (a, b), n in zip(ends, job.canvas.size, strict=True)]
        return multiplications(job.draws, seen, ends)
    return sum(window(*box) for box in job.boxes)

def overhead(tmp, side, rounds):
    "The mask begins between two windows, as it does in life"
    gen, mask = network(), a_mask(tmp/'mask.tif', side, off=392)
    job, whole = RasterJob(gen, mask, tmp/'o.tif'), folded(gen)
    ids, z = whole_of(job)
    @torch.no_grad()
    def at_once():
        whole.forget()
        whole(ids, z)
    print(f'{len(job.boxes)} windows of up to {job.window} on {side}×{side}', flush=True)
    paper = SPADEGenerator(13, **layouts['normal']).eval()
    for what, o in (('', job), ("the paper's layout: ", RasterJob(paper, mask, tmp/'o.tif'))):
        some, once = of_job(o), multiplications(o.draws, *[[(0, n) for n in o.canvas.size]]*2)
        print(f'{what}{some/1e9:.0f} G products by windows, {once/1e9:.0f} G at once: {some/once:.3f}', flush=True)
    for _ in range(rounds):
        a, b = spent(lambda: all_of(job)), spent(at_once)
        print(f'processor time: {a:.1f} s by windows, {b:.1f} s at once: {a/b:.3f}', flush=True)

def agree(tmp, side, rounds):
    gen, mask = network(), a_mask(tmp/'mask.tif', side)
    read = lambda name, **kw: Raster(draw_raster(gen, mask, tmp/f'{name}.tif', seed=3, **kw)).read()[0].astype(int)
    def say(what, a, b):
        print(f'{what}: {np.abs(a - b).max():.2f} at most, {(a != b).mean():.1e} of the bytes', flush=True)
    job = RasterJob(gen, mask, tmp/'x.tif', seed=3)
    ids, z = whole_of(job)
    with torch.no_grad(), plain_math(): pic = gen(ids, z)[0].numpy()
    once = as_stored(job, pic, np.ones(pic.shape[1:], bool)).transpose(1, 2, 0).astype(int)
    a = read('t256', tile=256)
    say('tile 256 and tile 1024', a, read('t1024', tile=1024))
    say('windows of 1024, and the network at once', a, once)
    say('windows of 256, and of 1024', read('w256', window=256), a)
    with plain_math():
        for w in (256, 1024): say(f'clear way, windows of {w}, and at once', read(f'c{w}', window=w), once)

def child(side:int, folder:str):
    "With a network of one block, so that it ends in minutes; the pieces and the file are as large as any network's"
    gen, tmp = SPADEGenerator(13, 4, (1, 1), (1,), partial(SPADE, hidden=4)).eval(), Path(folder)
    begin = time.process_time()
    with with_limits(share=0): draw_raster(gen, tmp/f'{side}.tif', tmp/f'out{side}.tif')
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
    print(json.dumps(dict(side=side, MB=round(peak), seconds=round(time.process_time() - begin))))

def memory(tmp, side, rounds):
    peaks = []
    for side in (2048, 16384):
        a_mask(tmp/f'{side}.tif', side)
        run = [sys.executable, '-W', 'ignore', __file__, 'child', '--side', str(side), '--folder', str(tmp)]
        said = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
        print(said, flush=True)
        peaks.append(json.loads(said)['MB'])
        (tmp/f'{side}.tif').unlink()
    print(f'memory at 16384² is {peaks[1]/peaks[0]:.2f} times that at 2048²')

if __name__ == '__main__':
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('what', choices=['speed', 'overhead', 'agree', 'memory', 'child'])
    args.add_argument('--side', type=int, help='pixels; by default 768, 2048 and 1280')
    args.add_argument('--rounds', type=int, default=2, help='of what is timed')
    args.add_argument('--folder', help='to work in')
    o = args.parse_args()
    torch.set_num_threads(1)
    side = o.side or dict(speed=768, overhead=2048, agree=1280).get(o.what)
    if o.what == 'child': child(side, o.folder)
    else:
        with tempfile.TemporaryDirectory(dir=o.folder) as tmp: globals()[o.what](Path(tmp), side, o.rounds)
