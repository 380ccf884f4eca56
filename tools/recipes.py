"""Which recipe wins: every recipe trains for the same processor time, in one thread, on built-in land, on CamVid and on
satellite tiles of Dubai; then a segmenter that learned from real pictures looks at what it draws. Each network is kept;
a study that was stopped goes on where it was.

python tools/recipes.py --out runs/recipes --minutes 2 --seeds 3         # train and judge: recipes.csv
python tools/recipes.py --out runs/recipes --minutes .67 --only official "frozen + Lite0"   # with a third of it
python tools/recipes.py --out runs/recipes --report nbs/course/more      # table, and a picture of the built-in land"""
import shutil, time
from functools import partial
from itertools import islice
from pathlib import Path
import numpy as np, torch
from fastai.vision.all import FuncSplitter, Image, set_seed
from spade_fastai.all import *
from spade_fastai.core import plain
from spade_fastai.metrics import diversity, drawn_pairs, fit_segmenter, judged, likeness, obey
from spade_fastai.spaces import lite0_space
from spade_fastai.nets.frozen import FrozenCritic
from study import ProcessorMinutes, append, as_bytes, begin, held_back, options, rows, strip

hinge = presets.tiny_hinge
lite = dict(vgg=partial(FeatureLoss, lite0))
frozen = {**tiny_oasis, 'critic_class': FrozenCritic, 'critic': dict(nf=8)}
field = dict(preset=frozen, generator=hinge['generator'])           # the same generator, the frozen critic
RECIPES = {
    'official':           dict(preset=hinge),                       # hinge and feature matching; VGG is not at hand
    'official, EMA':      dict(preset=hinge, cbs=EMA),
    'from landcover':     dict(preset=hinge, cbs=EMA, start='landcover'),   # the network that the package brings
    '+ DiffAugment':      dict(preset=hinge, cbs=EMA, augment=DiffAugment),
    '+ Lite0 loss':       dict(preset=hinge, cbs=EMA, gen_loss=lite, weights=dict(feat=10, vgg=1)),
    'OASIS':              dict(preset=tiny_oasis),
    'OASIS, bent masks':  dict(preset=tiny_oasis, cbs=WarpMasks),
    'frozen':             dict(preset=frozen),
    'frozen, tiny':       field,
    'frozen + Lite0':     dict(field, gen_loss=lite, weights=dict(vgg=1)),
    'frozen, bent masks': dict(field, cbs=WarpMasks),
    'frozen + diverse':   dict(field, gen_loss=dict(diverse=DiversityLoss), weights=dict(diverse=3)),
    'frozen + both':      dict(field, gen_loss=dict(lite, diverse=DiversityLoss), weights=dict(vgg=1, diverse=3)),
    'both, diverse 10':   dict(field, gen_loss=dict(lite, diverse=DiversityLoss), weights=dict(vgg=1, diverse=10)),
    'both, noise':        dict(preset=frozen, gen_loss=dict(lite, diverse=DiversityLoss),
                               weights=dict(vgg=1, diverse=3)),
    'Lite0, landcover':   dict(field, gen_loss=lite, weights=dict(vgg=1), start='landcover')}

def land(o):
    path = make_landcover(o.out/'land', n=1000, size=64)
    return SpadeDataLoaders.from_folder(path, split=FuncSplitter(held_back), size=64, bs=4, num_workers=0, device='cpu')

def camvid(o):
    kw = dict(size=(64, 96), bs=4, num_workers=0, device='cpu', ignore=11)
    folders = dict(masks=['trainannot', 'valannot'], images=['train', 'val'])
    return SpadeDataLoaders.from_folder(o.data/'camvid', **folders, **kw)

def dubai(o):
    "Windows of 256 pixels, drawn at 64; parts 5 and 9 of each area are held back"
    path, source = o.out/'dubai', o.data/'landcover'
    if not path.exists(): cut(source, path)
    codes = (source/'codes.txt').read_text().split()[:5]
    kw = dict(size=64, bs=4, num_workers=0, device='cpu', ignore=255, codes=codes)
    return SpadeDataLoaders.from_folder(path, **kw)

def cut(source, path, side:int=256, small:int=64):
    "The tiles of Dubai as windows of ids and pictures"
    table = [line.split(',') for line in (source/'class_dict.csv').read_text().splitlines()[1:]]
    colours = {tuple(map(int, row[-3:])): i for i, row in enumerate(table)}
    new = path.with_suffix('.new')
    for line in (source/'split.csv').read_text().splitlines()[1:]:
        image, mask, split, *_ = line.split(',')
        if split == 'exclude': continue
        picture, colour = (Image.open(source/k/f).convert('RGB') for k, f in (('images', image), ('masks', mask)))
        ids, rgb = np.full(picture.size[::-1], 255, np.uint8), np.array(colour)
        for c, i in colours.items(): ids[(rgb == c).all(-1)] = i if i < 5 else 255
        for y in range(0, ids.shape[0] - side + 1, side):
            for x in range(0, ids.shape[1] - side + 1, side):
                box, name = (x, y, x + side, y + side), f'{Path(image).stem}_{y}_{x}.png'
                part = 'train' if split == 'train' else 'valid'
                for kind, im, how in (('images', picture, Image.BOX), ('labels', Image.fromarray(ids), Image.NEAREST)):
                    (new/kind/part).mkdir(parents=True, exist_ok=True)
                    im.crop(box).resize((small, small), how).save(new/kind/part/name)
    new.rename(path)

# classes of Dubai in the built-in land
SAME = dict(building='Structures', road='Roads', vegetation='Tree canopy', land_unpaved='Barren')

DATA = dict(land=land, dubai=dubai, camvid=camvid)

made_already = {}

def loaders(name, o):
    if name not in made_already: made_already[name] = DATA[name](o)
    return made_already[name]

def segmenter(name, learn, o):
    "The judge of a data set, trained once on its real pictures"
    file = o.out/f'{name}_segmenter.pt'
    if file.exists(): return torch.load(file, weights_only=False).eval()
    masks, real, _ = drawn_pairs(learn, learn.dls.train, 800, 0)
    net = fit_segmenter(real, masks, learn.model.generator.n_classes, seed=0)
    torch.save(net, file)
    return net

def train(data, name, seed, o) -> dict:
    "Train one, keep it, judge it: a row of the table"
    set_seed(seed)
    args, clock = dict(RECIPES[name]), ProcessorMinutes(o.minutes)
    start = args.pop('start', None)
    args |= {k: args[k]() for k in ('cbs', 'augment') if k in args}              # classes, made anew for each
    learn = spade_learner(loaders(data, o), **args, sample_grid=None)
    if start: start_from(learn, start, same={k: v for k, v in SAME.items() if k in learn.dls.reader.codes})
    with learn.no_bar(), learn.no_logging(): learn.fit(10000, cbs=clock)
    torch.save(learn.model.generator.state_dict(), kept(data, name, seed, o))
    return dict(data=data, recipe=name, seed=seed, minutes=o.minutes, batches=clock.batches,
                **judge(data, learn, seed, o))

def kept(data, name, seed, o): return o.out/f'{data}-{[*RECIPES].index(name)}-{seed}-{o.minutes:g}.pt'

def judge(data, learn, seed, o) -> dict:
    "obey (mIoU of the judge on fakes, on reals, their ratio), KID beside its floor, and diversity"
    masks, real, fake = drawn_pairs(learn, learn.dls.valid, 200, seed)
    _, _, other = drawn_pairs(learn, learn.dls.valid, 200, seed + 1)
    said = obey(segmenter(data, learn, o), masks, real, fake, learn.model.generator.n_classes)
    reals, fakes, others = (lite0_space()(x) for x in (real, fake, other))
    like = likeness(reals, fakes)
    far = diversity(fakes, others)/float((reals[:-1] - reals[1:]).norm(dim=1).mean())
    res = dict(miou_fake=said['fake'], miou_real=said['real'], obey=said['ratio'], kid=like['kid'],
               kid_floor=like['kid_floor'], diversity=far)
    return {k: round(float(v), 4) for k, v in res.items()}

def run(o):
    "Every row that is not yet in the table, a seed at a time"
    table = o.out/'recipes.csv'
    done = {(r['data'], r['recipe'], int(r['seed']), float(r['minutes'])) for r in rows(table)}
    todo = [(d, r, s) for s in range(o.seeds) for d in o.sets or DATA for r in o.only or RECIPES]
    for one in todo:
        if (*one, o.minutes) not in done: append(table, train(*one, o))

def report(o, n:int=6):
    "The table, and held-back tiles of built-in land by every recipe that was trained on it"
    shutil.copy(o.out/'recipes.csv', o.report/'recipes.csv')
    dls = land(o)
    mask, real = dls.valid.one_batch()
    masks, reals = mask[:n], as_bytes(real, n)
    columns = {'mask': [dls.palette.paint(m) for m in masks], 'real': reals}
    for name in RECIPES:
        if not kept('land', name, 0, o).exists(): continue
        args = {k: v for k, v in RECIPES[name].items() if k in ('preset', 'generator')}
        gen = spade_learner(dls, **args, sample_grid=None).model.generator.eval()
        gen.load_state_dict(torch.load(kept('land', name, 0, o), weights_only=True))
        set_seed(0)
        with torch.no_grad(): columns[name.replace(', ', ',\n')] = as_bytes(gen(masks), n)
    strip(columns, o.report.parents[1]/'images'/'recipes.jpg')

def eyes(o, n:int=120, every:int=30):
    "How soon a critic on frozen features names the classes of real pictures, and one from nothing: mIoU and seconds"
    for data in o.sets or DATA:
        dls, kw = loaders(data, o), dict(nf=8)
        critics = {'from nothing': partial(SegmentationCritic, mults=(2, 4, 8, 8), **kw),
                   'frozen eyes': partial(FrozenCritic, **kw),
                   'frozen eyes, zoom=2': partial(FrozenCritic, zoom=2, **kw)}
        for name, make in critics.items():
            set_seed(0)
            print(data, name, lessons(make(dls.n_classes), dls, n, every), flush=True)

class Named(torch.nn.Module):
    "A critic as a segmenter: the logits of the classes"
    def __init__(self, critic): super().__init__(); self.critic = critic
    def forward(self, x): return self.critic(x)[0][-1][:, 1:]

def lessons(critic, dls, n, every) -> list:
    "(mIoU, seconds) before, and after each `every` of `n` batches"
    opt, batches = torch.optim.Adam(critic.parameters(), 2e-3, (0., .99)), (b for _ in range(n) for b in dls.train)
    held, spent, out = list(zip(*((plain(a), plain(b)) for a, b in islice(dls.valid, 40)), strict=True)), 0, []
    named = Named(critic)
    for i in range(n + 1):
        if i % every == 0:
            right = judged(named, torch.cat(held[1]), torch.cat(held[0]), dls.n_classes)
            out.append((round(right.miou, 3), round(spent, 1)))
        begin, (mask, picture) = time.process_time(), map(plain, next(batches))
        SegmentationLoss().crit_real(critic(picture), mask).backward()
        opt.step(); opt.zero_grad()
        spent += time.process_time() - begin
    return out

if __name__ == '__main__':
    p = options(__doc__, 'runs/recipes', 3, seeds=3)
    p.add_argument('--data', type=Path, help='folder with camvid/ and landcover/')
    p.add_argument('--sets', nargs='*', choices=list(DATA))
    p.add_argument('--only', nargs='*', choices=list(RECIPES))
    p.add_argument('--eyes', action='store_true', help='train critics alone, on real pictures')
    p.add_argument('--report', type=Path, help='write table and picture into this folder; nothing is trained')
    o = begin(p)
    eyes(o) if o.eyes else report(o) if o.report else run(o)
