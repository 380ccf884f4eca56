"Arguments that make no sense, of the learner and of what it is made of: each is named, with its value, before training"
import warnings
from functools import partial
import pytest, torch
from torch import nn
from spade_fastai.core import OneHot
from spade_fastai.data.landcover import make_landcover
from spade_fastai.data.items import SpadeDataLoaders
from spade_fastai.drawing import generate
from spade_fastai.learner import spade_learner
from spade_fastai.nets.clade import CLADEICPE
from spade_fastai.nets.starts import MapNoiseStart
from spade_fastai.nets.norms import SPADE
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
