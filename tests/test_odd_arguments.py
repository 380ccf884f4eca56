"Arguments that make no sense, of the learner and of what it is made of: each is named, with its value, before training"
import warnings
from functools import partial
from pathlib import Path
import numpy as np
import pytest, torch
from torch import nn
from spade_fastai.core import ClassEmbed, OneHot, instance_edges
from spade_fastai.palette import Palette
from spade_fastai.data.areas import BlockSplit
from spade_fastai.data.block import aerial_tfms
from spade_fastai.data.chips import AtRandom, OnGrid
from spade_fastai.data.classes import read_codes
from spade_fastai.data.images import ImageReader, open_image
from spade_fastai.data.masks import open_mask
from spade_fastai.data.splits import by_files, by_func, random_split
from spade_fastai.saving import load_spade
from spade_fastai.train.callbacks import SampleGrid
from spade_fastai.train.ema import EMA, ramp_up
from spade_fastai.train.memory import Accumulate
from spade_fastai.train.oasis import LabelMix
from spade_fastai.train.penalties import R1, WGANGP
from spade_fastai.train.resume import Checkpoint
import spade_fastai.train.schedule  # noqa: F401
from spade_fastai.data.landcover import TINTS, landcover_tile, make_landcover
from spade_fastai.data.layouts import find_layout
from spade_fastai.data.pairs import pair_by_stem
from spade_fastai.data.raster import Raster, Scale
from spade_fastai.data.items import SpadeDataLoaders
from spade_fastai.data.readers import MapReader, MaskReader
from spade_fastai.data.check.report import check_masks
from spade_fastai.drawing import generate, interpolate, show_styles
from spade_fastai.learner import spade_learner
from spade_fastai.nets.clade import CLADE, CLADEICPE
from spade_fastai.nets.concat import ConcatNorm
from spade_fastai.nets.encoder import reparameterize
from spade_fastai.nets.inade import INADE
from spade_fastai.nets.multi import MultiSPADE
from spade_fastai.nets.pix2pix import DownStart
from spade_fastai.nets.sean import SEAN
from spade_fastai.nets.starts import MapNoiseStart, MapStart, NoiseStart
from spade_fastai.train.switchers import AdaptiveGANSwitcher, FixedGANSwitcher
from spade_fastai.apps.singan import InTurn
from spade_fastai.nets.norms import CBN, SPADE
from spade_fastai.official import load_official, save_official
from spade_fastai.nets.generator import SPADEGenerator

TOY = dict(generator=dict(nf=4, mults=(4, 2, 1), ups=(1, 1), norm=partial(SPADE, hidden=8)),
           critic=dict(nf=4, n_layers=2), gen_loss={}, weights=dict(feat=10), lr=1e-3)

@pytest.fixture(scope='module')
def dls(tmp_path_factory):
    land = make_landcover(tmp_path_factory.mktemp('data')/'land', n=12, size=32)
    return SpadeDataLoaders.from_folder(land, size=32, bs=2, num_workers=0, device='cpu')

def gen(**kwargs): return dict(generator=kwargs)
def preset(**kwargs): return dict(preset={**TOY, **kwargs})
def shorter(key): return dict(preset={k: v for k, v in TOY.items() if k != key})

NORM, WHOLE, AMOUNT = 'no generator can be built with', 'must be a whole number', 'must be a finite number, 0 or more'

@pytest.mark.odd
@pytest.mark.parametrize('args, said', [
    (gen(norm=nn.BatchNorm2d), NORM), (gen(norm=None), NORM), (gen(norm='SPADE'), NORM),
    (gen(norm=SPADE(4, OneHot(3))), NORM), (gen(norm=[]), '0 norms for 2 blocks'), (gen(start='map'), NORM),
    (gen(encode=3), NORM), (gen(up=None), NORM), (gen(widths=3), "unexpected keyword argument 'widths'"),
    (gen(nf=None), f'nf=None {WHOLE}'), (gen(nf='8'), f"nf='8' {WHOLE}"), (gen(nf=.5), f'nf=0.5 {WHOLE}'),
    (gen(nf=-1), f'nf=-1 {WHOLE}'), (gen(nf=True), f'nf=True {WHOLE}'), (gen(ups=None), 'ups=None must be a list'),
    (gen(ups=2), 'ups=2 must be a list'), (gen(mults='421'), "mults='421' must be a list"), (gen(ups=(-1, 1)), WHOLE),
    (dict(generator=3), 'generator=3 is neither a network'),
    (dict(critic='patch'), "critic='patch' is neither a network"),
    (dict(critic=nn.Linear), 'is neither a network'), (dict(encoder='vae'), "encoder='vae' is neither a network"),
    (dict(critic=dict(nf='8')), f"nf='8' {WHOLE}"), (dict(critic=dict(depth=3)), 'no critic can be built with'),
    (dict(gen_loss='hinge'), "gen_loss='hinge' is neither a loss"),
    (dict(gen_loss=[1]), 'gen_loss=[1] is neither a loss'),
    (dict(crit_loss='hinge'), "crit_loss='hinge' cannot be called"),
    (dict(crit_loss=1), 'crit_loss=1 cannot be called'),
    (dict(weights=[10]), 'weights=[10] must be a dict'), (dict(weights=dict(feat=-1)), f"weights['feat']=-1 {AMOUNT}"),
    (dict(weights=dict(feat=float('nan'))), f"weights['feat']=nan {AMOUNT}"), (dict(weights=dict(feat='1')), AMOUNT),
    (dict(weights=dict(feat=None)), AMOUNT), (dict(weights=dict(feat=True)), AMOUNT),
    (dict(weights=dict(gan=float('inf'))), f"weights['gan']=inf {AMOUNT}"),
    (dict(weights=dict(feats=1)), '`weights` names feats'),
    (dict(preset='tiny'), "a preset is a dict, such as `tiny`, not 'tiny'"),
    (preset(start=3), "a preset has no 'start'"),
    (preset(critic=None), 'critic=None of the preset must be a dict'),
    (preset(gen_loss='vgg'), "gen_loss='vgg' of the"),
    (preset(encoder=3), 'encoder=3 of the preset must be a dict'), (preset(weights=[]), 'weights=[] of the preset'),
    *((shorter(k), f'the preset has no {k}') for k in TOY)])
def test_of_the_learner(dls, args, said):
    with pytest.raises(ValueError) as e: spade_learner(dls, **{**dict(preset=TOY, sample_grid=None), **args})
    assert said in str(e.value)

@pytest.mark.odd
@pytest.mark.parametrize('args, said', [
    ((1, -1.), f'lr=-1.0 {AMOUNT}'), ((1, '1e-3'), f"lr='1e-3' {AMOUNT}"), ((1, float('nan')), f'lr=nan {AMOUNT}'),
    ((1, float('inf')), f'lr=inf {AMOUNT}'), ((1, slice(1e-4, -1e-3)), f'lr=-0.001 {AMOUNT}'),
    ((1, [1e-3, None]), AMOUNT),
    ((-1,), f'n_epoch=-1 {WHOLE}'), ((1.5,), f'n_epoch=1.5 {WHOLE}'), (('2',), f"n_epoch='2' {WHOLE}"),
    ((None,), f'n_epoch=None {WHOLE}'), ((float('nan'),), f'n_epoch=nan {WHOLE}'), ((True,), f'n_epoch=True {WHOLE}')])
def test_of_a_training(dls, args, said):
    learn = spade_learner(dls, TOY, sample_grid=None)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    with pytest.raises(ValueError) as e: learn.fit(*args)
    assert said in str(e.value)
    assert all(v.equal(before[k]) for k, v in learn.model.state_dict().items())

@pytest.mark.odd
@pytest.mark.parametrize('path', [None, '', 3, b'net.pth', ['net.pth'], 'a\0b'])
def test_of_official_files(path):
    for f in (load_official, partial(save_official, SPADEGenerator(3, nf=1))):
        with pytest.raises(ValueError, match='is no path; give the name of a file'): f(path=path)

# What a network does not look at

def net(**kwargs): return SPADEGenerator(3, **{**TOY['generator'], **kwargs}).eval()
MASK = torch.tensor([[0, 1], [2, 1]]).repeat_interleave(8, 0).repeat_interleave(8, 1)
EXTRA = dict(z=torch.ones(1, 4), maps=dict(place=torch.ones(2, 16, 16)*.5), instance=MASK)

@pytest.mark.odd
@pytest.mark.parametrize('name', EXTRA)
def test_what_is_not_looked_at(name):
    with pytest.warns(UserWarning, match=f'`{name}=` changes nothing in this picture'):
        generate(net(), MASK, **{name: EXTRA[name]})

@pytest.mark.parametrize('name, make', [
    ('z', partial(net, start=partial(MapNoiseStart, nz=4))), ('maps', partial(net, norm=CLADEICPE)),
    ('instance', partial(net, encode=partial(OneHot, edges=True)))])
def test_what_is_looked_at(name, make):
    gen = make()
    with torch.no_grad():
        for p in gen.parameters(): p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for _ in range(2): generate(gen, MASK, **{name: EXTRA[name]})

# Parts that cannot be called as they will be

class Sizeless(nn.Module):
    def forward(self, cond, size, z): return z

NOT = 'but takes'
@pytest.mark.odd
@pytest.mark.parametrize('args, said', [
    (gen(norm=lambda nf, encode: nn.BatchNorm2d(nf)), ['the norm BatchNorm2d will be called with (x, cond)', NOT]),
    (gen(norm=lambda nf, encode: 'batch'), ["the norm 'batch' cannot be called"]),
    (gen(start=lambda nf, encode: nn.Linear(3, nf)), ['the start Linear will be called with (cond, size, z)']),
    (gen(start=lambda nf, encode: Sizeless()), ['the start Sizeless must have `size`']),
    (dict(critic=nn.Linear(3, 3)), ['the critic Linear will be called with (image, mask)']),
    (dict(encoder=nn.Linear(3, 3)), ['the encoder Linear will be called with (picture, cond)']),
    (dict(generator=nn.Linear(3, 3)), ['the generator Linear has no `encode`'])])
def test_of_parts_of_ones_own(dls, args, said):
    with pytest.raises(ValueError) as e: spade_learner(dls, **{**dict(preset=TOY, sample_grid=None), **args})
    assert all(o in str(e.value) for o in said)

@pytest.mark.odd
@pytest.mark.parametrize('size', [(4,), (4, 4, 4), 4, '44', (0, 4), (4., 4), (4, None)])
@pytest.mark.parametrize('start', [MapStart, MapNoiseStart, NoiseStart])
def test_of_starts(start, size):
    with pytest.raises(ValueError, match='size='): start(8, OneHot(3), size=size)

@pytest.mark.odd
@pytest.mark.parametrize('make', [partial(FixedGANSwitcher, 0), partial(FixedGANSwitcher, 1.5), partial(InTurn, '1'),
    partial(InTurn, 1, -1), partial(AdaptiveGANSwitcher, float('nan')), partial(AdaptiveGANSwitcher, None, '1')])
def test_of_turns(make):
    with pytest.raises(ValueError, match='n_crit=|n_gen=|gen_thresh=|crit_thresh='): make()

# What one reads of masks

AB, LIST = ['a', 'b'], 'must be a list of names'
@pytest.mark.odd
@pytest.mark.parametrize('args, said', [
    (dict(codes=['a', 'b', 'a']), "`codes` calls two classes 'a'"), (dict(codes=['a', 'a ']), "two classes 'a'"),
    (dict(codes=[1, '1']), "two classes '1'"), (dict(codes={'a', 'b'}), LIST), (dict(codes={0: 'a'}), LIST),
    (dict(codes=b'ab'), LIST), (dict(codes=3), LIST), (dict(codes=['a', '']), "`codes` has '' for class 1"),
    (dict(codes=['a', None]), '`codes` has None for class 1'), (dict(codes=[['a'], 'b']), "`codes` has ['a']"),
    (dict(codes=[True, False]), '`codes` has True for class 0'), (dict(codes=[]), '`codes` is empty'),
    (dict(codes=AB, table=[(0, 0, 0)]), '`table=[(0, 0, 0)]` must be a dictionary'),
    (dict(codes=AB, table={}), '`table={}` must be a dictionary'),
    (dict(codes=AB, table={(0, 0): 0}), '`table` has (0, 0): 0'),
    (dict(codes=AB, table={(0, 0, 256): 0}), '`table` has (0, 0, 256): 0'),
    (dict(codes=AB, table={(0, 0, .5): 0}), '`table` has (0, 0, 0.5): 0'),
    (dict(codes=AB, table={'#000000': 0}), "`table` has '#000000': 0"),
    (dict(codes=AB, table={(0, 0, 0): 'a'}), "`table` has (0, 0, 0): 'a'"),
    (dict(codes=AB, ids=['a', 'b']), "`ids=['a', 'b']` must be a dictionary"),
    (dict(codes=AB, ids={}), '`ids={}` must be a dictionary'), (dict(ids=3), 'say what the classes are called'),
    (dict(codes=AB, ignore='255'), "`ignore='255'` must be a whole number"),
    (dict(codes=AB, ignore=[1.5]), '`ignore=[1.5]` must be a whole number'),
    (dict(codes=AB, ignore=float('nan')), '`ignore=nan` must be a whole number'),
    (dict(codes=AB, tolerance=-1), 'tolerance=-1 must be a whole number, 0 or more'),
    (dict(codes=AB, tolerance=.5), 'tolerance=0.5 must'), (dict(codes=AB, tolerance=None), 'tolerance=None must')])
def test_of_a_mask_reader(args, said):
    with pytest.raises(ValueError) as e: MaskReader(**args)
    assert said in str(e.value)

def test_names_and_numbers_that_can_be_right():
    assert MaskReader(np.array(['a', ' b ', 3], dtype=object)).codes == ['a', 'b', '3']
    assert MaskReader(o for o in 'ab').codes == ['a', 'b']
    reader = MaskReader(AB, {(np.uint8(255), 0, 0): np.int64(1), (0, 0, 0): 0}, ignore=np.array([7.]), ids={1.: ' b '})
    assert (reader.table, reader.ignore, reader.ids) == ({(255, 0, 0): 1, (0, 0, 0): 0}, [7], {1: 1})
    assert MaskReader(ids={1: ' road', 2: 'sea'}).codes == ['road', 'sea']

# A list of masks, and one thing for each

@pytest.mark.odd
@pytest.mark.parametrize('more, said', [
    (dict(z=torch.zeros(3, 4)), '2 masks but 3 z'), (dict(style=[torch.zeros(4)]*3), '2 masks but 3 `style`'),
    (dict(style=[torch.zeros(4)]), '2 masks but 1 `style`'), (dict(instance=[MASK]), '2 masks but 1 `instance`'),
    (dict(instance=[MASK]*3), '2 masks but 3 `instance`'), (dict(maps=[MASK]*3), '2 masks but 3 `maps`'),
    (dict(instance=3), '2 masks but `instance` is a int')])
def test_one_for_each_mask(more, said):
    g = net(start=partial(MapNoiseStart, nz=4))
    with pytest.raises(ValueError) as e: generate(g, [MASK, MASK], **more)
    assert said in str(e.value)
    assert len(generate(g, (o for o in [MASK, MASK]), seed=1)) == 2

# Numbers, paths and functions that cannot be right, at the doors of data, networks and training

NAN = float('nan')
@pytest.mark.odd
@pytest.mark.parametrize('make, said', [
    (partial(SampleGrid, every=0), 'every=0'), (partial(SampleGrid, n='4'), "n='4'"), (partial(EMA, NAN), 'decay=nan'),
    (partial(EMA, '.9'), "decay='.9'"), (partial(EMA, n_batches=-1), 'n_batches=-1'),
    (partial(ramp_up, NAN), 'limit=nan'),
    (partial(EMA, at_least=0), 'at_least=0'), (partial(Accumulate, 1.5), 'n=1.5'), (partial(Accumulate, 0), 'n=0'),
    (partial(R1, -1), 'gamma=-1'), (partial(R1, every=0), 'every=0'), (partial(WGANGP, NAN), 'weight=nan'),
    (partial(LabelMix, '10'), "weight='10'"), (partial(Checkpoint, None), 'None is no path'),
    (partial(Checkpoint, 'x', every=0), 'every=0'), (partial(Checkpoint, 'x', keep=0), 'keep=0'),
    (partial(Checkpoint, 'x', minutes=NAN), 'minutes=nan'), (partial(AtRandom, 0), 'n=0'),
    (partial(AtRandom, step=-1), 'step=-1'),
    (partial(AtRandom, weigh=3), 'weigh=3'), (partial(OnGrid, NAN), 'overlap=nan'),
    (partial(OnGrid, '0'), "overlap='0'"),
    (partial(BlockSplit, 2), 'valid_pct=2'), (partial(BlockSplit, block=0), 'block=0'),
    (partial(BlockSplit, margin=-1), 'margin=-1'), (partial(ImageReader, bands=(1, 2)), 'bands=(1, 2)'),
    (partial(ImageReader, bands=(0, 1, 2)), 'bands=0'), (partial(ImageReader, bands='432'), "bands='432'"),
    (partial(ImageReader, percentiles=(98, 2)), 'percentiles=(98, 2)'), (partial(ImageReader, scale=3), 'scale=3'),
    (partial(ImageReader, percentiles=(2, NAN)), 'percentiles=nan'),
    (partial(ImageReader, percentiles=5), 'percentiles=5'),
    (partial(MapReader, NAN), 'scale=nan'), (partial(MapReader, '1'), "scale='1'"),
    (partial(Palette, ['a'], [[300, 0, 0]]), 'from 0 to 255'), (partial(Palette, ['a'], [[-1, 0, 0]]), 'from 0 to 255'),
    (partial(Palette, ['a'], [[.5, 0, 0]]), 'from 0 to 255'), (partial(Palette, ['a'], ['red']), 'from 0 to 255'),
    (partial(landcover_tile, 1, 32.5), 'size=32.5'), (partial(landcover_tile, 1, '32'), "size='32'"),
    (partial(make_landcover, 'x', n=0), 'n=0'), (partial(make_landcover, 'x', n='2'), "n='2'"),
    (partial(make_landcover, 'x', season=NAN), 'season=nan'), (partial(make_landcover, 'x', seed=None), 'seed=None'),
    (partial(random_split, NAN), 'valid_pct=nan'), (partial(random_split, None), 'valid_pct=None'),
    (partial(random_split, .1, 'x'), "seed='x'"), (partial(by_func, 3), 'f=3'), (partial(by_files, None), 'valid=None'),
    (partial(by_files, 3), 'valid=3'), (partial(OneHot, 0), 'n_classes=0'), (partial(OneHot, True), 'n_classes=True'),
    (partial(OneHot, 3.), 'n_classes=3.0'), (partial(OneHot, 3, dontcare='no'), "dontcare='no'"),
    (partial(OneHot, 3, ignore=NAN), 'ignore=nan'), (partial(SPADE, 8, OneHot(3), ks=2), 'ks=2 must be odd'),
    (partial(SPADE, 0, OneHot(3)), 'nf=0'), (partial(SPADE, 8, OneHot(3), hidden=0), 'hidden=0'),
    (partial(SPADE, 8, OneHot(3), base=3), 'base=3'), (partial(read_codes, None), 'None is no path'),
    (partial(load_spade, None), 'None is no path'), (partial(load_spade, b'x'), "b'x' is no path"),
    (partial(open_mask, MASK, n_classes='3'), "n_classes='3'"), (partial(open_mask, MASK, ids={}), 'ids={}'),
    (partial(open_mask, MASK, tolerance=-1), 'tolerance=-1')])
def test_at_the_door(make, said):
    with pytest.raises(ValueError) as e: make()
    assert said in str(e.value)

@pytest.mark.odd
@pytest.mark.parametrize('args, said', [
    (dict(skip=3), '`skip=` names 3'), (dict(skip=['']), "`skip=` names ''"), (dict(masks=3), '3 is no folder'),
    (dict(bs=0), 'bs=0'), (dict(bs='2'), "bs='2'"), (dict(num_workers=-1), 'num_workers=-1'),
    (dict(check='8'), "check='8'"),
    (dict(image_reader=3), '3 is no `ImageReader`'), (dict(style=3), '3 is no function'),
    (dict(split=3), '3 is no split'),
    (dict(seed='x'), "seed='x'"), (dict(valid_pct=NAN), 'valid_pct=nan'), (dict(codes=['a', 'a']), "two classes 'a'"),
    (dict(tolerance=-1), 'tolerance=-1'), (dict(size='32'), "size='32'")])
def test_of_a_folder(dls, args, said):
    path = Path(dls.items[0][0]).parents[1]
    with pytest.raises(ValueError) as e: SpadeDataLoaders.from_folder(path, **{**dict(size=32, bs=2), **args})
    assert said in str(e.value)

@pytest.mark.odd
@pytest.mark.parametrize('fit, said', [
    (lambda o: o.fit_flat_lin(1, 1, lr=-1), 'lr=-1'), (lambda o: o.fit_flat_lin(-1, 3), 'n_flat=-1'),
    (lambda o: o.fit_flat_lin(1, .5), 'n_decay=0.5'), (lambda o: o.fit_one_cycle(1, lr_max=-1.), 'lr=-'),
    (lambda o: o.fit_one_cycle(1, lr_max=NAN), 'lr=nan')])
def test_of_schedules(dls, fit, said):
    learn = spade_learner(dls, TOY, sample_grid=None)
    before = {k: v.clone() for k, v in learn.model.named_parameters()}
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError) as e: fit(learn)
    assert said in str(e.value) and all(v.equal(before[k]) for k, v in learn.model.named_parameters())

# Parts by themselves, and what is drawn, cut and made without a learner

@pytest.mark.odd
@pytest.mark.parametrize('encode', [None, 3, 'onehot', OneHot, [OneHot(3)]])
@pytest.mark.parametrize('part', [CBN, SPADE, CLADE, CLADEICPE, INADE, SEAN, MultiSPADE, ConcatNorm, MapStart,
                                  MapNoiseStart, partial(DownStart, n_down=1)])
def test_of_encoders(part, encode):
    with pytest.raises(ValueError, match='is no encoder of masks; pass one, such as `OneHot'): part(8, encode)
    part(8, OneHot(3))

ROOF = lambda o: dict(Structures=o)
MU = torch.zeros(2, 3)
@pytest.mark.odd
@pytest.mark.parametrize('make, said', [
    *((partial(aerial_tfms, o), 'size=') for o in (None, '64', 0, -1, 64.5, (64,), (64, 64, 64), True)),
    *((partial(aerial_tfms, 64, **{k: o}), f'{k}=')
      for k in ('min_scale', 'max_lighting', 'max_color', 'p') for o in (None, 'x', -1, 2, NAN)),
    (partial(aerial_tfms, 64, 0), 'min_scale=0'),
    (partial(Scale, None, None), 'lo=None must be a list'), (partial(Scale, 0, 1), 'lo=0 must be a list'),
    (partial(Scale, [0], [1, 2]), 'a number for each band'), (partial(Scale, [], []), 'a number for each band'),
    (partial(Scale, 'ab', 'cd'), "lo='ab' must be a list"), (partial(Scale, [NAN], [1]), 'lo=nan'),
    (partial(Scale, [0], [float('inf')]), 'hi=inf'), (partial(Scale, [2], [1]), 'must not be above'),
    (partial(Scale, [0], [1], 3), 'percentiles=3'), (partial(Scale, [0], [1], (98, 2)), 'percentiles=(98, 2)'),
    *((partial(reparameterize, *o), 'mu and logvar must be two float tensors')
      for o in ((None, None), (MU, None), (3, 4), (MU, MU[:1]), (MU.long(), MU), (MU, MU.numpy()))),
    (partial(reparameterize, MU, MU, 5), 'rng=5 must be a `torch.Generator`'),
    *((partial(instance_edges, o), 'map of instances') for o in (None, 3, 'x', torch.zeros(4, 4), MASK[0], [[.5]])),
    *((partial(pair_by_stem, *o), 'masks=') for o in ((None, []), (3, []), ('a.png', []))),
    (partial(pair_by_stem, [], None), 'images=None'), (partial(pair_by_stem, [3], ['a']), '3 is no path'),
    *((partial(f, o), 'is no path; give the name of a') for o in (None, 3, b'x', {}, '', 'a\0b')
      for f in (find_layout, SpadeDataLoaders.from_folder, check_masks, partial(make_landcover, n=1))),
    *((partial(Raster, o), 'is no path') for o in (None, 3, b'x', {})),
    *((partial(open_image, o), 'is no image; pass') for o in (None, 3, ['a'], {}, NAN)),
    (partial(open_image, np.zeros((4, 4))), 'more than 8 bits'), (partial(open_image, MU), 'more than 8 bits'),
    (partial(open_image, np.zeros((4, 4, 3))), 'more than 8 bits'),
    (partial(open_image, np.zeros((4, 4, 5), np.uint8)), '5 bands'),
    *((partial(landcover_tile, o, 32), 'seed=') for o in (None, 'x', 1.5, -1, [], [1, None], {}, NAN, True)),
    *((partial(landcover_tile, 1, 32, o), 'season=') for o in (None, 'x', -1, NAN, float('inf'))),
    *((partial(make, tints=o), 'tints') for make in (partial(landcover_tile, 1, 32), partial(make_landcover, 'x'))
      for o in (3, 'red', [1], dict(Roof=[(1, 2, 3)]), ROOF([]), ROOF(3), ROOF(None), ROOF('red'), ROOF((1, 2, 3)),
                ROOF([3]), ROOF([(1, 2)]), ROOF([(1, 2, 300)]), ROOF([(1, 2, NAN)]), ROOF([('a', 2, 3)]))),
    *((partial(ClassEmbed, 3, o), 'dim=') for o in (0, '8', None, 1.5))])
def test_of_parts_by_themselves(make, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as e: make()
    assert said in str(e.value)
    assert not [*tmp_path.iterdir()]                                         # nothing was made on the way

@pytest.mark.odd
@pytest.mark.parametrize('args, said', [
    ((None, [1]), 'masks=None must be a list of masks'), (([MASK], None), 'styles=None must be a list'),
    (([MASK], 3), 'styles=3 must be a list'), (([MASK], 'abc'), "styles='abc' must be a list"),
    (([], [1]), 'there are 0 masks and 1 styles'), (([MASK], []), 'there are 1 masks and 0 styles'),
    (([MASK], [None]), 'None is no image'), (([MASK], [NAN]), 'nan is no image'), (([MASK], [-1]), 'seed=-1'),
    (([MASK], [1], 'x'), "palette='x' must be a `Palette`"), (([MASK], [1], None, 0), 'sz=0'),
    (([MASK], [1], None, NAN), 'sz=nan'), (([MASK], [1], None, 'x'), "sz='x'")])
def test_of_styles_side_by_side(args, said):
    with pytest.raises(ValueError) as e: show_styles(net(start=partial(MapNoiseStart, nz=4)), *args)
    assert said in str(e.value)

@pytest.mark.odd
@pytest.mark.parametrize('args, said', [
    ((None, 1), 'an end is None'), ((1, None), 'an end is None'), ((1, 2, 0), 'n=0')])
def test_of_a_line_of_pictures(args, said):
    with pytest.raises(ValueError, match=said): interpolate(net(start=partial(MapNoiseStart, nz=4)), MASK, *args)

def test_parts_by_themselves_that_are_right():
    assert aerial_tfms(np.int64(64)) and aerial_tfms((32, 64), max_lighting=0, max_color=0)
    assert Scale(np.array([0., 1]), np.array([1, 1]), (2, 98)).hi == [1, 1]
    edges = instance_edges(torch.tensor([[5, 5, 7]]))
    assert edges.tolist() == [[[[False, True, True]]]]
    ids, rgb = landcover_tile(1, 32, tints=TINTS)
    assert (landcover_tile(np.int64(1), 32, tints={})[0] == ids).all()
    red = np.full((4, 4, 3), (9, 0, 0), np.uint8)
    for o in (red, torch.as_tensor(red), open_image(red)): assert (np.asarray(open_image(o)) == red).all()
    assert (np.asarray(open_image(red, bands=(3, 2, 1))) == red[..., ::-1]).all()
    g = net(start=partial(MapNoiseStart, nz=4))
    assert show_styles(g, MASK[None], np.arange(2)).shape == (2, 3)
