"""One region's style changed: what changes inside the region, and what outside? SEAN, a style for each class, against
SPADE with one style a picture, on land whose roofs are red, grey or blue and whose fields are green or yellow. Each
trains for the same processor time in one thread. A run that was stopped goes on with the network that it had begun.

python tools/regions.py --out runs/regions --minutes 5                    # train
python tools/regions.py --out runs/regions --report nbs/lib/nets          # sean_regions.csv and .jpg there"""
import csv
from functools import partial
from pathlib import Path
import numpy as np, torch
from torch.nn import functional as F
from fastai.vision.all import FuncSplitter, Image, noop, set_seed
from spade_fastai.all import *
from spade_fastai.noise import noise_from
from study import ProcessorMinutes, begin, held_back, options

ROOF, FIELD = 'Structures', 'Low vegetation'
SEAMS = 0, 2, 4, 8                                     # pixels around the roofs that are not counted

def nets(n_ids) -> dict:
    "Arguments of `spade_learner` by name"
    norm = partial(SEAN, hidden=16, nz=16)
    return {'one style a class': dict(generator=dict(norm=norm, start=MapStart), encoder=RegionEncoder(n_ids, 8, 16)),
            'one style a picture': dict(encoder={})}

def learner(name, dls, seed=0):
    set_seed(seed)
    return spade_learner(dls, presets.tiny_hinge, sample_grid=None, cbs=EMA(), **nets(dls.n_classes)[name])

def train(name, dls, o) -> Path:
    "Train one, if it is not there"
    file = o.out/f"{name.replace(' ', '_')}.safetensors"
    if file.exists(): return file
    learn, clock = learner(name, dls), ProcessorMinutes(o.minutes)
    with learn.no_bar(): learn.fit(1000, cbs=clock)
    print(name, clock.batches, 'batches', flush=True)
    return learn.save_spade(file, batches=clock.batches)

# What tiles look like

def tile(land, i) -> tuple:
    "ids [H,W] and picture [3,H,W] in [-1,1] of tile `i`"
    read = lambda d: torch.from_numpy(np.array(Image.open(land/d/f'{i:06d}.png')))
    return read('labels').long(), read('images').movedim(-1, 0)/127.5 - 1

def look(picture, there, tints) -> int:
    "Which of `tints` the pixels `there` have"
    mean = (picture[:, there].mean(1) + 1)*127.5
    return int((torch.tensor(tints) - mean).square().sum(1).argmin())

def couples(land, tiles, codes) -> list:
    "(tile, one with other roofs and like fields, one with both other), of tiles that show enough of both"
    known = {}
    for i in tiles:
        ids, picture = tile(land, i)
        where = [ids == codes.index(o) for o in (ROOF, FIELD)]
        if min(int(o.sum()) for o in where) < 60: continue
        known[i] = tuple(look(picture, o, TINTS[c]) for o, c in zip(where, (ROOF, FIELD), strict=True))
    def other(i, alike):
        later = [*(j for j in known if j > i), *(j for j in known if j < i)]
        return next((j for j in later if known[j][0] != known[i][0] and (known[j][1] == known[i][1]) == alike), None)
    return [c for i in known if None not in (c := (i, other(i, True), other(i, False)))]

def one_of_each(land, found, codes) -> list:
    "Of couples the first for each change of roofs, such as from red to blue"
    roof = codes.index(ROOF)
    def looks(i): return look((o := tile(land, i))[1], o[0] == roof, TINTS[ROOF])
    first = {}
    for c in found: first.setdefault((looks(c[0]), looks(c[1])), c)
    return [first[k] for k in sorted(first)]

# What a change of style changes

def beyond(there, seam:int):
    "Pixels at least `seam` pixels off the region `there`, [H,W] bool"
    grown = F.max_pool2d(there[None, None].float(), 2*seam + 1, 1, seam)[0, 0] > 0
    return ~grown

def drawn(net, ids, z, seed=0):
    "[3,H,W] in grey levels; the same noise each time"
    with torch.no_grad(), noise_from(torch.Generator().manual_seed(seed)): pic = net.generator(ids[None], z)[0]
    return (pic + 1)*127.5

def codes_of(net, ids, picture):
    "What the encoder reads, its mean where a class is not there"
    with torch.no_grad(): z, _ = net.encoder(picture[None], net.generator.encode(ids))
    return net.encoder.complete(z) if hasattr(net.encoder, 'complete') else z

def two_draws(net, land, i, j, roof:int) -> tuple:
    "Tile `i` in its own style, and with the roofs of tile `j`, or in the style of `j` where there is one a picture"
    (ids, picture), z_j = tile(land, i), codes_of(net, *tile(land, j))
    z = codes_of(net, ids, picture)
    if z.ndim == 3: z_j = torch.where(torch.arange(z.shape[1])[:, None] == roof, z_j, z)
    return drawn(net, ids, z), drawn(net, ids, z_j)

def measured(net, land, i, j, roof:int) -> dict:
    "Mean change in grey levels, inside and outside; how far the roofs' mean colour is from those of `j`"
    (ids, _), (ids_j, picture_j) = tile(land, i), tile(land, j)
    a, b = two_draws(net, land, i, j, roof)
    change, there = (b - a).abs().mean(0), ids == roof
    want = (picture_j[:, ids_j == roof].mean(1) + 1)*127.5
    off = {name: float((o[:, there].mean(1) - want).abs().mean()) for name, o in (('before', a), ('after', b))}
    outside = {f'outside_{s}': float(change[beyond(there, s)].mean()) for s in SEAMS}
    return dict(roofs=float(there.float().mean()), inside=float(change[there].mean()), **outside, **off)

def measure(files, land, tiles, codes) -> list[dict]:
    rows = []
    for name, file in files.items():
        net = load_gan(file).eval()
        for i, *others in couples(land, tiles, codes):
            for fields, j in zip(('alike', 'other'), others, strict=True):
                row = {k: round(v, 3) for k, v in measured(net, land, i, j, codes.index(ROOF)).items()}
                rows.append(dict(style=name, tile=i, other=j, fields=fields, **row))
    return rows

# The chapter's files

def strip(files, land, some, codes):
    "For each of a few tiles: mask, itself, the one whose roofs it gets; for each network before, after and the change"
    lines = []
    grey = lambda x: x.clamp(0, 255).byte().movedim(0, -1).numpy()
    own = lambda x: grey((x + 1)*127.5)
    for i, j, _ in some:
        (ids, picture), (_, other) = tile(land, i), tile(land, j)
        line = [np.asarray(Palette(codes).paint(ids)), own(picture), own(other)]
        for file in files.values():
            a, b = two_draws(load_gan(file).eval(), land, i, j, codes.index(ROOF))
            line += [grey(a), grey(b), grey(((b - a).abs().mean(0)*3).expand(3, -1, -1))]
        lines.append(np.concatenate([np.pad(o, ((1, 1), (1, 1), (0, 0)), constant_values=255) for o in line], 1))
    im = Image.fromarray(np.concatenate(lines))
    return im.resize((im.width*3//2, im.height*3//2), Image.NEAREST)

def report(files, land, tiles, codes, folder):
    rows = measure(files, land, tiles, codes)
    with (folder/'sean_regions.csv').open('w', newline='') as f:
        writer = csv.DictWriter(f, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    some = one_of_each(land, couples(land, tiles, codes), codes)
    strip(files, land, some, codes).save(folder/'sean_regions.jpg', quality=74)
    for name in files:
        for fields in ('alike', 'other'):
            mine = [r for r in rows if (r['style'], r['fields']) == (name, fields)]
            mean = {k: round(float(np.mean([r[k] for r in mine])), 3) for k in list(mine[0])[4:]}
            print(name, fields, len(mine), mean)

if __name__ == '__main__':
    p = options(__doc__, 'runs/regions', 5, tiles=600, size=64)
    p.add_argument('--only', type=int, help='train one network, 0 or 1')
    p.add_argument('--report', type=Path, help='folder for sean_regions.csv and sean_regions.png')
    o = begin(p)
    land = make_landcover(o.out/'land', n=o.tiles, size=o.size, tints=TINTS)
    dls = SpadeDataLoaders.from_folder(land, split=FuncSplitter(held_back), size=o.size, style=noop, bs=4, device='cpu')
    names = [*nets(dls.n_classes)]
    files = {name: train(name, dls, o) for n, name in enumerate(names) if o.only in (None, n)}
    if o.report: report(files, land, [i for i in range(o.tiles) if i % 5 == 0], list(dls.codes), o.report)
