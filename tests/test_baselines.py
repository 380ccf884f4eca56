"The networks that SPADE is compared with: each trains, draws, saves, loads and exports as SPADE does"
import warnings
from functools import partial
import numpy as np, pytest, torch
from torch import nn
from fastai.vision.all import Callback, ProgressCallback, load_learner, noop
from spade_fastai.core import Cond, OneHot, TensorInstance
from spade_fastai.fast.switch import faster
from spade_fastai.nets.norms import SPADE, base_norms
from spade_fastai.nets.generator import SPADEGenerator
from spade_fastai.nets.concat import CRN, AffineNorm, ConcatNorm
from spade_fastai.nets.pix2pix import DownStart, GlobalGenerator, InstanceEncoder, UNetGenerator
from spade_fastai.nets.pix2pix import mean_of_regions, things
from spade_fastai.train.losses import FeatureMatchingLoss, GeneratorLoss, LeastSquaresLoss
from spade_fastai.baselines import PixelGeneratorLoss, baselines, pix2pixhd_weights
from spade_fastai.learner import spade_learner
from spade_fastai.saving import load_gan, load_spade
from test_own_parts import N_CLASSES, data, style_of

SMALL = {'pix2pixHD': dict(nf=4, n_down=2, n_blocks=1), 'pix2pix': dict(nf=4, n_down=3),
         'CRN': dict(nf=4, mults=(2, 2, 1)),
         'mask at the input': dict(nf=8, mults=(4, 2, 1), ups=(1, 1), start=partial(DownStart, n_down=2)),
         'concatenation': dict(nf=8, mults=(4, 2, 1), ups=(1, 1))}

class Reached(Callback):
    "Names of the parameters that a gradient reached"
    def __init__(self): self.names = set()
    def before_step(self):
        self.names |= {n for n, p in self.model.named_parameters() if p.grad is not None and p.grad.any()}

def learner(name, dls, path, small=None, **kwargs):
    dls.n_classes = N_CLASSES
    torch.manual_seed(0)
    args = baselines[name](dls, **{**SMALL[name], **(small or {})})
    args['critic'] = {**args.get('critic', {}), 'nf': 4, 'n_layers': 2}
    learn = spade_learner(dls, **args, sample_grid=None, path=path, **kwargs)
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    nn.init.normal_(learn.model.generator.conv_img.weight, 0, .3)               # pictures far from grey
    return learn

def numbers(picture): return np.array(picture).astype(int)
def names(net, before): return {f'{before}.{n}' for n, _ in net.named_parameters()}

# The whole way

@pytest.mark.parametrize('name', baselines)
def test_whole_way(name, tmp_path):
    dls, (mask, _) = data()
    learn, reached = learner(name, dls, tmp_path), Reached()
    critic = {k: v.clone() for k, v in learn.model.critic.state_dict().items() if 'parametrizations' not in k}
    learn.fit(1, cbs=reached)
    must = names(learn.model.generator, 'generator') | (set() if name == 'CRN' else names(learn.model.critic, 'critic'))
    assert reached.names == must
    assert name != 'CRN' or all(torch.equal(v, learn.model.critic.state_dict()[k]) for k, v in critic.items())
    assert np.isfinite([v for v in learn.recorder.values[-1] if v is not None]).all()
    want = numbers(learn.generate(mask, seed=3))
    assert want.std() > 1
    assert (numbers(learn.generate(mask.roll(5, -1), seed=3)) != want).any()
    gen = load_spade(learn.save_spade(tmp_path/'m.safetensors'))
    assert np.array_equal(numbers(gen.generate(mask, seed=3)), want)
    assert type(load_gan(tmp_path/'m.safetensors').generator) is type(learn.model.generator)
    learn.export('l.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert np.array_equal(numbers(load_learner(tmp_path/'l.pkl').generate(mask, seed=3)), want)

@pytest.mark.parametrize('name', baselines)
def test_things_and_pixels_without_a_label(name, tmp_path):
    "The learner's data have instances and don't-care pixels: so has the generator"
    dls, (mask, things, _) = data(instance=lambda mask, picture: TensorInstance(mask))
    dls.ignore = 255
    learn = learner(name, dls, tmp_path)
    assert learn.model.generator.encode.nc == learn.model.critic.encode.nc == N_CLASSES + 2
    learn.fit(1)
    drawn = numbers(learn.generate(mask, seed=3, instance=things))
    assert (numbers(learn.generate(mask, seed=3, instance=things*0)) != drawn).any()
    unknown = mask.clone(); unknown[:4] = N_CLASSES
    assert (numbers(learn.generate(unknown, seed=3, instance=things)) != drawn).any()

def test_features_of_things_from_a_style_picture(tmp_path):
    dls, (mask, style, _) = data(style=style_of)
    learn = learner('pix2pixHD', dls, tmp_path, small=dict(nz=3), encoder=InstanceEncoder(nf=4, n_down=2))
    reached = Reached()
    learn.fit(1, cbs=reached)
    assert names(learn.model.encoder, 'encoder') <= reached.names
    for p in learn.model.encoder.parameters(): nn.init.normal_(p, 0, .2)
    drawn = numbers(learn.generate(mask, style=(style, mask)))
    gen = load_spade(learn.save_spade(tmp_path/'m.safetensors'))
    assert np.array_equal(numbers(gen.generate(mask, style=(style, mask))), drawn)
    assert (numbers(gen.generate(mask, style=(-style, mask))) != drawn).any()
    assert (numbers(gen.generate(mask, seed=1)) != numbers(gen.generate(mask, seed=2))).any()
    line = gen.interpolate(mask, (style, mask), (-style, mask), 3)
    assert np.array_equal(numbers(line[0]), drawn) and (numbers(line[1]) != drawn).any()
    large = style.repeat_interleave(2, -1)                                      # a style picture of another size
    assert numbers(gen.generate(mask, style=large)).shape == drawn.shape

def test_no_classes_told():
    dls, _ = data()
    with pytest.raises(ValueError, match='pass `n_classes=`'): baselines['CRN'](dls)
    assert baselines['CRN'](dls, n_classes=7)['generator'].n_classes == 7

# Values by hand

def test_means_over_things():
    x = torch.tensor([[[[1., 2], [6, 8]]], [[[0., 2], [4, 2]]]])
    regions = torch.tensor([[[7, 7], [7, 1]], [[7, 7], [7, 7]]])
    assert mean_of_regions(x, regions)[:, 0].tolist() == [[[3, 3], [3, 8]], [[2, 2], [2, 2]]]
    outside = torch.tensor([[[-1, -1], [0, 0]], [[0, 0], [-1, 0]]])             # -1 of one picture is not 0 of another
    want = torch.tensor([[[1.5, 1.5], [7, 7]], [[4/3, 4/3], [4, 4/3]]])
    assert torch.allclose(mean_of_regions(x, outside)[:, 0], want)
    ids, instance = torch.tensor([[[0, 0], [1, 1]]]), torch.tensor([[[5, 6], [5, 5]]])
    assert things(Cond(ids, instance=instance)).unique(return_counts=True)[1].tolist() == [1, 1, 2]
    assert torch.equal(things(Cond(ids)), ids)

@pytest.mark.parametrize('n_layers, n_scales', [(4, 2), (3, 2), (4, 3), (4, 1)])
def test_weights_of_pix2pixhd(n_layers, n_scales):
    "Written out as they are in Wang et al. 2018, and their code: sums over scales, the critic's halved"
    layer = lambda: [torch.randn(2, 3, 4, 4) for _ in range(n_layers)] + [torch.randn(2, 1, 4, 4)]
    fake, real = ([layer() for _ in range(n_scales)] for _ in range(2))
    w = pix2pixhd_weights(n_layers, n_scales)
    ours = GeneratorLoss(LeastSquaresLoss, FeatureMatchingLoss)(fake, real, None, None)
    n = n_layers - 1                                                            # as their code counts
    theirs = sum(10*4/(n + 1)/n_scales*(a - b).abs().mean() for f, r in zip(fake, real, strict=True)
                 for a, b in zip(f[:-1], r[:-1], strict=True))
    assert torch.allclose(w['feat']*ours['feat'], theirs)
    assert torch.allclose(w['gan']*ours['gan'], sum((f[-1] - 1).square().mean() for f in fake))

def test_the_pixel_term():
    loss = PixelGeneratorLoss(gan=None, feat=None)
    assert loss.names == ['l1']
    assert float(loss([], [], torch.tensor([1., -1]), torch.tensor([0., 0]))['l1']) == 1

@pytest.mark.parametrize('base', base_norms)
@pytest.mark.parametrize('edges', [False, True])
def test_concatenation_is_the_plain_norm_beside_the_map(base, edges):
    enc, x, mask = OneHot(3, edges=edges), torch.randn(2, 32, 4, 6), torch.randint(0, 3, (2, 8, 12))
    norm = ConcatNorm(32, enc, base=base)
    cond = enc(mask, mask)
    y = norm(x, cond)
    assert norm.appends == enc.nc == 3 + edges and y.shape == (2, 32 + enc.nc, 4, 6)
    assert torch.equal(y[:, :32], norm.param_free_norm(x)) and torch.equal(y[:, 32:], cond.at((4, 6)).seg)

@pytest.mark.parametrize('norm', [ConcatNorm, AffineNorm, (SPADE, ConcatNorm)])
def test_fast_ways_step_aside(norm):
    "What no way was written for runs as written: the same picture, the same gradients; beside a SPADE too"
    torch.manual_seed(0)
    gen = SPADEGenerator(5, nf=8, mults=(4, 2, 1), ups=(1, 1), norm=norm)
    for p in gen.parameters():
        if p.ndim > 1: nn.init.normal_(p, 0, .1)
    mask, states = torch.randint(0, 5, (2, 16, 16)), {k: v.clone() for k, v in gen.state_dict().items()}
    pictures, grads = [], []
    for on in (False, True):
        gen.load_state_dict(states)
        faster(gen, on=on).train().zero_grad()
        gen(mask).square().sum().backward()
        grads.append([p.grad.clone() for p in gen.parameters()])
        with torch.no_grad(): pictures.append(gen.eval()(mask))
    assert torch.allclose(*pictures, atol=1e-4)
    largest = max(float(o.abs().max()) for o in grads[0])
    for a, b in zip(*grads, strict=True): assert torch.allclose(a, b, rtol=1e-2, atol=1e-5*largest)

# Washed away

def all_of(cls): return torch.full((1, 16, 16), cls)

@pytest.mark.parametrize('start', [
    lambda: GlobalGenerator(5, nf=4, n_down=2).start, lambda: DownStart(16, OneHot(5), n_down=2)])
def test_instance_norm_makes_zeros_of_a_mask_of_one_class(start):
    net = start().layers[0]
    enc = OneHot(5)
    for cls in range(5): assert net(enc(all_of(cls)).seg).abs().max() < 1e-4
    half = all_of(0); half[:, :8] = 1
    assert net(enc(half).seg).abs().max() > .1

@pytest.mark.parametrize('norm', [partial(SPADE, hidden=8), ConcatNorm])
def test_a_mask_at_every_layer_stays(norm):
    torch.manual_seed(0)
    gen = SPADEGenerator(5, nf=8, mults=(4, 2, 1), ups=(1, 1), norm=partial(norm, base='instance')).double()
    for p in gen.parameters():
        if p.ndim > 1: nn.init.normal_(p, 0, .1)
    with torch.no_grad(): assert (gen(all_of(0)) - gen(all_of(1))).abs().mean() > 1e-2

# What does not fit

@pytest.mark.parametrize('shape', [(1, 3), (1, 5, 4), (1, 4, 8, 8), (3,)])
def test_z_that_does_not_fit(shape):
    gen = GlobalGenerator(5, nf=4, n_down=2, n_blocks=1, nz=3)
    with pytest.raises(ValueError, match='one feature a class, or a map'): gen(all_of(0), torch.zeros(shape))

def test_a_map_of_one_pixel():
    gen = SPADEGenerator(5, nf=8, mults=(4, 2, 1), ups=(1, 1), norm=AffineNorm, start=partial(DownStart, n_down=2))
    with pytest.raises(ValueError, match='a map of one pixel'): gen(torch.zeros(2, 4, 4, dtype=torch.long))
    assert gen(torch.zeros(2, 4, 8, dtype=torch.long)).shape == (2, 3, 4, 8)

@pytest.mark.parametrize('make, size, said', [
    (lambda: GlobalGenerator(5, nf=4, n_down=3), (64, 60), 'multiples of 8, for example 64×64'),
    (lambda: GlobalGenerator(5, nf=4, n_down=3), (8, 64), 'too small for 3 halvings; height and width must be 16 or'),
    (lambda: UNetGenerator(5, nf=4, n_down=4), (40, 64), 'multiples of 16, for example 32×64'),
    (lambda: CRN(5, nf=4, mults=(2, 2, 1)), (18, 16), 'multiples of 4, for example 16×16'),
    (lambda: SPADEGenerator(5, nf=4, mults=(4, 1), ups=(2,), norm=ConcatNorm), (18, 16), 'multiples of 4')])
def test_sizes_that_do_not_fit(make, size, said):
    gen = make()
    for ask in (gen.fits, lambda size: gen(torch.zeros(1, *size, dtype=torch.long))):
        with pytest.raises(ValueError, match=said): ask(size)

@pytest.mark.parametrize('make, said', [
    (lambda: GlobalGenerator(5, n_down=0), 'n_down=0 must be a whole number, 1 or more'),
    (lambda: UNetGenerator(5, n_down=1), 'nothing to skip'),
    (lambda: CRN(5, mults=(2,)), 'two modules or more'), (lambda: CRN(5, nf=1, mults=(2, .5)), 'less than one channel'),
    (lambda: DownStart(8, OneHot(5), n_down=4), '8 channels cannot be halved 4 times'),
    (lambda: InstanceEncoder(n_down=0), 'must be 1 or more'),
    (lambda: UNetGenerator(5, norm='layer'), "no norm is called 'layer'; there are")])
def test_arguments_that_do_not_fit(make, said):
    with pytest.raises(ValueError, match=said): make()
