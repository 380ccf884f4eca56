"""Trains the network that the package brings: built-in land, tiny's generator, the critic on frozen features and
Lite0's loss; first at 64 pixels, then at 128. After each stage held-back tiles are drawn and judged; a run that was
stopped goes on after its last stage. The table in the card says when it stopped getting better.

python tools/ship.py --out runs/ship --minutes 10 --stages 9      # ten minutes of processor time each
python tools/ship.py --out runs/ship --ship                       # the best stage into the package"""
from functools import partial
from fastai.vision.all import FuncSplitter, set_seed
import spade_fastai
from spade_fastai.all import *
from recipes import judge
from study import ProcessorMinutes, append, as_bytes, begin, held_back, options, rows, strip

class Steady(ProcessorMinutes):
    "The learning rate stays: the average of the weights is what is kept"
    def before_batch(self): pass

def land(o, size:int):
    path = o.out/'land'
    if not path.exists(): make_landcover(path, n=3000, size=128)
    split = FuncSplitter(held_back)
    return SpadeDataLoaders.from_folder(path, split=split, size=size, bs=4, num_workers=0, device='cpu')

def learner(dls):
    lite = dict(vgg=partial(FeatureLoss, lite0))
    return spade_learner(dls, preset=presets.tiny_frozen, gen_loss=lite, weights=dict(vgg=1), sample_grid=None)

def train(o):
    "The stages that are not in the table yet"
    table = o.out/'ship.csv'
    done = len(rows(table))
    set_seed(o.seed + done)
    for stage in range(done, o.stages):
        size = 64 if stage < o.small else 128
        dls = land(o, size)
        if stage == done:
            learn = learner(dls)
            learn.path = o.out
            if done: learn.load('last')
        learn.dls, clock = dls, Steady(o.minutes)
        with learn.no_bar(), learn.no_logging(): learn.fit(10000, cbs=clock)
        learn.save('last')
        learn.save_spade(o.out/f'stage{stage}.safetensors')
        learn.dls = land(o, 128)
        append(table, dict(stage=stage, size=size, minutes=o.minutes*(stage + 1), batches=clock.batches,
                           **judge('land', learn, o.seed, o)))
        look(learn, o.out/f'stage{stage}.jpg')

def look(learn, file, n:int=5):
    "Held-back tiles: mask, real, and two drawings"
    masks, reals = learn.dls.valid.one_batch()
    more = [learn.model.generator.eval()(masks) for _ in range(2)]
    columns = {'mask': [learn.dls.palette.paint(m) for m in masks[:n]], 'real': as_bytes(reals, n)}
    strip(columns | {f'seed {i}': as_bytes(o.detach(), n) for i, o in enumerate(more)}, file, 1.6)

CARD = """# landcover

A network that draws land as `landcover_tile` invents it: thirteen classes, about a metre to a pixel. It is there to
paint with, and to begin with; it has never seen a real place, and shows none.

- **Network**: the generator of the preset `tiny` ({params} numbers, half precision); trained with the critic and loss
  of `tiny_frozen` and Lite0's feature loss, Adam, average of the weights.
- **Data**: 3000 tiles of `make_landcover(n=3000, size=128)`, seed 42; every fifth is held back. The tiles are computed,
  so nobody's rights are in them.
- **Made by** `python tools/ship.py --minutes {minutes} --stages {stages} --seed {seed}`, stage {best} of these, one
  thread of a processor of 2026; spade_fastai {version}.
- **Licence**: Apache-2.0, as the library. What it draws is synthetic; pictures that the library writes say so.

Held-back tiles of 128 pixels. *mIoU* is that of a segmenter trained on real tiles, on drawn ones; on real ones it has
{real}. *KID* in EfficientNet-Lite0's features, of the {n} real and drawn; two halves of the real ones have {floor}.
*Diversity* is the feature distance of two drawings of one mask over that of two real tiles.

| stage | pixels | processor minutes | batches | mIoU | KID | diversity |
|--:|--:|--:|--:|--:|--:|--:|
{table}
"""

def ship(o):
    "The stage of the lowest KID, lean, with its card"
    table, folder = rows(o.out/'ship.csv'), Path(spade_fastai.__file__).parent/'networks'
    best = min(table, key=lambda r: float(r['kid']))
    file = o.out/f"stage{best['stage']}.safetensors"
    gan, reader = load_gan(file), load_spade(file).reader
    save_spade(gan, folder/'landcover.safetensors', reader, lean=True)
    cells = 'stage', 'size', 'minutes', 'batches', 'miou_fake', 'kid', 'diversity'
    lines = ['| ' + ' | '.join(r[k] for k in cells) + ' |' for r in table]
    card = CARD.format(params=sum(p.numel() for p in gan.generator.parameters()), minutes=o.minutes, best=best['stage'],
                       stages=o.stages, seed=o.seed, version=spade_fastai.__version__, real=best['miou_real'],
                       floor=best['kid_floor'], n=200, table='\n'.join(lines))
    (folder/'landcover.md').write_text(card, encoding='utf-8')

if __name__ == '__main__':
    p = options(__doc__, 'runs/ship', 10, seed=0, stages=9, small=2)
    p.add_argument('--ship', action='store_true')
    o = begin(p)
    ship(o) if o.ship else train(o)
