"Files of CLADE's, SEAN's and OASIS' official codes: read, drawn with, written back"
from functools import partial
import pytest, torch
from torch import nn
from fastai.vision.all import PILImage
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
from spade_fastai.official import *
from spade_fastai.official_family import is_scale
from spade_fastai.train.step import GAN
from test_family import clade, each_class, sean_key
from test_oasis import oasis_key

# Files with recorded answers

def as_file(f, tmp_path, change=lambda sd: sd):
    "The fixture's official file; where only its tensors were kept, written as that code does"
    file = f.folder/'latest_net_G.pth'
    if file.exists() and change({}) == {}: return file
    torch.save(change(load_file(f.folder/'state_dict.safetensors')), tmp_path/'latest_net_G.pth')
    return tmp_path/'latest_net_G.pth'

def same_file(net, file, tmp_path, close=lambda k: False, unused=lambda k: False):
    "`net` is written as it was read, but for names that are `close` (to 6e-8) or `unused`"
    a = torch.load(file, weights_only=True, map_location='cpu')
    b = torch.load(save_official(net, tmp_path/'again.pth'), weights_only=True)
    assert set(a) == set(b)
    for k, v in a.items():
        assert v.shape == b[k].shape and v.dtype == b[k].dtype, k
        if not unused(k): assert torch.equal(v, b[k]) or close(k) and (v - b[k]).abs().max() < 1e-7, k

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
    same_file(net, file, tmp_path, is_scale)

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
    lost = [f'fc_mu{i}.' for i in range(5, 19)] + ['Spade.param_free_norm', 'up_3.ace_s.blend', 'up_3.ace_0.blend',
                                                   'up_3.ace_1.blend']
    same_file(net, file, tmp_path, unused=lambda k: any(o in k for o in lost))

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
    same_file(back, tmp_path/'net.pth', tmp_path, is_scale)

# What does not fit

normal = dict(upsampling='normal')

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
