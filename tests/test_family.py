"The rest of the family against numbers recorded from the official code: outputs in both modes, buffers, and gradients"
import copy, re
from functools import partial
import numpy as np, pytest, torch
from torch import nn
from spade_fastai.core import *
from spade_fastai.nets.norms import *
from spade_fastai.nets.starts import *
from spade_fastai.nets.generator import *
from spade_fastai.nets.clade import *
from spade_fastai.nets.clade import own_place
from spade_fastai.nets.sean import *
from spade_fastai.nets import sean as sean_room
from spade_fastai.nets.multi import *
from spade_fastai.nets.inade import *
from spade_fastai.nets.spectral import *
from spade_fastai.official_names import official_key
from spade_fastai.official_family import clade_key, each_class, is_scale, sean_key
from spade_fastai.nets.sean import ClassLinear
from fastai.vision.all import CancelFitException, Callback, noop, set_seed
from spade_fastai.fast.drawing import FoldedGenerator
from spade_fastai.fast.switch import faster
from spade_fastai.fast.ways import plain_math
from spade_fastai.train.ema import EMA
from spade_fastai.train.resume import Checkpoint
from spade_fastai.learner import presets, spade_learner
from spade_fastai.commands.bench import gflop
from test_own_parts import N_CLASSES, TOY, data, style_of, whole_way

# CLADE

clade = dict(key=clade_key, ours=lambda key, value: value - 1 if is_scale(key) else value)   # ours: distance from 1

def clade_cond(i, edges):
    "Ids of the recorded one-hot map, whose last channel is the edges where there are such"
    seg = i['seg']
    ids = (seg[:, :-1] if edges else seg).argmax(1)
    encode = OneHot(seg.shape[1] - edges, edges=bool(edges))
    return Cond(ids, encode, seg[:, -1:].bool() if edges else None, maps={'place': i['dist']} if 'dist' in i else None)

@pytest.mark.parametrize('name, norm, edges, base, count', [
    ('layer', CLADE, 0, 'batch', 16), ('layer_icpe', CLADEICPE, 0, 'batch', 26),
    ('layer_icpe_instance', CLADEICPE, 1, 'instance', 24)])
def test_clade_layer(fixture, name, norm, edges, base, count):
    f = fixture(f'clade_{name}', **clade)
    net = norm(f.hyper['norm_nc'], OneHot(f.hyper['label_nc'], edges=bool(edges)), base)
    run = lambda case, i: dict(out=net(i['x'], clade_cond(i, edges)))
    assert f.check(net, run, ('x', 'dist')[:1 + (norm is CLADEICPE)]) == count

@pytest.mark.parametrize('name, norm, edges, base, count', [
    ('same', CLADE, 0, 'batch', 21), ('learned_icpe_instance', CLADEICPE, 1, 'batch', 48)])
def test_clade_resblk(fixture, name, norm, edges, base, count):
    f = fixture(f'clade_resblk_{name}', **clade)
    x, out = f.t['main/in/x'], f.t['main/eval/out']
    net = SPADEResBlk(x.shape[1], out.shape[1], partial(norm, encode=OneHot(5, edges=bool(edges)), base=base))
    assert f.check(net, lambda case, i: dict(out=net(i['x'], clade_cond(i, edges))), ('x', 'dist')[:1 + edges]) == count

@pytest.mark.parametrize('name, norm, count', [('', CLADE, 236), ('_icpe_instance', CLADEICPE, 454)])
def test_clade_generator(fixture, name, norm, count):
    f = fixture(f'clade_generator{name}', **clade)
    h = f.hyper
    encode = partial(OneHot, dontcare=h['contain_dontcare_label'], edges=not h['no_instance'])
    net = SPADEGenerator(h['label_nc'], nf=h['ngf'], norm=norm, encode=encode, **layouts[h['num_upsampling_layers']])
    maps = lambda i: {'place': i['dist']} if 'dist' in i else None
    run = lambda case, i: dict(out=net(i['label'], None, i.get('instance'), maps(i)))
    assert f.check(net, run, ('dist',) if norm is CLADEICPE else ()) == count

def test_own_place(fixture):
    f = fixture('clade_icpe_map')
    for case in ('m0', 'm1'):
        cond = Cond(f.t[f'{case}/in/label'][:, 0])
        assert (own_place(cond, skip=(0,)) - f.t[f'{case}/dist_norm']).abs().max() <= 1e-5

# SEAN: the recorded noise in place of random numbers

def sean_lost(n_ids):
    "Layers of classes that there are not, a norm that is never used, and what only we remember"
    unused = lambda m: m and int(m[1]) >= n_ids
    mine = lambda k: k.split('.')[-1] in ('mean', 'seen')
    return lambda k: bool('Spade.param_free_norm' in k or unused(re.search(r'fc_mu(\d+)', k)) or mine(k))

def recorded_noise(monkeypatch, *draws):
    "What the norms draw from now on"
    draws = iter(draws)
    monkeypatch.setattr(sean_room, 'normal', lambda shape, like: next(draws).reshape(shape))

@pytest.mark.parametrize('name, norm, count', [('', partial(SEAN, nz=16), 61), ('_nostyle', SPADEPlusNoise, 31)])
def test_sean_norm(fixture, monkeypatch, name, norm, count):
    lost = sean_lost(5) if norm is not SPADEPlusNoise else lambda k: 'blending' in k or sean_lost(0)(k)
    f = fixture(f'sean_ace{name}', key=sean_key, parts=each_class, lost=lost)
    net = norm(f.hyper['norm_nc'], OneHot(5))
    def run(case, i):
        recorded_noise(monkeypatch, i['noise_nchw'])
        return dict(out=net(i['x'], Cond(i['seg'].argmax(1), OneHot(5), regions=i.get('style_codes'))))
    assert f.check(net, run, ('x', 'style_codes')) == count

def test_sean_resblk(fixture, monkeypatch):
    f = fixture('sean_resblk_learned', key=sean_key, parts=each_class, lost=sean_lost(5))
    x, out = f.t['main/in/x'], f.t['main/eval/out']
    net = SPADEResBlk(x.shape[1], out.shape[1], partial(SEAN, encode=OneHot(5), nz=16))
    def run(case, i):
        recorded_noise(monkeypatch, *(i[f'noise_{n}_nchw'] for n in range(3)))
        return dict(out=net(i['x'], Cond(i['seg'].argmax(1), OneHot(5), regions=i['style_codes'])))
    assert f.check(net, run, ('x', 'style_codes')) == 93

def test_sean_style_encoder(fixture):
    f = fixture('sean_style_encoder', key=sean_key, lost=sean_lost(5))
    net = RegionEncoder(5, nz=12)
    def run(case, i):
        return dict(style_codes=net(i['image'], Cond(i['seg'].argmax(1)))[0], code_map=net.layers(i['image']))
    assert f.check(net, run, ('image',)) == 15

class Styled(torch.nn.Module):
    "SEAN's generator and encoder as the official code has them, in one"
    def __init__(self, h):
        super().__init__()
        norm, layout = partial(SEAN, nz=h['style_length']), layouts[h['num_upsampling_layers']]
        norms = [norm]*(len(layout['ups']) - 1) + [SPADEPlusNoise]                       # no styles in the last block
        self.generator = SPADEGenerator(h['label_nc'], nf=h['ngf'], norm=norms, **layout)
        self.encoder = RegionEncoder(h['label_nc'], nz=h['style_length'])

    def forward(self, image, label):
        z, _ = self.encoder(image, self.generator.encode(label))
        return dict(out=self.generator(label, z), style_codes=z)

def test_sean_generator(fixture, monkeypatch):
    lost = lambda k: bool(re.search(r'up_3\.ace_\w\.blending', k) or sean_lost(5)(k))
    f = fixture('sean_generator', key=sean_key, parts=each_class, lost=lost)
    net = Styled(f.hyper)
    def run(case, i):
        noise = [i[k].permute(0, 3, 2, 1) for k in sorted(i) if k.startswith('noise')]
        if noise: recorded_noise(monkeypatch, *noise)
        else: monkeypatch.setattr(sean_room, 'normal', lambda shape, like: torch.zeros(shape))
        return net(i['image'], i['label'])
    assert f.check(net, run, ('image',)) == 1006

# Multi-SPADE: branches in the order of the recorded maps

def multi_key(key):
    nth = lambda m: f'mlps.{m[1]}.{min(int(m[2]), 1)}.layers.conv.'
    key = re.sub(r'branches\.m(\d)\.(?:layers|convs)\.(\d)\.', nth, key)
    key = re.sub(r'branches\.m(\d)\.shared\.0\.', r'mlps.\1.0.layers.conv.', key)
    key = re.sub(r'branches\.m(\d)\.(gamma|beta)\.', r'\2s.\1.layers.conv.', key)
    key = re.sub(r'^(conv|norm)_(\w)\.', lambda m: f"conv_block_{m[2]}.layers.{m[1]}.", key)
    return official_key(key).replace('param_free_norm', 'norm')

def maps_of(i):
    return Cond(seg=torch.zeros(len(i['x']), 1, 24, 32), maps={f'm{k[4]}': v for k, v in i.items() if k[:4] == 'cond'})

def branches_of(h, branch=MapBranch):
    "The branches of a recorded norm, by its hyperparameters"
    listed = lambda o: o if isinstance(o, list) else [o]*len(h['map_channels'])
    kinds = [PartialBranch if p else branch for p in listed(h['partial'])]
    each = enumerate(zip(kinds, h['map_channels'], listed(h['num_filters']), strict=True))
    return {f'm{i}': partial(kind, nc=nc, hidden=n) for i, (kind, nc, n) in each}

@pytest.mark.parametrize('name, branch, base, count', [
    ('wc_vid2vid', MapBranch, 'instance', 30), ('partial', MapBranch, 'instance', 30),
    ('batch_separate_spectral', partial(SplitBranch, weight_norm=spectral), 'batch', 81)])
def test_multispade(fixture, name, branch, base, count):
    f = fixture(f'multispade_{name}', key=multi_key)
    net = MultiSPADE(f.hyper['num_features'], OneHot(2), base, branches_of(f.hyper, branch))
    assert f.check(net, lambda case, i: dict(out=net(i['x'], maps_of(i))), ('x', 'cond0', 'cond1', 'cond2')) == count

def test_multispade_resblk(fixture):
    f = fixture('multispade_resblk_learned', key=multi_key)
    norm = partial(MultiSPADE, encode=OneHot(2), maps=branches_of(f.hyper))
    net = SPADEResBlk(f.hyper['fin'], f.hyper['fout'], norm)
    net.conv_s = spectral(torch.nn.Conv2d(f.hyper['fin'], f.hyper['fout'], 1))       # theirs has a bias
    assert f.check(net, lambda case, i: dict(out=net(i['x'], maps_of(i))), ('x', 'cond0', 'cond1', 'cond2')) == 42

# Each is trained, drawn, saved, loaded and exported, and needs no more than its name

def guide_of(mask, picture):
    "Half of the picture, and where it is known"
    guide = TensorMap(torch.cat([picture, torch.ones_like(picture[:1])])*(torch.arange(16) < 8))
    guide.name = 'guide'
    return guide

def rooms_of(mask, picture):
    return TensorInstance(torch.arange(16).view(4, 4).repeat_interleave(4, 0).repeat_interleave(4, 1))

edged = partial(OneHot, edges=True)
guided = dict(mask=partial(MapBranch, hidden=8), guide=partial(PartialBranch, nc=4, hidden=8))
sean = partial(SEAN, hidden=8, nz=4)
variants = dict(
    CLADE      = (dict(generator=dict(norm=CLADE)), {}),
    ICPE       = (dict(generator=dict(norm=CLADEICPE)), {}),
    edges      = (dict(generator=dict(norm=CLADEICPE, encode=edged), critic=dict(encode=edged)),
                  dict(instance=rooms_of)),
    INADE      = (dict(generator=dict(norm=partial(INADE, nz=4))), {}),
    rooms      = (dict(generator=dict(norm=partial(INADE, nz=4), encode=edged)), dict(instance=rooms_of)),
    SEAN       = (dict(generator=dict(start=MapStart, norm=sean)), dict(style=style_of)),
    last_plain = (dict(generator=dict(norm=(sean, partial(SPADEPlusNoise, hidden=8)))), dict(style=style_of)),
    MultiSPADE = (dict(generator=dict(norm=partial(MultiSPADE, maps=guided))), dict(guide=guide_of)))

@pytest.mark.parametrize('name', variants)
def test_the_whole_way(tmp_path, name):
    parts, others = variants[name]
    dls, (mask, *more, _) = data(**others)
    if 'style' in others: parts = dict(parts, encoder=RegionEncoder(N_CLASSES, nf=4, nz=4))
    draw = dict(zip(others, more, strict=True))
    if 'guide' in draw: draw = dict(maps=draw)
    style = draw.pop('style', None)
    if style is not None: draw['z'] = torch.rand(1, N_CLASSES, 4)
    learn, by_z = whole_way(tmp_path, dls, mask, draw=draw, **parts)
    if style is not None: assert (np.array(learn.generate(mask, style=style, seed=3)) != by_z).any()
    norms = [type(m) for m in learn.model.generator.modules() if isinstance(m, ConditionalNorm)]
    assert len({*norms}) == (2 if name == 'last_plain' else 1) and SPADE not in norms

# Presets

def other_ground(mask, picture):
    "What the style picture shows: the mask turned round"
    return TensorStyleMask(mask.flip(-1))

relatives = dict(tiny_clade={}, tiny_inade={}, tiny_sean=dict(style=style_of), tiny_oasis={}, tiny_frozen={})
relatives['tiny_sean, other ground'] = dict(style=lambda m, p: TensorStyle(p.flip(-1)), style_mask=other_ground)

def preset_of(name): return presets[name.partition(',')[0]]

def larger(others):
    "Batches of four of 64 pixels, and the first item"
    dls, _ = data(**others)
    grown = lambda o: o.repeat_interleave(4, -1).repeat_interleave(4, -2)
    for items in (dls.train_ds, dls.valid_ds): items[:] = [tuple(type(x)(grown(x)) for x in o) for o in items]
    return dls, dls.train_ds[0]

@pytest.mark.parametrize('name', relatives)
def test_a_preset_goes_the_whole_way(tmp_path, name):
    dls, (mask, *more, _) = larger(relatives[name])
    draw = dict(style=(more[0], more[-1] if len(more) > 1 else mask)) if more else {}
    learn, _ = whole_way(tmp_path, dls, mask, draw=draw, preset=preset_of(name))
    assert (type(learn.model.encoder).__name__ == 'RegionEncoder') == bool(more)

class StopAt(Callback):
    "Ends the training after an epoch, when its checkpoint is written"
    order = 1001
    def after_epoch(self): raise CancelFitException()

@pytest.mark.parametrize('name', relatives)
def test_a_preset_goes_on_bit_for_bit_with_its_average(tmp_path, name):
    def trained(folder, *cbs, resume=False):
        set_seed(3)
        dls, _ = larger(relatives[name])
        learn = spade_learner(dls, preset_of(name), n_classes=N_CLASSES, sample_grid=None, cbs=EMA())
        learn.logger = noop
        with learn.no_bar(): learn.fit(2, cbs=[Checkpoint(tmp_path/folder, resume=resume), *cbs])
        return learn.model.state_dict()
    whole = trained('whole')
    half = trained('parts', StopAt())
    parts = trained('parts', resume=True)
    differ = lambda a, b: [k for k in a if not torch.equal(a[k], b[k])]
    assert not differ(whole, parts) and differ(whole, half)

@pytest.mark.parametrize('name, n_classes, how, million', [
    ('paper', 34, dict(dontcare=True, edges=True), 93.0), ('clade', 34, dict(dontcare=True, edges=True), 67.9),
    ('clade', 150, dict(dontcare=True), 71.4), ('sean', 19, {}, 266.9)])
def test_presets_of_the_papers_size(name, n_classes, how, million):
    "Millions of parameters, as the papers of the family print them; SEAN's with its encoder"
    preset = presets[name]
    with torch.device('meta'):
        nets = [SPADEGenerator(n_classes, encode=partial(OneHot, **how), **preset['generator'])]
        if name == 'sean': nets.append(preset['encoder_class'](n_classes, **preset['encoder']))
    assert round(sum(p.numel() for net in nets for p in net.parameters())/1e6, 1) == million

# Styles by class

def test_a_style_for_each_class(tmp_path):
    dls, (mask, _, picture) = data(style=style_of)
    parts = dict(generator=dict(start=MapStart, norm=sean), encoder=RegionEncoder(N_CLASSES, nf=4, nz=4))
    learn = spade_learner(dls, TOY, n_classes=N_CLASSES, sample_grid=None, path=tmp_path, **parts)
    torch.nn.init.normal_(learn.model.generator.conv_img.weight)
    for m in learn.model.generator.modules():
        if isinstance(m, ClassLinear): torch.nn.init.normal_(m.weight)
    learn.model.encoder.mean.normal_()
    mean, there = np.array(learn.generate(mask, seed=1)).astype(int), int(mask[0, 0])
    assert np.array_equal(np.array(learn.generate(mask, seed=1, style={})), mean)
    for style in (picture, (picture, mask), torch.ones(4)):
        assert (np.array(learn.generate(mask, seed=1, style={there: style})) != mean).any()
    gone = torch.full_like(mask, there)
    whole = np.array(learn.generate(gone, seed=1, style=(picture, mask)))          # only one class is drawn
    assert np.array_equal(whole, np.array(learn.generate(gone, seed=1, style={there: (picture, mask)})))
    other = (there + 1) % N_CLASSES
    assert np.array_equal(np.array(learn.generate(gone, seed=1, style={other: torch.ones(4)})),
                          np.array(learn.generate(gone, seed=1)))              # of a class that is not there
    with pytest.raises(ValueError, match="names the class 'Watr'; the classes are"):
        learn.generate(mask, style={'Watr': picture})
    with pytest.raises(ValueError, match=f'has no {other}'): learn.generate(mask, style={other: (picture, gone)})
    kept = learn.generate(mask, seed=1, style=(picture, mask))                    # ...: that of all others
    assert np.array_equal(np.array(learn.generate(mask, seed=1, style={...: (picture, mask)})), np.array(kept))
    both = np.array(learn.generate(gone, seed=1, style={...: (picture, mask), there: torch.ones(4)}))
    assert np.array_equal(both, np.array(learn.generate(gone, seed=1, style={there: torch.ones(4)})))
    lacking = np.array(learn.generate(mask, seed=1, style=(picture, gone)))       # of the others the mean
    one = learn.generate(mask, seed=1, style={there: (picture, gone)})
    assert np.array_equal(lacking, np.array(one)) and (lacking != mean).any()
    plain = spade_learner(data()[0], TOY, n_classes=N_CLASSES, sample_grid=None)
    with pytest.raises(ValueError, match='needs an encoder by regions'): plain.generate(mask, style={there: picture})
    a, *_, b = learn.interpolate(mask, {there: torch.ones(4)}, {there: -torch.ones(4)}, 3)
    assert (np.array(a) != np.array(b)).any()

# What CLADE costs, and that it goes the fast ways

def convolutions_alone(gen, *args):
    "GMAC of the generator's own convolutions for a picture: those that are not in a norm"
    inside = {o for m in gen.modules() if isinstance(m, ConditionalNorm) for o in m.modules()}
    counts = []
    def count(m, _, y): counts.append(y[0].numel()*m.weight[0].numel())
    hooks = [m.register_forward_hook(count) for m in gen.modules() if type(m).__name__.endswith('Conv2d') and
             m not in inside]
    with torch.no_grad(): gen(*args)
    for h in hooks: h.remove()
    return sum(counts)/1e9

@pytest.mark.parametrize('norm, least, most', [(CLADE, 1, 1.0001), (CLADEICPE, 1, 1.05), (SPADE, 2, 20)])
def test_clade_costs_no_more_than_the_networks_own_convolutions(norm, least, most):
    gen = SPADEGenerator(19, nf=16, norm=norm, weight_norm=nn.Identity()).eval()
    mask = torch.randint(0, 19, (1, 8, 8)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    own, whole = convolutions_alone(gen, mask), gflop(gen, mask)/2
    assert least <= round(whole/own, 5) <= most, (whole, own)

class Warmer(CLADE):
    def gamma_beta(self, cond, size): return super().gamma_beta(cond, size)[0], torch.ones(1, 1, 1, 1)

def listened(nf, encode):
    norm = CLADE(nf, encode)
    norm.gamma.register_forward_hook(lambda m, i, o: 2*o)
    return norm

@pytest.mark.parametrize('weight_norm', [nn.Identity(), spectral], ids=['plain', 'spectral'])
@pytest.mark.parametrize('norm', [CLADE, CLADEICPE, Warmer, listened], ids=lambda o: o.__name__)
def test_a_clade_network_draws_fast_what_it_is_written_to_draw(norm, weight_norm):
    torch.manual_seed(0)
    gen = SPADEGenerator(5, nf=8, mults=(2, 2, 1), ups=(1, 1), norm=norm, weight_norm=weight_norm)
    for p in gen.parameters(): nn.init.normal_(p, 0, .3)
    mask = torch.randint(0, 5, (2, 8, 8)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    gen(mask)                                                               # statistics of the batch norm
    fast = faster(copy.deepcopy(gen)).eval()
    with torch.no_grad():
        drawn = fast(mask)
        kept, *_ = fast.forward.memory.get('kept', [None])
        assert isinstance(kept, FoldedGenerator) == (norm is not listened)   # it steps aside
        assert torch.allclose(drawn, gen.eval()(mask), atol=1e-5)
        nn.init.normal_(next(m for m in fast.modules() if isinstance(m, CLADE)).gamma.weight)   # other weights
        assert not torch.allclose(drawn, fast(mask), atol=1e-2)
        with plain_math(): before = fast(mask)
        assert torch.allclose(before, fast(mask), atol=1e-5)
