"Files of CLADE's, SEAN's and OASIS' official codes: read, drawn with, written back"
from copy import deepcopy
from functools import partial
import pytest, torch
from torch import nn
from fastai.vision.all import DataLoaders, PILImage, TensorImage, TensorMask
from safetensors.torch import load_file
from spade_fastai.core import *
from spade_fastai.nets import sean as sean_room
from spade_fastai.nets.norms import *
from spade_fastai.nets.spectral import *
from spade_fastai.nets.starts import *
from spade_fastai.nets.generator import *
from spade_fastai.nets.critic import *
from spade_fastai.nets.clade import *
from spade_fastai.nets.sean import *
from spade_fastai.nets.oasis import *
from spade_fastai.nets.oasis import oasis_layout
from spade_fastai.drawing import SpadeDrawer
from spade_fastai.learner import presets, spade_learner
from spade_fastai.official import *
from spade_fastai.train.step import GAN
from test_family import clade, each_class, sean_key
from test_oasis import oasis_key
from test_own_parts import N_CLASSES, TOY, Items

normal = dict(upsampling='normal')

# Files with recorded answers

def as_file(f, tmp_path, change=lambda sd: sd):
    "The fixture's official file; where only its tensors were kept, written as that code does"
    file = f.folder/'latest_net_G.pth'
    if file.exists() and change({}) == {}: return file
    torch.save(change(load_file(f.folder/'state_dict.safetensors')), tmp_path/'latest_net_G.pth')
    return tmp_path/'latest_net_G.pth'

def same_file(net, file, tmp_path):
    "`net` is written as it was read, bit for bit"
    a = torch.load(file, weights_only=True, map_location='cpu')
    b = torch.load(save_official(net, tmp_path/'again.pth'), weights_only=True)
    assert set(a) == set(b)
    for k, v in a.items(): assert v.shape == b[k].shape and v.dtype == b[k].dtype and torch.equal(v, b[k]), k

@pytest.mark.parametrize('name, kw', [('clade_generator', {}), ('clade_generator_icpe_instance', dict(dontcare=True))])
def test_clade(fixture, tmp_path, name, kw):
    f = fixture(name, **clade)
    file = as_file(f, tmp_path)
    assert file.parent == f.folder                                # a file that the official code wrote
    net = load_official(file, upsampling='normal', **kw)
    i = {k.split('/')[2]: v for k, v in f.t.items() if k.startswith('main/in/')}
    with torch.no_grad():
        maps = {'place': i['dist']} if 'dist' in i else None
        f.close(net(i['label'], None, i.get('instance'), maps), 'main/eval/out')
    assert net.encode.edges == (name != 'clade_generator') and not net.training
    same_file(net, file, tmp_path)
    same_file(deepcopy(net), file, tmp_path)

def test_sean(fixture, monkeypatch, tmp_path):
    f = fixture('sean_generator', key=sean_key, parts=each_class)
    net = load_official(file := as_file(f, tmp_path), upsampling='normal')
    monkeypatch.setattr(sean_room, 'normal', lambda shape, like: torch.zeros(shape))
    image, mask = f.t['no_noise/in/image'], f.t['no_noise/in/label']
    with torch.no_grad():
        z, _ = net.encoder(image, net.encode(mask))
        f.close(z, 'no_noise/eval/style_codes')
        f.close(net(mask, z), 'no_noise/eval/out')
    style = PILImage.create(((image[0] + 1)*127.5).byte().permute(1, 2, 0).numpy())
    assert net.generate(mask[0, 0], style=style).size == (64, 64)
    same_file(net, file, tmp_path)

def test_oasis_generator(fixture, tmp_path):
    f = fixture('oasis_generator', key=oasis_key)
    net = load_official(file := as_file(f, tmp_path), nz=8)
    with torch.no_grad(): f.close(net(f.t['main/in/label'], f.t['main/in/z']), 'main/eval/out')
    same_file(net, file, tmp_path)
    # class 0 as don't-care: the same picture from ids that count from the class behind it
    net, label = load_official(file, nz=8, dontcare=True), f.t['main/in/label'].clone()
    label = torch.where(label == 0, 255, label - 1)
    with torch.no_grad(): f.close(net(label, f.t['main/in/z']), 'main/eval/out')
    same_file(net, file, tmp_path)

def test_oasis_critic(fixture, tmp_path):
    f = fixture('oasis_discriminator', key=oasis_key)
    net = load_official(file := as_file(f, tmp_path))
    with torch.no_grad(): f.close(net(f.t['main/in/image'])[0][-1], 'main/eval/logits')
    same_file(net, file, tmp_path)

def test_a_parallel_training_wrote_it(fixture, tmp_path):
    f = fixture('oasis_discriminator', key=oasis_key)
    net = load_official(as_file(f, tmp_path, lambda sd: {f'module.{k}': v for k, v in sd.items()} or None))
    with torch.no_grad(): f.close(net(f.t['main/in/image'])[0][-1], 'main/eval/logits')

# Other configurations, there and back

def lively(net):
    "Random numbers everywhere, running statistics too"
    rng = torch.Generator().manual_seed(3)
    for k, t in net.state_dict().items():
        if t.is_floating_point() and not k.endswith(('_u', '_v', 'seen')):
            t.copy_(torch.rand(t.shape, generator=rng)*.4 + (.8 if k.endswith('var') else -.2))
    return net.eval()

def clade_net(layout='normal', norm=CLADE, base='batch', n=4, nf=1, start=MapStart, wn=spectral, **kw):
    return SPADEGenerator(n, nf=nf, **layouts[layout], norm=partial(norm, base=base), encode=partial(OneHot, **kw),
                          start=start, weight_norm=wn)

def sean_net(n=3, nz=6, nf=1, layout='normal', wn=spectral, wrap=SpadeDrawer, **kw):
    norms = [partial(SEAN, nz=nz)]*(len(layouts[layout]['ups']) - 1) + [SPADEPlusNoise]
    gen = SPADEGenerator(n, nf=nf, **layouts[layout], norm=norms, encode=partial(OneHot, **kw), weight_norm=wn)
    return wrap(generator=gen, encoder=RegionEncoder(gen.encode.n_ids, nz=nz))

def oasis_net(n=4, nz=5, nf=1, base='batch', wn=spectral, start=MapNoiseStart, **kw):
    return SPADEGenerator(n, nf=nf, **oasis_layout, norm=partial(NoisySPADE, nz=nz, base=base),
                          start=partial(start, nz=nz), encode=partial(OneHot, **kw), weight_norm=wn)

def sean_gan(**kw): return sean_net(wrap=partial(GAN, critic=nn.Identity()), **kw)

CONFIGS = {
    'CLADE': (clade_net, {}), 'CLADE, one class': (partial(clade_net, n=1), {}),
    'CLADE, more': (partial(clade_net, 'more', nf=2), {}), 'CLADE, most': (partial(clade_net, 'most', nf=2), {}),
    'CLADE, edges': (partial(clade_net, edges=True), {}),
    'CLADE, edges, dont-care': (partial(clade_net, edges=True, dontcare=True), dict(dontcare=True)),
    'CLADE, instance norm': (partial(clade_net, base='instance'), {}),
    'CLADE, sync': (partial(clade_net, base='sync'), dict(base='sync')),
    'CLADE, ICPE': (partial(clade_net, norm=CLADEICPE), {}),
    'CLADE, no spectral norm': (partial(clade_net, wn=nn.Identity()), {}),
    'CLADE, VAE': (partial(clade_net, start=partial(NoiseStart, nz=7, size=(2, 4))), dict(size=(64, 128))),
    'SEAN': (sean_net, {}), 'SEAN, 19 classes': (partial(sean_net, n=19), {}), 'SEAN, GAN': (sean_gan, {}),
    'SEAN, dont-care': (partial(sean_net, n=18, dontcare=True), dict(dontcare=True)),
    'SEAN, more': (partial(sean_net, layout='more', nz=9, nf=2), {}),
    'SEAN, no spectral norm': (partial(sean_net, wn=nn.Identity()), {}),
    'OASIS': (oasis_net, dict(nz=5)),
    'OASIS, dont-care': (partial(oasis_net, dontcare=True), dict(nz=5, dontcare=True)),
    'OASIS, usual noise': (partial(oasis_net, nz=64), {}),
    'OASIS, instance': (partial(oasis_net, base='instance'), dict(nz=5)),
    'OASIS, field': (partial(oasis_net, start=MapFieldStart, nf=2), dict(nz=5)),
    'OASIS, no spectral norm': (partial(oasis_net, wn=nn.Identity()), dict(nz=5)),
    'OASIS, critic': (partial(SegmentationCritic, 3, nf=2), {}),
    'OASIS, critic without spectral norm': (partial(SegmentationCritic, 3, nf=1, weight_norm=nn.Identity()), {}),
    'SEAN, critic': (partial(MultiscaleDiscriminator, 3, nf=2, n_layers=3,
                             net=partial(NLayerDiscriminator, last_stride=2)), dict(last_stride=2)),
}

def answers(net, way):
    "What the networks say of one mask and picture, by the same random numbers"
    torch.manual_seed(way)
    gen = getattr(net, 'generator', net)
    size = (128, 128) if len(getattr(gen, 'blocks', ())) == 8 else (64, 128)
    mask, picture = torch.randint(0, gen.encode.n_classes, (1, *size)), torch.rand(1, 3, *size)*2 - 1
    if gen.encode.dontcare: mask[:, :9] = 255
    instance = torch.randint(0, 3, (1, *size))
    if isinstance(net, (SegmentationCritic, MultiscaleDiscriminator)): return [o for s in net(picture, mask) for o in s]
    if gen is not net: z, _ = net.encoder(picture, gen.encode(mask))
    else: z = torch.randn(1, gen.start.nz) if hasattr(gen.start, 'nz') else None
    return [gen(mask, z, instance if gen.encode.edges else None)]

@pytest.mark.parametrize('name', CONFIGS)
def test_there_and_back(tmp_path, name):
    make, hints = CONFIGS[name]
    net = lively(make())
    save_official(net, tmp_path/'net.pth')
    generator = not any(o in name for o in ('critic', 'OASIS', 'most'))        # whose doublings no tensor tells
    if generator: hints = dict(upsampling='more' if 'more' in name else 'normal', **hints)
    back = load_official(tmp_path/'net.pth', **hints)
    with torch.no_grad():
        for a, b in zip(answers(net, 5), answers(back, 5), strict=True): assert (a - b).abs().max() <= 2e-6
    same_file(back, tmp_path/'net.pth', tmp_path)
    sd = torch.load(tmp_path/'net.pth', weights_only=True)
    torch.save({f'module.{k}': v for k, v in sd.items()}, tmp_path/'net.pth')
    back.load_state_dict(load_official(tmp_path/'net.pth', **hints).state_dict())

def rounded(start, nz, dontcare=False, norm=None, **layout):
    "A generator whose first map is 5×8, for pictures of 171×256"
    start = partial(start, size=(5, 8), **({'nz': nz} if nz else {}))
    return SPADEGenerator(3, nf=1, norm=norm, start=start, encode=partial(OneHot, dontcare=dontcare), **layout)

@pytest.mark.parametrize('name', ['clade', 'sean', 'oasis'])
def test_crops_that_are_not_square(tmp_path, name, monkeypatch):
    "The height of the first map is width by aspect, rounded: 8/1.5 = 5.3"
    monkeypatch.setattr(sean_room, 'normal', lambda shape, like: torch.zeros(shape))
    styled = [partial(SEAN, nz=4)]*6 + [SPADEPlusNoise]
    make = dict(clade=lambda: rounded(MapStart, 0, norm=CLADE),
                sean=lambda: SpadeDrawer(rounded(MapStart, 0, norm=styled), encoder=RegionEncoder(3, nz=4)),
                oasis=lambda: rounded(MapNoiseStart, 4, True, partial(NoisySPADE, nz=4), **oasis_layout))
    net, hints = lively(make[name]()), dict(nz=4, dontcare=True) if name == 'oasis' else normal
    back = load_official(save_official(net, tmp_path/'G.pth'), size=(171, 256), **hints)
    mask, z = torch.randint(0, 3, (1, 171, 256)), torch.randn(1, *dict(sean=(3, 4)).get(name, (4,)))
    z = None if name == 'clade' else z
    with torch.no_grad(): a, b = net(mask, z), back(mask, z)
    assert a.shape == (1, 3, 160, 256) and (a - b).abs().max() <= 2e-6
    same_file(back, tmp_path/'G.pth', tmp_path)
    for size in ((4, 4), '64', (64, 0)):
        with pytest.raises(ValueError, match='G.pth.*size='): load_official(tmp_path/'G.pth', size=size, **hints)

def test_scales_stay_bit_for_bit_until_they_learn(tmp_path):
    file, key = save_official(clade_net(), tmp_path/'G.pth'), 'up_1.norm_0.class_specified_affine.weight'
    sd = torch.load(file, weights_only=True)
    sd[key] = torch.rand_like(sd[key])*.01                                    # (w - 1) + 1 is not w
    assert not torch.equal((sd[key] - 1) + 1, sd[key])
    torch.save(sd, file)
    back = load_official(file, **normal)
    same_file(back, file, tmp_path)
    with torch.no_grad(): back.blocks[4].norm_0.gamma.weight.add_(.5)
    now = torch.load(save_official(back, tmp_path/'again.pth'), weights_only=True)
    assert torch.allclose(now[key], sd[key] + .5)
    assert all(torch.equal(now[k], v) for k, v in sd.items() if k != key)

# Trained here

def pairs(styles):
    items = Items()
    for _ in range(8):
        mask = torch.randint(0, N_CLASSES, (4, 4)).repeat_interleave(8, 0).repeat_interleave(8, 1)
        picture = torch.rand(3, 32, 32)*2 - 1
        items.append((TensorMask(mask), *([TensorStyle(picture)] if styles else []), TensorImage(picture)))
    return DataLoaders.from_dsets(items, Items(items[:4]), bs=4, device='cpu')

def trained(dls, path, **kwargs):
    hinge = presets.tiny_hinge
    learn = spade_learner(dls, hinge, critic=TOY['critic'], n_classes=N_CLASSES, sample_grid=None, path=path, **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return learn.model.eval()

@pytest.mark.parametrize('name', ['clade', 'places', 'oasis', 'sean'])
def test_trained_here(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sean_room, 'normal', lambda shape, like: torch.zeros(shape))
    noise, styled = dict(norm=partial(NoisySPADE, nz=4), start=partial(MapNoiseStart, nz=4)), name == 'sean'
    parts = dict(clade=dict(norm=CLADE, start=MapStart), places=dict(norm=CLADEICPE, start=MapStart),
                 sean=dict(norm=[partial(SEAN, nz=4)]*6 + [SPADEPlusNoise], start=MapStart), oasis=noise)
    layout, dls = oasis_layout if name == 'oasis' else layouts['normal'], pairs(styled)
    encoder = dict(encoder=RegionEncoder(N_CLASSES, nz=4)) if styled else {}
    gan = trained(dls, tmp_path, generator={**parts[name], **layout, 'nf': 1}, **encoder)
    net, hints = gan if styled else gan.generator, dict(nz=4) if name == 'oasis' else normal
    back = load_official(save_official(net, tmp_path/'G.pth'), **hints)
    with torch.no_grad():
        for way in range(2):
            for a, b in zip(answers(net, way), answers(back, way), strict=True): assert (a - b).abs().max() <= 2e-6
    if not styled: return
    more = trained(dls, tmp_path, generator=back.generator, encoder=back.encoder)          # and trained on
    same_file(load_official(save_official(more, tmp_path/'more.pth'), **normal), tmp_path/'more.pth', tmp_path)

# What does not fit

@pytest.mark.odd
@pytest.mark.parametrize('make, said', [
    (partial(clade_net, base='group'), 'norm'),
    (lambda: SPADEGenerator(3, nf=1, norm=[CLADE]*6 + [CLADEICPE]), 'norm'),
    (lambda: SPADEGenerator(3, nf=4, mults=(2, 1), ups=(1,), norm=CLADE), 'layout'),
    (lambda: sean_net(n=20), '20 classes (at most 19 there)'),
    (lambda: sean_net(edges=True), 'edges'),
    (lambda: SpadeDrawer(SPADEGenerator(3, nf=1, norm=partial(SEAN, nz=6)), encoder=RegionEncoder(3, nz=6)), 'norm'),
    (lambda: SpadeDrawer(sean_net().generator, encoder=RegionEncoder(3, nf=16, nz=6)), 'width of the encoder'),
    (lambda: SPADEGenerator(3, nf=1, norm=partial(NoisySPADE, nz=4), start=partial(MapNoiseStart, nz=4)), 'layout'),
    (lambda: SpadeDrawer(sean_net().generator, encoder=RegionEncoder(4, nz=6)), 'classes of the encoder'),
    (lambda: SpadeDrawer(sean_net().generator, encoder=RegionEncoder(3, nz=5)), 'length of styles'),
    (partial(sean_net, layout='most', nf=2), 'layout'),
    (partial(oasis_net, edges=True), 'edges'), (partial(SegmentationCritic, 3, nf=2, mults=(1, 2)), 'widths')])
def test_not_to_be_written(tmp_path, make, said):
    with pytest.raises(ValueError, match='the official code has no option for') as e:
        save_official(make(), tmp_path/'x.pth')
    assert said in str(e.value) and 'save_spade' in str(e.value) and not (tmp_path/'x.pth').exists()

@pytest.mark.odd
@pytest.mark.parametrize('make, change, hints, said', [
    (clade_net, {}, {}, "pass upsampling='normal' or 'more'"),
    (clade_net, {}, dict(upsampling='normal', edges=True), "edges=True was given, but its tensors say False"),
    (clade_net, {}, dict(upsampling='normal', nz=8), "nz means nothing"),
    (clade_net, {'up_0.norm_s.class_specified_affine.bias': torch.zeros(5, 16)}, normal, 'has [4, 16]'),
    (clade_net, {'head_0.norm_0.class_specified_affine.weight': torch.zeros(4)}, normal, 'does not fit'),
    (clade_net, {'conv_img.weight': None}, normal, '1 tensors are missing (conv_img.weight)'),
    (clade_net, {'fc.bias': torch.full((16,), torch.nan)}, normal, 'NaN'),
    (sean_net, {}, dict(upsampling='normal', edges=True), "edges means nothing"),
    (sean_net, {'Zencoder.model.14.weight': None}, normal, "has no tensor 'Zencoder.model.14.weight'"),
    (sean_net, {'Zencoder.model.14.weight': torch.zeros(7, 256, 3, 3)}, dict(upsampling='normal'), 'does not fit'),
    (sean_net, {'head_0.ace_0.Spade.mlp_shared.0.weight': torch.zeros(128, 20, 3, 3)}, normal, 'layers for 19 classes'),
    (oasis_net, {}, {}, 'map and noise have 9 channels; pass nz='), (oasis_net, {}, dict(nz=9), 'pass nz='),
    (oasis_net, {}, dict(nz=0), 'must be a whole number'), (oasis_net, {}, dict(nz='5'), 'must be a whole number'),
    (oasis_net, {}, dict(nz=5, upsampling='normal'), 'upsampling means nothing'),
    (partial(SegmentationCritic, 3, nf=2), {}, dict(dontcare=True), 'dontcare means nothing'),
    (partial(SegmentationCritic, 3, nf=2), {'layer_up_last.weight': torch.zeros(1, 2, 1, 1)}, {}, 'layer_up_last'),
    (partial(SegmentationCritic, 3, nf=2), {'extra': torch.zeros(1)}, {}, '1 are not known (extra)')])
def test_not_to_be_read(tmp_path, make, change, hints, said):
    sd = torch.load(save_official(make(), tmp_path/'x.pth'), weights_only=True)
    sd = {k: v for k, v in {**sd, **change}.items() if v is not None}
    torch.save(sd, tmp_path/'x.pth')
    with pytest.raises(ValueError) as e: load_official(tmp_path/'x.pth', **hints)
    assert said in str(e.value) and 'x.pth' in str(e.value)

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "The tensors of one file of each kind, and how it is read"
    path = tmp_path_factory.mktemp('files')/'x.pth'
    kinds = dict(clade=(partial(clade_net, norm=CLADEICPE, edges=True), normal), sean=(partial(sean_net, nz=2), normal),
                 oasis=(oasis_net, dict(nz=5)), critic=(partial(SegmentationCritic, 3, nf=1), {}))
    read = lambda make: torch.load(save_official(make(), path), weights_only=True)
    return {k: (read(make), hints) for k, (make, hints) in kinds.items()}

ONE = dict(clade='up_2.conv_1.bias', sean='up_2.conv_1.bias', oasis='body.4.conv_1.bias',
           critic='body_up.4.conv2.1.bias')
FIRST = dict(clade='head_0.norm_0.class_specified_affine.weight', sean='head_0.ace_0.Spade.mlp_shared.0.weight',
             oasis='body.0.norm_0.mlp_shared.0.weight', critic='layer_up_last.weight')
WRONG = dict(   # of the tensor `t`
    nan=lambda t: t*torch.nan, bools=lambda t: t > 0, numbers=lambda t: t.long(), complexes=lambda t: t + 1j,
    stride_0=lambda t: torch.zeros(1).expand(10**6, *t.shape[1:]), flat=lambda t: torch.zeros(3),
    wide=lambda t: torch.zeros(3*10**5, *t.shape[1:])[:, :1] if t.ndim > 1 else torch.zeros(3*10**5),
    scalar=lambda t: torch.zeros(()), empty=lambda t: t[:0])

@pytest.mark.odd
@pytest.mark.parametrize('wrong', [*WRONG, 'gone', 'half_wrapped'])
@pytest.mark.parametrize('where', [ONE, FIRST], ids=['one', 'first'])
@pytest.mark.parametrize('kind', ONE)
def test_odd_tensors(files, kind, where, wrong, tmp_path):
    sd, key = dict(files[kind][0]), where[kind]
    t = sd.pop(key)
    if wrong in WRONG: sd[key] = WRONG[wrong](t)
    if wrong == 'half_wrapped': sd[f'module.{key}'] = t
    torch.save(sd, tmp_path/'odd.pth')
    with pytest.raises(ValueError, match='odd.pth'): load_official(tmp_path/'odd.pth', **files[kind][1])

@pytest.mark.odd
@pytest.mark.parametrize('a, b', [(a, b) for a in ONE for b in ONE if a != b])
def test_mixed_files(files, a, b, tmp_path):
    torch.save({**files[a][0], **files[b][0]}, tmp_path/'odd.pth')
    for hints in ({}, files[a][1], files[b][1]):
        with pytest.raises(ValueError, match='odd.pth'): load_official(tmp_path/'odd.pth', **hints)
