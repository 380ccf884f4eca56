"Our networks and losses against numbers recorded from the official PyTorch code: outputs in both modes, buffers, gradients."
from functools import partial
import pytest, torch
from safetensors.torch import load_file
from spade_fastai.core import *
from spade_fastai.norms import *
from spade_fastai.generator import *
from spade_fastai.discriminator import *
from spade_fastai.losses import *
from parity import Fixture, our_key

@pytest.fixture
def fixture(shared): return lambda name: Fixture(shared/'parity'/name)

def test_nearest_resize(fixture):
    f = fixture('nearest_resize')
    for n_in, n_out in f.hyper['pairs']: assert nearest_index(n_in, n_out).tolist() == f.t[f'main/index_{n_in}_{n_out}'].tolist()

@pytest.mark.parametrize('name,base,ks,count', [('batch', 'batch', 3, 31), ('instance', 'instance', 3, 22), ('syncbatch_ks5', 'sync', 5, 26)])
def test_spade_layer(fixture, name, base, ks, count):
    f = fixture(f'spade_layer_{name}')
    net = SPADE(f.hyper['norm_nc'], OneHot(f.hyper['label_nc']), base=base, ks=ks)
    run = lambda case, i: dict(out=net(i['x'], Cond(seg=i['seg'])))
    assert f.check(net, run, ('x', 'seg')) == count      # tensors compared: none may silently drop out
    label = OneHot(f.hyper['label_nc'])(f.t['main/in/label'])      # ids and recorded map are the same condition
    assert torch.equal(label.seg, f.t['main/in/seg'])

@pytest.mark.parametrize('name,count', [('same', 42), ('learned', 59)])
def test_spade_resblk(fixture, name, count):
    f = fixture(f'spade_resblk_{name}')
    x, out = f.t['main/in/x'], f.t['main/eval/out']
    net = SPADEResBlk(x.shape[1], out.shape[1], partial(SPADE, encode=OneHot(5), base='batch'))
    assert f.check(net, lambda case, i: dict(out=net(i['x'], Cond(seg=i['seg']))), ('x', 'seg')) == count

def official_generator(h, **kw):
    layout = layouts[h['num_upsampling_layers']]
    width = h['crop_size']//2**sum(layout['ups'])
    start = partial(NoiseStart, nz=256, size=(round(width/h['aspect_ratio']), width)) if h['use_vae'] else MapStart
    encode = partial(OneHot, dontcare=h['contain_dontcare_label'], edges=not h['no_instance'])
    return SPADEGenerator(h['label_nc'], nf=h['ngf'], encode=encode, start=start, **layout)

@pytest.mark.parametrize('name,count', [('normal', 380), ('dontcare_instance', 380), ('more_vae', 382), ('most', 107)])
def test_generator(fixture, name, count):
    f = fixture(f'generator_{name}')
    net = official_generator(f.hyper)
    def run(case, i): return dict(out=net(i.get('label', i.get('label_raw')), z=i.get('z'), instance=i.get('instance')))
    assert f.check(net, run, ('z',) if name == 'more_vae' else ()) == count

def test_semantics(fixture):
    f = fixture('generator_dontcare_instance')
    cond = OneHot(6, dontcare=True, edges=True)(f.t['main/in/label_raw'], f.t['main/in/instance'])
    assert torch.equal(cond.seg, f.t['main/in/semantics'])

def test_discriminator(fixture):
    f = fixture('discriminator')
    h = f.hyper
    net = MultiscaleDiscriminator(h['label_nc'], nf=h['ndf'], n_layers=h['n_layers_D'], n_scales=h['num_D'])
    run = lambda case, i: {f'd{s}_f{l}': o for s, scale in enumerate(net.features(i['x'])) for l, o in enumerate(scale)}
    assert f.check(net, run, ('x',)) == 79

def _features(t, side, grad=True):
    return [[t[f'main/in/{side}_d{s}_f{l}'].clone().requires_grad_(grad) for l in range(3)] for s in range(2)]

@pytest.mark.parametrize('mode,loss', [('hinge', HingeLoss()), ('ls', LeastSquaresLoss()), ('original', OriginalLoss()), ('w', WassersteinLoss())])
def test_gan_losses(fixture, mode, loss):
    f = fixture('losses')
    for what, side, func in (('D_fake', 'fake', loss.crit_fake), ('D_real', 'real', loss.crit_real), ('G', 'fake', loss.gen)):
        feats = _features(f.t, side)
        value = func(feats)
        f.close(value, f'main/{mode}/{what}')
        value.backward()
        for s in range(2): f.close(feats[s][-1].grad, f'main/grad/{mode}/{what}/d{s}')
        assert all(o.grad is None for scale in feats for o in scale[:-1])

def test_feature_matching_and_kld(fixture):
    f = fixture('losses')
    fake, real = _features(f.t, 'fake'), _features(f.t, 'real')
    value = f.hyper['lambda_feat']*FeatureMatchingLoss()(fake, real)
    f.close(value, 'main/feature_matching')
    value.backward()
    for s in range(2):
        for l in range(2): f.close(fake[s][l].grad, f'main/grad/feature_matching/d{s}_f{l}')
    assert all(o.grad is None for scale in real for o in scale)
    mu, logvar = (f.t[f'main/in/{o}'].clone().requires_grad_() for o in ('mu', 'logvar'))
    value = KLDLoss()(mu, logvar)
    f.close(value, 'main/kld')
    f.close(value*f.hyper['lambda_kld'], 'main/kld_weighted')
    value.backward()
    f.close(mu.grad, 'main/grad/kld/mu'); f.close(logvar.grad, 'main/grad/kld/logvar')

def narrow_vgg(f):
    import torchvision
    net = torchvision.models.vgg.make_layers(f.hyper['layers'])
    lost = net.load_state_dict({k.removeprefix('features.'): v for k, v in load_file(f.folder/'torchvision_features.safetensors').items()}, strict=False)
    assert all(int(k.split('.')[0]) > 29 for k in lost.missing_keys) and not lost.unexpected_keys, lost     # nothing up to relu5_1
    return net

def test_vgg_perceptual(fixture):
    f = fixture('vgg_perceptual')
    loss = VGGLoss(lambda: narrow_vgg(f))
    fake, real = (f.t[f'main/in/{o}'].clone().requires_grad_() for o in ('fake', 'real'))
    feats, value = loss.features(fake), loss(fake, real)
    f.close(value, 'main/eval/loss_value')
    for i, o in enumerate(feats, 1): f.close(o, f'main/eval/slice{i}_fake')
    total = (value*f.t['main/probe/loss_value']).sum() + sum((o*f.t[f'main/probe/slice{i}_fake']).sum() for i, o in enumerate(feats, 1))
    f.close(total, 'main/eval/loss')
    total.backward()
    f.close(fake.grad, 'main/eval/grad/input/fake')
    assert real.grad is None

def test_init(fixture):
    "Standard deviations and means of first weights, and biases of zero"
    f = fixture('init')
    h, stats = f.hyper, f.cfg['statistics']['xavier']
    nets = dict(G=SPADEGenerator(h['label_nc'], nf=h['ngf'], start=partial(NoiseStart, size=(8, 8))),
                D=MultiscaleDiscriminator(h['label_nc'], nf=h['ndf']))
    n = 0
    for which, net in nets.items():
        ours = net.state_dict()
        for key, want in stats[which].items():
            if our_key(key) not in ours: raise AssertionError(f'{which} {key} is missing')
            p = ours[our_key(key)]
            assert list(p.shape) == want['shape'], key
            if want['kind'] == 'bias': assert not p.any(), key
            else:
                std, tol = want['expected_std'], 5/p.numel()**.5
                assert abs(p.std() - std) <= std*tol and abs(p.mean()) <= std*tol, key
            n += 1
    assert n > 100
