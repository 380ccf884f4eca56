"Gradients against finite differences; the faster ways against the clear networks; that they step aside"
import copy, itertools
from functools import partial
import pytest, torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from fastai.layers import PixelShuffle_ICNR
from clear import agrees
from spade_fastai.core import *
from spade_fastai.nets.norms import *
from spade_fastai.nets.spectral import *
from spade_fastai.nets.starts import *
from spade_fastai.nets.generator import *
from spade_fastai.nets.critic import *
from spade_fastai.fast.ways import *
from spade_fastai.fast.recompute import remade
from spade_fastai.fast.switch import faster

forced = dict(dense_below=0, share=99., small_map=0)     # the faster ways at any size

def lively(net, scale=.3):
    "`net` in float64 with weights of a size at which numbers neither vanish nor drown in tanh's ends"
    g = torch.Generator().manual_seed(0)
    for p in net.parameters():
        std = .15 if p.ndim < 2 else p[0].numel()**-.5
        p.data.copy_(torch.randn(p.shape, generator=g)*std*scale)
    for m in net.modules():
        if parametrize.is_parametrized(m) and isinstance(sn := m.parametrizations.weight[0], SpectralNorm):
            sn.iterate(m.parametrizations.weight.original.data.flatten(1), 30)          # its vectors follow the weights
    return net.double()

def learning(net):
    "`net` in training mode, but for spectral norm's vectors, which are constants for the gradient and must not move"
    net.train()
    for m in net.modules():
        if isinstance(m, SpectralNorm): m.eval()
    return net

def slopes(loss, p, picks, h=1e-5):
    "Differences of `loss()` by some numbers of parameter `p`, to the right and to the left: [n,2]"
    out, flat, here = [], p.data.view(-1), float(loss())
    for i in picks:
        was = flat[i].item()
        flat[i] = was + h
        right = (float(loss()) - here)/h
        flat[i] = was - h
        left = (here - float(loss()))/h
        flat[i] = was
        out.append((right, left))
    return torch.tensor(out, dtype=torch.float64)

def frozen(net):
    "A call of `net` in training mode that leaves its buffers as they were: one function, however often it is asked"
    buffers = {k: v.clone() for k, v in net.named_buffers()}
    def call(*args, **kwargs):
        for k, v in net.named_buffers(): v.data.copy_(buffers[k])
        return net(*args, **kwargs)
    return call

def check_gradients(net, out, n=4, eps=1e-4):
    "Every parameter of `net`: some entries of its gradient against finite differences of a loss of `out(call)`"
    call = frozen(net)
    with torch.no_grad(): probe = [torch.randn_like(o) for o in out(call)]
    loss = lambda: sum((o*p).sum() for o, p in zip(out(call), probe, strict=True))
    net.zero_grad()
    loss().backward()
    for name, p in net.named_parameters():
        picks = torch.randperm(p.numel())[:n].tolist()
        with torch.no_grad(): sides = slopes(loss, p, picks)
        got, want, largest = p.grad.view(-1)[picks], sides.mean(1), max(1e-3, p.grad.abs().max().item())
        smooth = (sides[:, 0] - sides[:, 1]).abs() <= eps*largest     # a ReLU that turns on between has no slope there
        assert smooth.sum() >= len(picks)/2, f'{name}: {sides.tolist()}'
        assert ((got - want)[smooth].abs() <= eps*largest).all(), f'{name}: {got.tolist()} against {want.tolist()}'

starts = dict(map=MapStart, noise=partial(NoiseStart, nz=3, size=(4, 4)), both=partial(MapNoiseStart, nz=3),
              field=partial(MapFieldStart, nz=3))
table = [dict(ups=ups, base=base, start='map') for ups, base in itertools.product(((1, 0), (1, 1), (0, 1)), base_norms)]
table += [dict(ups=(1, 1), base='batch', start=o) for o in list(starts)[1:]]
table += [dict(ups=(1, 0), base='batch', start='map', weight_norm=nn.Identity()),
          dict(ups=(1, 1), base='instance', start='map', other_norm=spectral),
          dict(ups=(1, 1), base='batch', start='map', up=PixelShuffle_ICNR),
          dict(ups=(1, 1), base='batch', start='map', encode=partial(ClassEmbed, dim=3)),
          dict(ups=(1, 1), base='batch', start='map', large=True)]

@pytest.mark.parametrize('fast', [False, True], ids=['clear', 'fast'])
@pytest.mark.parametrize('case', table, ids=lambda o: '-'.join(str(getattr(v, '__name__', v)) for v in o.values())[:60])
def test_generator_against_finite_differences(case, fast):
    case = dict(case)
    ups, large = case.pop('ups'), case.pop('large', False)
    norm = partial(SPADE, base=case.pop('base'), hidden=6)
    gen = SPADEGenerator(4, nf=2, mults=(2, 2, 1), ups=ups, norm=norm, **{**case, 'start': starts[case['start']]})
    learning(lively(gen))
    if fast: faster(gen)
    size = [o*gen.scale for o in (gen.start.size or ((12, 10) if large else (4, 4)))]
    mask = torch.randint(0, 4, (2, size[0]//2, size[1]//2)).repeat_interleave(2, 1).repeat_interleave(2, 2)
    z = gen.draw_z(2, mask.shape[1:])
    with with_limits(**(forced if fast else {})): check_gradients(gen, lambda call: [call(mask, z)])

@pytest.mark.parametrize('fast', [False, True], ids=['clear', 'fast'])
@pytest.mark.parametrize('kw', [dict(), dict(other_norm=spectral), dict(encode=partial(ClassEmbed, dim=3))])
def test_critic_against_finite_differences(kw, fast):
    critic = learning(lively(MultiscaleDiscriminator(4, nf=3, n_layers=3, **kw)))
    if fast: faster(critic)
    mask, pics = torch.randint(0, 4, (2, 24, 24)), torch.randn(4, 3, 24, 24).double()
    check_gradients(critic, lambda call: [o for scale in call(pics, torch.cat([mask, mask])) for o in scale])

@pytest.mark.parametrize('base', base_norms)
@pytest.mark.parametrize('fast', [False, True], ids=['clear', 'fast'])
def test_norm_against_finite_differences(base, fast):
    norm = lively(SPADE(32, OneHot(4), base=base, hidden=6)).train()      # 32 channels: two groups
    if fast: faster(norm)
    x, cond = torch.randn(2, 32, 6, 5).double(), OneHot(4).double()(torch.randint(0, 4, (2, 6, 5)))
    norm.x = nn.Parameter(x)                                              # its gradient is asked for, too
    with with_limits(**(forced if fast else {})): check_gradients(norm, lambda call: [call(norm.x, cond)])

@pytest.mark.parametrize('momentum,mean,var', [(.25, [.75, 1.25], [.75 + 5/3, .75]), (None, [3, 5], [20/3, 0])])
@pytest.mark.parametrize('fast', [False, True], ids=['clear', 'fast'])
def test_running_statistics_by_hand(momentum, mean, var, fast):
    "0, 2, 4, 6: mean 3, unbiased variance 20/3; momentum None is the mean over all batches, here the first"
    norm = SPADE(2, OneHot(4), hidden=6).train()
    norm.param_free_norm.momentum = momentum
    x, cond = torch.tensor([[[[0., 2], [4, 6]], [[5., 5], [5, 5]]]]), OneHot(4)(torch.tensor([[[0, 1], [2, 3]]]))
    with with_limits(**forced): (faster(norm) if fast else norm)(x, cond)
    assert norm.param_free_norm.running_mean.tolist() == pytest.approx(mean)
    assert norm.param_free_norm.running_var.tolist() == pytest.approx(var)
    assert norm.param_free_norm.num_batches_tracked == 1

# A tensor changed in place after its note

class OwnBlock(nn.Module):
    "A block of a user's: a SPADE, an activation in place, a convolution"
    def __init__(self, act):
        super().__init__()
        self.norm, self.act, self.conv = SPADE(4, OneHot(4), hidden=6), act, nn.Conv2d(4, 3, 3)
    def forward(self, x, cond): return self.conv(self.act(self.norm(x, cond)))

@pytest.mark.parametrize('act', [nn.LeakyReLU(.2, inplace=True), nn.ReLU(inplace=True), nn.SiLU(inplace=True),
                                 nn.Hardtanh(inplace=True)], ids=lambda o: type(o).__name__)
def test_activation_in_place_after_a_fast_norm(act):
    block = faster(lively(OwnBlock(act)).train())
    x, cond = torch.randn(2, 4, 6, 5).double(), OneHot(4).double()(torch.randint(0, 4, (2, 6, 5)))
    def out(call):
        with remade(): return [call(x, cond)]
    with with_limits(**forced): check_gradients(block, out)

in_place = [lambda t: t.mul_(2), lambda t: t.clamp_(-1, 1), lambda t: t.div_(3), lambda t: t[:, :1].zero_()]

@pytest.mark.parametrize('change', in_place)
def test_any_change_in_place_drops_the_note(change):
    class Changed(nn.Module):
        def forward(self, x): change(x); return x
    block = faster(lively(OwnBlock(Changed())).train())
    x, cond = torch.randn(2, 4, 6, 5).double(), OneHot(4).double()(torch.randint(0, 4, (2, 6, 5)))
    def out(call):
        with remade(): return [call(x, cond)]
    with with_limits(**forced): check_gradients(block, out)

# Modules that are not what a way was written for

class Leaky(SPADE):
    def __init__(self, nf, encode, **kw):
        super().__init__(nf, encode, **kw)
        self.mlp_shared[1] = nn.LeakyReLU(.2)

class Deeper(SPADE):
    def __init__(self, nf, encode, hidden=8, **kw):
        super().__init__(nf, encode, hidden=hidden, **kw)
        self.mlp_shared.append(nn.Conv2d(hidden, hidden, 3, padding=1))

class Other(SPADE):
    def gamma_beta(self, cond, size): return torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)

class Shifted(SPADE):
    def forward(self, x, cond): return super().forward(x, cond) + 1

def change_layer(norm): norm.mlp_shared[1] = nn.LeakyReLU(.2)
def change_conv(norm): norm.mlp_gamma.padding_mode = 'circular'; norm.mlp_gamma._reversed_padding_repeated_twice = [1]*4
def change_method(norm): norm.gamma_beta = lambda cond, size: (torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
def change_dilation(norm): norm.mlp_beta.dilation, norm.mlp_beta.padding = (2, 2), (2, 2)
def change_forward(norm): norm.mlp_beta.forward = lambda h: 0*h[:, :8]
class OddNorm(nn.BatchNorm2d):
    def forward(self, x): return super().forward(x) + 1
def change_base(norm): norm.param_free_norm = OddNorm(8, affine=False)
def hooked(norm): norm.mlp_gamma.register_forward_hook(lambda m, i, o: 2*o)

changes = [change_layer, change_conv, change_method, change_dilation, change_forward, change_base, hooked]
def changed(change, *args):
    "A SPADE with a change"
    change(norm := SPADE(*args))
    return norm

@pytest.mark.parametrize('make', [Leaky, Deeper, Other, Shifted, *(partial(changed, c) for c in changes)],
                         ids=['leaky', 'deeper', 'gamma_beta', 'forward', *(c.__name__ for c in changes)])
@pytest.mark.parametrize('mode', [True, False], ids=['train', 'eval'])
def test_what_is_not_the_papers_is_computed_as_it_is_written(make, mode):
    enc = OneHot(4)
    norm, x, mask = make(8, enc).train(mode), torch.randn(2, 8, 32, 32), torch.randint(0, 4, (2, 4, 4))
    fast = faster(copy.deepcopy(norm))
    with with_limits(**forced): got = fast(x, enc(mask))
    assert torch.allclose(got, norm(x, enc(mask)), atol=1e-6)

@pytest.mark.parametrize('make', [Leaky, Deeper, Shifted], ids=['leaky', 'deeper', 'forward'])
def test_a_generator_of_such_norms_draws_and_learns_as_it_is_written(make):
    gen = lively(SPADEGenerator(4, nf=4, mults=(2, 1), ups=(1,), norm=make))
    fast, mask = faster(copy.deepcopy(gen)), torch.randint(0, 4, (2, 16, 16))
    for mode in (True, False):
        with with_limits(**forced), torch.set_grad_enabled(mode):
            assert torch.allclose(fast.train(mode)(mask), gen.train(mode)(mask), atol=1e-9)

def test_an_encoder_that_looks_further_is_not_taken_for_one_that_does_not():
    class Blurred(OneHot):
        def encode(self, ids):
            seg = super().encode(ids).float()
            return F.avg_pool2d(seg, 3, 1, 1)
    enc, x, mask = Blurred(4), torch.randn(2, 8, 32, 32), torch.randint(0, 4, (2, 32, 32))
    norm = SPADE(8, enc)
    with with_limits(**forced): got = faster(copy.deepcopy(norm))(x, enc(mask))
    assert torch.allclose(got, norm(x, enc(mask)), atol=1e-6)

def test_the_class_changed_after_the_fact():
    norm, enc, x = SPADE(8, OneHot(4)), OneHot(4), torch.randn(2, 8, 16, 16)
    cond, was = enc(torch.randint(0, 4, (2, 16, 16))), SPADE.gamma_beta
    try:
        SPADE.gamma_beta = lambda self, cond, size: (torch.zeros(1), torch.full((1,), 7.))
        with with_limits(**forced): assert torch.allclose(faster(norm)(x, cond), norm.param_free_norm(x) + 7, atol=1e-5)
    finally: SPADE.gamma_beta = was

# Drawing by the folded copy

def small_gen(**kw): return faster(lively(SPADEGenerator(4, nf=4, mults=(2, 2, 1), ups=(1, 1), **kw)).float().eval())

writes = dict(
    zero     = lambda p: p.data.zero_(),
    negative = lambda p: p.data.neg_(),
    flipped  = lambda p: p.data.copy_(p.data.flip(0)),
    clamped  = lambda p: p.data.clamp_(-.01, .01),
    numpy    = lambda p: p.detach().numpy().__imul__(3),
    swapped  = lambda p: setattr(p, 'data', p.data*2))

@pytest.mark.parametrize('write', writes.values(), ids=writes)
@pytest.mark.parametrize('weight_norm', [nn.Identity(), spectral], ids=['plain', 'spectral'])
def test_no_write_leaves_a_stale_copy(write, weight_norm):
    gen, mask = small_gen(weight_norm=weight_norm), torch.randint(0, 4, (2, 16, 16))
    before = agrees(gen, mask)
    for p in gen.blocks[0].norm_0.mlp_gamma.parameters(): write(p)
    write(gen.conv_img.weight)
    assert not torch.equal(agrees(gen, mask), before)

fused_adam, fused_sgd = (partial(o, fused=True) for o in (torch.optim.Adam, torch.optim.SGD))

@pytest.mark.parametrize('make', [fused_adam, torch.optim.Adam, fused_sgd])
def test_no_optimiser_leaves_a_stale_copy(make):
    gen, mask = small_gen(weight_norm=nn.Identity()), torch.randint(0, 4, (2, 16, 16))
    before, opt = agrees(gen, mask), make(gen.parameters(), lr=.01)
    gen.train()(mask).square().sum().backward()
    gen.eval(); agrees(gen, mask)
    opt.step()
    assert not torch.equal(agrees(gen, mask), before)

def test_hooks_fire_when_drawing():
    gen, mask, seen = small_gen(), torch.randint(0, 4, (2, 16, 16)), []
    agrees(gen, mask)
    heard = gen.blocks[0], gen.blocks[1].norm_0, gen.conv_img
    hooks = [m.register_forward_hook(lambda m, *_: seen.append(type(m).__name__)) for m in heard]
    with torch.no_grad(): gen(mask)
    assert seen == ['SPADEResBlk', 'SPADE', 'Conv2d']
    for h in hooks: h.remove()
    with torch.no_grad(): gen(mask)
    assert len(seen) == 3

def test_a_changed_hook_result_counts():
    gen, mask = small_gen(), torch.randint(0, 4, (1, 16, 16))
    before = agrees(gen, mask)
    gen.blocks[1].norm_0.register_forward_hook(lambda m, i, o: 0*o)
    assert not torch.allclose(agrees(gen, mask), before, atol=1e-3)

# Export

def exported(gen, mask, z, dynamic=None):
    args = (mask,) if z is None else (mask, z)
    return torch.export.export(gen, args, dynamic_shapes=dynamic, strict=False)

@pytest.mark.parametrize('start', ['map', 'both'])
@pytest.mark.parametrize('fast', [False, True], ids=['clear', 'fast'])
def test_export_of_fixed_size(start, fast):
    gen = lively(SPADEGenerator(4, nf=4, mults=(2, 2, 1), ups=(1, 1), start=starts[start])).float().eval()
    if fast: faster(gen)
    mask = torch.randint(0, 4, (2, 16, 16))
    z = gen.draw_z(2, mask.shape[1:])
    program = exported(gen, mask, z)
    with torch.no_grad(), plain_math():
        other = mask.flip(1)
        for m in (mask, other):
            got = program.module()(*([m] if z is None else [m, z]))
            assert torch.allclose(got, gen(m, z), atol=1e-5)

def test_export_of_any_size_and_batch():
    gen = faster(lively(SPADEGenerator(4, nf=4, mults=(2, 2, 1), ups=(1, 1))).float().eval())
    b = torch.export.Dim('b', min=1, max=16)
    h, w = (torch.export.Dim(k, min=2, max=64) for k in 'hw')
    program = exported(gen, torch.randint(0, 4, (2, 16, 24)), None, {'mask': {0: b, 1: 4*h, 2: 4*w}})
    for size in ((1, 8, 8), (3, 20, 12), (2, 40, 64)):
        mask = torch.randint(0, 4, size)
        with torch.no_grad(), plain_math(): assert torch.allclose(program.module()(mask), gen(mask), atol=1e-5)

@pytest.mark.parametrize('dynamic', [False, True], ids=['fixed', 'dynamic'])
def test_onnx(tmp_path, dynamic):
    ort = pytest.importorskip('onnxruntime', reason='needs the extra `export`')
    gen = faster(lively(SPADEGenerator(4, nf=4, mults=(2, 2, 1), ups=(1, 1), start=starts['both'])).float().eval())
    mask, z, file = torch.randint(0, 4, (2, 16, 24)), torch.randn(2, 3), tmp_path/'gen.onnx'
    dims = [torch.export.Dim(k, min=1, max=64) for k in 'bhw']
    shapes = dict(mask={0: dims[0], 1: 4*dims[1], 2: 4*dims[2]}, z={0: dims[0]}) if dynamic else None
    options = dict(input_names=['mask', 'z'], dynamic_shapes=shapes, external_data=False)
    torch.onnx.export(gen, (mask, z), str(file), dynamo=True, **options)
    run = ort.InferenceSession(str(file), providers=['CPUExecutionProvider'])
    for size in ((2, 16, 24), (3, 20, 12), (1, 32, 8)) if dynamic else ((2, 16, 24),):
        mask, z = torch.randint(0, 4, size), torch.randn(size[0], 3)
        with torch.no_grad(), plain_math(): want = gen(mask, z)
        got, = run.run(None, dict(mask=mask.numpy(), z=z.numpy()))
        assert abs(torch.from_numpy(got) - want).max() < 1e-5
