"""Masks for photographs: a U-Net learns on the tenth of the built-in land that somebody labelled, labels the rest, and
SPADE learns from its masks; beside it SPADE on true masks, and on the tenth alone. Each has the same processor time, in
one thread, from the same seeds, and is judged on the same held-back tiles. A run that was stopped goes on where it was.

python tools/reverse_mapping.py --out runs/reverse                             # train and judge: reverse.csv
python tools/reverse_mapping.py --out runs/reverse --report nbs/course/more  # the table and the pictures of the page"""
import shutil, time
from pathlib import Path
import numpy as np, torch
from fastai.vision.all import (DataBlock, FuncSplitter, Image, ImageBlock, MaskBlock, aug_transforms, set_seed,
    unet_learner)
from torchvision.models.resnet import BasicBlock, ResNet
from spade_fastai.all import *
from spade_fastai.data.segmented import masks_from
from study import ProcessorMinutes, append, as_bytes, begin, held_back, options, rows, strip

def by_hand(file) -> bool: return int(file.stem) % 10 == 1                      # 100 of 1000: somebody labelled these
def photo(file) -> bool: return not held_back(file) and not by_hand(file)       # 700: pictures without masks
KINDS = 'true masks', "the network's, sure", "the network's, all", 'the tenth alone'

def small_resnet(pretrained=False) -> ResNet: return ResNet(BasicBlock, [1, 1, 1, 1])

def segmenter(land, o):
    "A `unet_learner` on the labelled tenth, trained once and then loaded; nothing in it was trained before"
    codes = (land/'codes.txt').read_text().splitlines()
    files = lambda path: [f for f in sorted((path/'images').iterdir()) if not photo(f)]
    block = DataBlock((ImageBlock, MaskBlock(codes)), get_items=files, splitter=FuncSplitter(held_back),
                      get_y=lambda f: land/'labels'/f.name,
                      batch_tfms=aug_transforms(flip_vert=True, max_rotate=0, max_zoom=1, max_warp=0))
    set_seed(0)
    dls = block.dataloaders(land, bs=8, num_workers=0, device='cpu')
    learn = unet_learner(dls, small_resnet, pretrained=False, normalize=False, n_out=len(codes), path=o.out)
    if (o.out/'models/unet.pth').exists(): return learn.load('unet')
    begin = time.process_time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(o.epochs, 1e-3)
    print(f'the U-Net took {(time.process_time() - begin)/60:.1f} minutes of the processor')
    learn.save('unet')
    return learn

def labelled(land, o) -> dict:
    "Mask files to train on, by kind"
    files = sorted((land/'images').iterdir())
    photos, hand = [f for f in files if photo(f)], labelled_by_hand(land)
    learn, made = segmenter(land, o), {}
    for kind, sure in {KINDS[1]: o.confidence, KINDS[2]: 0.}.items():
        folder = masks_from(learn, photos, o.out/f'masks_{sure:.2f}', confidence=sure)
        made[kind] = sorted((folder/'labels').iterdir())
    return {KINDS[0]: hand + [land/'labels'/f.name for f in photos], **{k: hand + v for k, v in made.items()},
            KINDS[3]: hand}

def ids_of(files): return np.stack([np.array(Image.open(f)) for f in files])        # pictures, too

def labelled_by_hand(land) -> list: return [f for f in sorted((land/'labels').iterdir()) if by_hand(f)]

def quality(land, masks) -> dict:
    "Share of the pixels of the photographs that have a class, and of these those that have the right one"
    mine = [f for f in masks if photo(f)]
    if not mine: return dict(known=0., right=0.)
    said, true = ids_of(mine), ids_of([land/'labels'/f.name for f in mine])
    return dict(known=round(float((said != 255).mean()), 4), right=round(float((said == true)[said != 255].mean()), 4))

def loaders(land, masks, o):
    "Batches of four of these masks and their pictures; the held-back tiles are the same for all"
    valid = [f for f in sorted((land/'labels').iterdir()) if held_back(f)]
    return SpadeDataLoaders.from_label_func(land, masks + valid, lambda m: land/'images'/m.name, ignore=255,
        split=FuncSplitter(held_back), size=64, bs=4, num_workers=0, device='cpu')

def train(kind, seed, land, masks, judge, o) -> dict:
    "SPADE on masks of one kind: a row of the table"
    set_seed(seed)
    dls, clock = loaders(land, masks, o), ProcessorMinutes(o.minutes)
    learn = spade_learner(dls, presets.tiny_hinge, sample_grid=None, cbs=EMA())
    with learn.no_bar(), learn.no_logging(): learn.fit(10000, cbs=clock)
    learn.save_spade(o.out/f'{KINDS.index(kind)}-{seed}.safetensors')
    set_seed(seed)
    scores = {k: round(v, 4) for k, v in colour_accuracy(learn, judge).items()}
    l1 = round(float(learn.validate()[0]), 4)
    return dict(masks=kind, seed=seed, tiles=len(masks), **quality(land, masks), batches=clock.batches, **scores, l1=l1)

def run(o):
    "Every row that is not yet in the table, a seed at a time"
    land, table = make_landcover(o.out/'land', n=o.tiles, size=64), o.out/'reverse.csv'
    masks = labelled(land, o)
    for k, v in masks.items(): print(k, len(v), quality(land, v), flush=True)
    judge = ColourClassifier.fit(loaders(land, masks[KINDS[0]], o).train, 13)
    done = {(r['masks'], int(r['seed'])) for r in rows(table)}
    for seed in range(o.seeds):
        for kind in KINDS:
            if (kind, seed) in done: continue
            append(table, train(kind, seed, land, masks[kind], judge, o))

def report(o, n:int=4):
    "The table, and one picture: what the segmenter said of photographs, and held-back tiles as each network draws them"
    shutil.copy(o.out/'reverse.csv', o.report/'reverse.csv')
    land, palette = o.out/'land', Palette(LANDCOVER_CODES)
    photos = [f for f in sorted((land/'images').iterdir()) if photo(f)][:n]
    paint = lambda folder: [palette.paint(torch.from_numpy(m.astype(int))) for m in
                            ids_of(folder/'labels'/f.name for f in photos)]
    columns = {'photograph': ids_of(photos), 'true mask': paint(land)}
    columns['its mask'] = paint(o.out/f'masks_{o.confidence:.2f}')
    *xb, real = loaders(land, labelled_by_hand(land), o).valid.one_batch()
    columns |= {'mask': [palette.paint(m) for m in xb[0][:n]], 'real': as_bytes(real)}
    for i, kind in enumerate(KINDS):
        gan = load_gan(o.out/f'{i}-0.safetensors').eval()
        set_seed(0)
        with torch.no_grad(): columns[kind.replace(', ', ',\n')] = as_bytes(gan(*xb))
    strip(columns, o.report.parents[1]/'images'/'reverse.jpg', side=.95)

if __name__ == '__main__':
    p = options(__doc__, 'runs/reverse', 2, seeds=3, tiles=1000)
    p.add_argument('--epochs', type=int, default=30, help='of the U-Net')
    p.add_argument('--report', type=Path, help='write table and pictures of what is trained into this folder')
    p.add_argument('--confidence', type=float, default=.8, help='below which a pixel has no class')
    o = begin(p)
    report(o) if o.report else run(o)
