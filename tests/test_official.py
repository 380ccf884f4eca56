"Official checkpoints of many configurations: read, run, differentiated, written, against an independent implementation"
import io, pickle, warnings
from functools import partial
import pytest, torch
import reference as ref
from spade_fastai.core import *
from spade_fastai.nets.norms import *
from spade_fastai.nets.spectral import *
from spade_fastai.nets.starts import *
from spade_fastai.nets.generator import *
from spade_fastai.nets.critic import *
from spade_fastai.nets.encoder import *
from spade_fastai.train.losses import *
from spade_fastai.official import *
from spade_fastai.official import official_keys
from spade_fastai.official_names import official_key

def double(sd): return {k: v.double() if v.is_floating_point() else v.clone() for k, v in sd.items()}

def close(a, b, what='', tol=1e-8):
    assert a.shape == b.shape, (what, a.shape, b.shape)
    gap, size = float((a.detach() - b.detach()).abs().max()), max(1, float(b.detach().abs().max()))
    assert gap <= tol*size, f'{what}: differs by {gap:.2e}, largest value {size:.2e}'

BUFFERS = '_u', '_v', 'running_mean', 'running_var'
def mu_logvar(encoder, x):
    _, terms = encoder(x)
    return [terms['mu'], terms['logvar']]

def leaves_of(sd):
    return {k: v.clone().requires_grad_(v.is_floating_point() and not k.endswith(BUFFERS)) for k, v in sd.items()}

def compare(net, sd, ours, theirs, inputs=()):
    """Outputs and gradients of `net` and of the reference on `sd`, both float64, in both modes, and the buffers after
    one training forward.
    `ours(net, *inputs)` and `theirs(sd, train, *inputs)` give a list of tensors."""
    start = double(sd)
    for train in (False, True):
        net.load_state_dict({k: start[official_key(k)] for k in net.state_dict()})
        net.train(train).zero_grad()
        leaves = leaves_of(start)
        state = dict(leaves)
        xs, ys = ([x.double().clone().requires_grad_() for x in inputs] for _ in range(2))
        a, b = ours(net, *xs), theirs(state, train, *ys)
        assert len(a) == len(b)
        probes = [torch.randn(o.shape, dtype=torch.float64) for o in a]
        for i, (p, q) in enumerate(zip(a, b, strict=True)): close(p, q, f'output {i}, train={train}')
        assert max(float(o.std()) for o in a) > 1e-3
        sum((o*p).sum() for o, p in zip(a, probes, strict=True)).backward()
        sum((o*p).sum() for o, p in zip(b, probes, strict=True)).backward()
        params = {official_key(k): p for k, p in net.named_parameters()}
        assert set(params) == {k for k, v in leaves.items() if v.requires_grad}
        for k, p in params.items(): close(p.grad, leaves[k].grad, f'gradient of {k}, train={train}')
        for x, y in zip(xs, ys, strict=True): close(x.grad, y.grad, 'gradient of an input')
        for k, v in net.named_buffers():
            if (k := official_key(k)) in state: close(v, state[k].detach(), f'{k} after a forward, train={train}')
        moved = [k for k in state if not torch.equal(state[k], leaves[k])]
        assert bool(moved) == (train and any(k.endswith(('_u', 'running_mean')) for k in sd))

def written_back(net, sd, folder):
    "What is read is written with the same names, shapes, types and numbers"
    net.double().load_state_dict({k: double(sd)[official_key(k)] for k in net.state_dict()})
    again = torch.load(save_official(net.float(), folder/'ours.pth'), weights_only=True)
    assert set(again) == set(sd)
    for k, v in sd.items(): assert again[k].dtype == v.dtype and torch.equal(again[k], v), k

GENERATORS = dict(  # n: classes; hidden: of SPADE, 128 in the official code, 8 here where that is not the point
    plain       = dict(n=3, ngf=2, upsampling='normal', size=(64, 64), B=3),
    wide        = dict(n=4, hidden=128, ngf=1, upsampling='normal', size=(32, 96), B=2),
    more        = dict(n=2, ngf=1, upsampling='more', size=(64, 128), B=2),
    most        = dict(n=3, ngf=2, upsampling='most', size=(128, 128), B=2),
    instance    = dict(n=3, hidden=128, ngf=1, upsampling='normal', size=(64, 64), B=1, base='instance'),
    ks5         = dict(n=3, ngf=1, upsampling='normal', size=(64, 32), B=2, ks=5),
    ks1         = dict(n=3, ngf=1, upsampling='normal', size=(64, 32), B=2, ks=1, base='instance'),
    no_spectral = dict(n=5, hidden=128, ngf=1, upsampling='normal', size=(64, 32), B=2, sn=False),
    dontcare    = dict(n=3, ngf=1, upsampling='normal', size=(64, 64), B=2, dontcare=True),
    edges       = dict(n=1, ngf=1, upsampling='normal', size=(64, 64), B=2, edges=True),
    vae         = dict(n=3, hidden=128, ngf=1, upsampling='normal', size=(32, 64), B=3, nz=256),
    vae_edges   = dict(n=3, ngf=1, upsampling='more', size=(64, 128), B=2, nz=16, edges=True, dontcare=True,
                       base='instance'),
    vae_most    = dict(n=3, ngf=2, upsampling='most', size=(128, 128), B=2, nz=8),
    rounded     = dict(n=3, ngf=1, upsampling='normal', size=(171, 256), B=1),
)

def setup(c):
    "State dict, hints for `load_official`, inputs"
    extra = {k: c[k] for k in ('dontcare', 'edges') if k in c}
    scale = 2**{'normal': 5, 'more': 6, 'most': 7}[c['upsampling']]
    h, w = c['size']
    start = round(w//scale/(w/h)), w//scale
    area = start[0]*start[1] if 'nz' in c else None
    sd = ref.random_generator(c['n'] + sum(extra.values()), c['ngf'], c['upsampling'], area,
                              hidden=c.get('hidden', 8), **{k: c[k] for k in ('nz', 'base', 'ks', 'sn') if k in c})
    patches = lambda n, h, w, k: torch.randint(0, n, (c['B'], h, w)).repeat_interleave(k, 1).repeat_interleave(k, 2)
    label = patches(c['n'], (h + 3)//4, (w + 3)//4, 4)[:, :h, :w]
    if 'dontcare' in c: label[:, 10:30, 5:25] = 255
    inst = patches(40000, h//8 + 1, w//8 + 1, 8)[:, :h, :w] if 'edges' in c else None
    z = torch.randn(c['B'], c['nz']) if 'nz' in c else None
    hints = dict(extra)
    if c['upsampling'] != 'most': hints.update(upsampling=c['upsampling'])
    if z is not None or h % scale: hints.update(size=c['size'])
    return sd, hints, label, inst, z, start

@pytest.mark.parametrize('name', GENERATORS)
def test_generator(name, tmp_path):
    c = GENERATORS[name]
    sd, hints, label, inst, z, start = setup(c)
    torch.save(sd, tmp_path/'latest_net_G.pth', _use_new_zipfile_serialization=name != 'plain')
    net = load_official(tmp_path/'latest_net_G.pth', **hints)
    assert not net.training and net.n_classes == c['n']
    with torch.no_grad(): pic = net(label, z=z, instance=inst)
    seg = ref.semantics(label, c['n'], c.get('dontcare', False), c.get('edges', False), inst)
    with torch.no_grad():
        want = ref.generator(double(sd), seg, start, c['upsampling'], None if z is None else z.double())
    close(pic, want.float(), 'float32 picture', 2e-4)
    if name == 'rounded': assert pic.shape[2:] == (160, 256)
    ours = lambda net, *z: [net(label, z=z[0] if z else None, instance=inst)]
    theirs = lambda sd, train, *z: [ref.generator(sd, seg, start, c['upsampling'], z[0] if z else None, train)]
    compare(net.double(), sd, ours, theirs, [] if z is None else [z])
    if 'hidden' in c: written_back(net, sd, tmp_path)

CRITICS = dict(
    usual       = dict(n=3, size=(32, 48), B=3),
    deep        = dict(n=2, n_layers=5, n_scales=3, size=(64, 64), B=1, edges=True, dontcare=True),
    shallow     = dict(n=4, n_layers=2, n_scales=1, size=(31, 45), B=2),
    one_layer   = dict(n=1, n_layers=1, n_scales=2, size=(16, 16), B=2),
    wide        = dict(n=1, ndf=200, n_layers=4, n_scales=1, size=(16, 16), B=1),
    no_spectral = dict(n=3, n_layers=3, size=(32, 32), B=2, sn=False),
)

@pytest.mark.parametrize('name', CRITICS)
def test_critic(name, tmp_path):
    c = CRITICS[name]
    extra = {k: c[k] for k in ('dontcare', 'edges') if k in c}
    shape = {k: c[k] for k in ('ndf', 'n_layers', 'n_scales', 'sn') if k in c}
    sd = ref.random_discriminator(c['n'] + sum(extra.values()), **shape)
    torch.save(sd, tmp_path/'D.pth')
    net = load_official(tmp_path/'D.pth', **extra)
    label = torch.randint(0, c['n'], (c['B'], *c['size']))
    inst = torch.randint(0, 3, (c['B'], *c['size'])) if 'edges' in c else None
    if 'dontcare' in c: label[:, :5] = 255
    seg = ref.semantics(label, c['n'], c.get('dontcare', False), c.get('edges', False), inst)
    image = torch.randn(c['B'], 3, *c['size'])
    flat = lambda pred: [o for scale in pred for o in scale]
    n_scales, n_layers = c.get('n_scales', 2), c.get('n_layers', 4)
    theirs = lambda sd, train, x: flat(ref.discriminator(sd, torch.cat([seg, x], 1), n_scales, n_layers, train))
    compare(net.double(), sd, lambda net, x: flat(net(x, label, inst)), theirs, [image])
    written_back(net, sd, tmp_path)

@pytest.mark.parametrize('kw', [dict(), dict(ngf=1, sn=False)])
def test_encoder(kw, tmp_path):
    sd = ref.random_encoder(**kw)
    torch.save(sd, tmp_path/'E.pth')
    net = load_official(tmp_path/'E.pth')
    theirs = lambda sd, train, x: list(ref.encoder(sd, x, train))
    compare(net.double(), sd, mu_logvar, theirs, [torch.randn(2, 3, 50, 71)])
    written_back(net, sd, tmp_path)

# The other norms of critic and encoder, built of torch's own layers and hooks: batch norm with weights, and none

def their_layer(norm, conv):
    bare = norm is None
    c = torch.nn.utils.spectral_norm(conv(bias=bare))
    return c if bare else torch.nn.Sequential(c, norm(c.out_channels))

def their_critic(norm, nc, ndf=4):
    conv, act = partial(torch.nn.Conv2d, kernel_size=4, padding=2), torch.nn.LeakyReLU(.2)
    wide = lambda i: their_layer(norm, partial(conv, ndf*2**i, ndf*2**(i + 1), stride=2 - i))
    layers = [torch.nn.Sequential(conv(nc, ndf, stride=2), act), *(torch.nn.Sequential(wide(i), act) for i in range(2)),
              torch.nn.Sequential(conv(4*ndf, 1, stride=1))]
    net = torch.nn.Module()
    net.discriminator_0 = torch.nn.Module()
    for i, layer in enumerate(layers): net.discriminator_0.add_module(f'model{i}', layer)
    return net, lambda x: [x := layer(x) for layer in layers]

def their_encoder(norm, nf=2):
    widths = [3, nf, 2*nf, 4*nf, *[8*nf]*3]
    net = torch.nn.Module()
    for i, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True), 1):
        net.add_module(f'layer{i}', their_layer(norm, partial(torch.nn.Conv2d, a, b, 3, stride=2, padding=1)))
    net.fc_mu, net.fc_var = (torch.nn.Linear(8*nf*16, 256) for _ in range(2))
    def run(x):
        for i in range(6): x = torch.nn.functional.leaky_relu(getattr(net, f'layer{i + 1}')(x), .2)
        return [net.fc_mu(x.flatten(1)), net.fc_var(x.flatten(1))]
    return net, run

@pytest.mark.parametrize('norm', [torch.nn.BatchNorm2d, None, partial(torch.nn.InstanceNorm2d, affine=False)])
@pytest.mark.parametrize('which', ['critic', 'encoder'])
@pytest.mark.filterwarnings('ignore:`torch.nn.utils.spectral_norm`')
def test_other_norms_of_critic_and_encoder(which, norm, tmp_path):
    torch.manual_seed(0)
    label, x = torch.randint(0, 3, (3, 32, 48)), torch.randn(3, 3, *((32, 48) if which == 'critic' else (256, 256)))
    theirs, run = their_critic(norm, 6) if which == 'critic' else their_encoder(norm)
    for k, v in (*theirs.named_parameters(), *theirs.named_buffers()):
        if v.ndim == 1 and not k.endswith(('_u', '_v')): v.data = 1 + .3*torch.rand(v.shape)
    seen = (torch.cat([ref.semantics(label, 3).float(), x], 1) if which == 'critic' else x).double()
    theirs.double()
    with torch.no_grad(): [run(seen) for _ in range(3)]
    start = {k: v.float() if v.is_floating_point() else v for k, v in theirs.state_dict().items()}
    torch.save(start, tmp_path/'net.pth')
    for train in (False, True):
        theirs.load_state_dict(start)
        net = load_official(tmp_path/'net.pth').double().train(train)
        theirs.train(train).zero_grad()
        ours, want = net(x, label)[0] if which == 'critic' else mu_logvar(net, x), run(seen)
        for a, b in zip(ours, want, strict=True): close(a, b, 'output')
        for outs in (ours, want): sum(o.sin().sum() for o in outs).backward()
        names, params = official_keys(net), dict(theirs.named_parameters())
        for k, p in net.named_parameters(): close(p.grad, params[names[k]].grad, k)
        now = dict(zip(names.values(), net.state_dict().values(), strict=True))
        for k, v in theirs.state_dict().items(): close(now[k].double(), v.double(), k)
    again = save_official(load_official(tmp_path/'net.pth'), tmp_path/'again.pth')
    theirs.load_state_dict(torch.load(again, weights_only=True))
    assert all(torch.equal(v.to(start[k].dtype), start[k]) for k, v in theirs.state_dict().items())

# A whole step of both networks, with each adversarial loss

@pytest.mark.parametrize('mode,loss', [('hinge', HingeLoss), ('ls', LeastSquaresLoss), ('original', OriginalLoss),
                                       ('w', WassersteinLoss)])
@pytest.mark.parametrize('train', [False, True])
def test_losses_through_both_networks(mode, loss, train, tmp_path):
    g, d = ref.random_generator(3, 1, area=2, nz=6, hidden=8), ref.random_discriminator(3, 2, n_layers=3)
    for sd, name in ((g, 'G.pth'), (d, 'D.pth')): torch.save(sd, tmp_path/name)
    gen = load_official(tmp_path/'G.pth', upsampling='normal', size=(32, 64)).double().train(train)
    critic = load_official(tmp_path/'D.pth').double().train(train)
    label, z = torch.randint(0, 3, (2, 32, 64)), torch.randn(2, 6).double()
    real = torch.rand(2, 3, 32, 64).double()*2 - 1
    seg = ref.semantics(label, 3)
    lg, ld = leaves_of(double(g)), leaves_of(double(d))

    fake = gen(label, z=z)
    pred = critic(torch.cat([fake, real]), torch.cat([label, label]))
    f, r = ([[o[i:i + 2] for o in scale] for scale in pred] for i in (0, 2))
    terms = GeneratorLoss(gan=loss)(fake_pred=f, real_pred=r, output=fake, target=real)
    crit = CriticLoss(loss)(fake_pred=f, real_pred=r)

    state = dict(ld)
    want = ref.generator(dict(lg), seg, (1, 2), 'normal', z, train)
    pred = ref.discriminator(state, torch.cat([torch.cat([seg, want], 1), torch.cat([seg, real], 1)]), 2, 3, train)
    fw, rw = ([[o[i:i + 2] for o in scale] for scale in pred] for i in (0, 2))
    gan, feat = ref.gan_loss(mode, fw, 'gen'), ref.feature_matching(fw, rw)
    parts = ref.gan_loss(mode, fw, 'fake'), ref.gan_loss(mode, rw, 'real')
    for a, b in ((terms['gan'], gan), (terms['feat'], feat), (crit['crit_fake'], parts[0]),
                 (crit['crit_real'], parts[1])):
        close(a, b, 'loss')

    wanted = lambda x, ps: torch.autograd.grad(x, ps, retain_graph=True, allow_unused=True)
    for total, target in ((terms['gan'] + 10*terms['feat'], gan + 10*feat),
                          (crit['crit_fake'] + crit['crit_real'], sum(parts))):
        grads = [wanted(total, list(n.parameters())) for n in (gen, critic)]
        for net, leaves, gs in ((gen, lg, grads[0]), (critic, ld, grads[1])):
            keys = [official_key(k) for k, _ in net.named_parameters()]
            wants = torch.autograd.grad(target, [leaves[k] for k in keys], retain_graph=True, allow_unused=True)
            for k, a, b in zip(keys, gs, wants, strict=True):
                assert (a is None) == (b is None), k
                if a is not None: close(a, b, k, 1e-7)

# Files that are no such checkpoint

class Evil:
    def __init__(self, path): self.path = path
    def __reduce__(self): return (open, (self.path, 'w'))

@pytest.mark.parametrize('zipped', [True, False])
def test_no_code_is_run(zipped, tmp_path):
    sd = ref.random_encoder(1)
    torch.save({**sd, 'evil': Evil(str(tmp_path/'was_here'))}, tmp_path/'E.pth', _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match='E.pth'): load_official(tmp_path/'E.pth')
    (tmp_path/'raw.pth').write_bytes(pickle.dumps(Evil(str(tmp_path/'was_here'))))
    with pytest.raises(ValueError, match='raw.pth'): load_official(tmp_path/'raw.pth')
    assert not (tmp_path/'was_here').exists()

@pytest.mark.parametrize('zipped', [True, False])
def test_truncated(zipped, tmp_path):
    buf = io.BytesIO()
    torch.save(ref.random_encoder(1), buf, _use_new_zipfile_serialization=zipped)
    data = buf.getvalue()
    for n in (0, 1, 100, len(data)//2, len(data) - 1):
        (tmp_path/'cut.pth').write_bytes(data[:n])
        with pytest.raises(ValueError, match='cut.pth.*damaged'): load_official(tmp_path/'cut.pth')

def test_one_wrong_byte(tmp_path):
    torch.save(ref.random_encoder(1), tmp_path/'E.pth')
    data = bytearray((tmp_path/'E.pth').read_bytes())
    data[len(data)//2] ^= 1
    (tmp_path/'E.pth').write_bytes(data)
    with pytest.raises(ValueError, match='E.pth is .* damaged .*checksum'): load_official(tmp_path/'E.pth')

def broken_dicts():
    g, e, d = ref.random_generator(3, 1, hidden=4), ref.random_encoder(1), ref.random_discriminator(3, 2)
    without = lambda sd, *ks: {k: v for k, v in sd.items() if not k.startswith(ks)}
    yield 'no fc', without(g, 'fc.')
    yield 'no fc bias', without(g, 'fc.bias')
    yield 'no head', without(g, 'head_0')
    yield 'no shared', without(g, 'head_0.norm_0.mlp_shared')
    yield 'one tensor gone', without(g, 'up_2.conv_1.weight_v')
    yield 'one too many', {**g, 'up_9.x': torch.zeros(1)}
    yield 'wrong shape', {**g, 'up_2.conv_1.bias': torch.zeros(77)}
    yield 'fc of three dimensions', {**g, 'fc.weight': torch.zeros(16, 3, 3)}
    yield 'not a tensor', {**g, 'fc.weight': 'abc'}
    yield 'no name', {**g, 3: torch.zeros(1)}
    yield 'empty', {}
    yield 'a list', [torch.zeros(2)]
    yield 'a tensor', torch.zeros(2)
    yield 'nested', {'state_dict': g}
    yield 'optimiser', {'state': {}, 'param_groups': [{'lr': 1e-4}]}
    yield 'too narrow', {**g, 'head_0.conv_0.bias': torch.zeros(0), 'fc.bias': torch.zeros(3)}
    yield 'encoder without a layer', without(e, 'layer3')
    yield 'encoder without fc_var', without(e, 'fc_var')
    yield 'encoder without layers', without(e, 'layer')
    yield 'critic without last', without(d, 'discriminator_1.model4')
    yield 'critic without one scale’s first', without(d, 'discriminator_1.model0')
    yield 'critic of three channels', {**d, 'discriminator_0.model0.0.weight': torch.zeros(2, 3, 4, 4)}
    yield 'zero sizes', {**g, 'fc.weight': torch.zeros(16, 0, 3, 3),
                         'head_0.norm_0.mlp_shared.0.weight': torch.zeros(4, 0, 3, 3)}

@pytest.mark.parametrize('what,sd', list(broken_dicts()), ids=lambda o: o if isinstance(o, str) else '')
def test_foreign(what, sd, tmp_path):
    torch.save(sd, tmp_path/'odd.pth')
    hints = dict(upsampling='normal') if isinstance(sd, dict) and 'conv_img.weight' in sd else {}
    with pytest.raises(ValueError, match='odd.pth'): load_official(tmp_path/'odd.pth', **hints)

def test_hints(tmp_path):
    torch.save(ref.random_generator(5, 1, hidden=4), tmp_path/'G.pth')
    torch.save(ref.random_generator(5, 1, area=8, hidden=4), tmp_path/'vae.pth')
    torch.save(ref.random_generator(5, 2, 'most', hidden=4), tmp_path/'most.pth')
    torch.save(ref.random_encoder(1), tmp_path/'E.pth')
    load = lambda f, **kw: load_official(tmp_path/f, **kw)
    normal = dict(upsampling='normal')
    for f, kw, said in [('G.pth', {}, "upsampling='normal' or 'more'"),
                        ('G.pth', dict(upsampling='most'), "upsampling"),
                        ('G.pth', dict(upsampling='least'), 'least'),
                        ('most.pth', normal, "upsampling='normal' was given, but its tensors say 'most'"),
                        ('vae.pth', normal, 'size=\\(height, width\\)'),
                        ('vae.pth', normal | dict(size=(64, 64)), 'size=\\(height, width\\)'),
                        ('G.pth', normal | dict(base='group'), 'base'),
                        ('G.pth', normal | dict(base='instance'), "tensors say 'batch'"),
                        ('E.pth', normal, 'upsampling'), ('E.pth', dict(dontcare=True), 'dontcare means nothing'),
                        ('G.pth', normal | dict(size=(4, 4)), 'size=\\(4, 4\\) is too small'),
                        *(('G.pth', normal | dict(size=o), 'must be \\(height, width\\)')
                          for o in ('64', (64,), (64, 64, 3), 64., (64, 0), -64))]:
        with pytest.raises(ValueError, match=said): load(f, **kw)
    assert load('G.pth', upsampling='normal').n_classes == 5
    assert load('G.pth', upsampling='normal', dontcare=True, edges=True).n_classes == 3
    assert load('G.pth', upsampling='normal', dontcare=2).n_classes == 4
    assert load('most.pth', upsampling='most').scale == 128
    assert load('vae.pth', upsampling='normal', size=(64, 128)).start.size == (2, 4)
    assert load('G.pth', upsampling='normal', size=256).start.size is None
    net = load('G.pth', upsampling='normal', base='sync')
    assert isinstance(net.blocks[0].norm_0.param_free_norm, torch.nn.SyncBatchNorm)

    gen, critic = partial(SPADEGenerator, 3, nf=1), partial(MultiscaleDiscriminator, 3, nf=2)
    enc = partial(ConvEncoder, nf=1)
    judge, no_weights = partial(partial, NLayerDiscriminator), lambda nf: torch.nn.BatchNorm2d(nf, affine=False)
    for net, said in [(gen(norm=partial(SPADE, base='group')), 'norm'), (gen(norm=partial(SPADE, hidden=8)), 'hidden'),
                      (gen(norm=CBN), 'norm'), (gen(norm=partial(SPADE, base=torch.nn.BatchNorm2d)), 'norm'),
                      (gen(start=partial(MapNoiseStart, nz=4)), 'start'), (gen(encode=ClassEmbed), 'encode'),
                      (gen(nf=4, mults=(2, 1), ups=(1,)), 'layout'),
                      (critic(scales=shared_net), 'scale'), (critic(other_norm=spectral), 'spectral'),
                      (critic(net=judge(norm=no_weights)), 'norm'), (critic(net=judge(max_nf=4)), 'widths'),
                      (enc(base='group'), 'norm'), (enc(base='batch'), 'norm'), (enc(other_norm=spectral), 'spectral'),
                      (enc(size=64), 'size'), (enc(nz=8), 'nz'), (torch.nn.Linear(2, 2), 'Linear')]:
        with pytest.raises(ValueError, match=said): save_official(net, tmp_path/'x.pth')
    assert not (tmp_path/'x.pth').exists()

def test_torch_s_own_hooks_read_what_we_write(tmp_path):
    "The encoder as the official code builds it, with the old hook of spectral norm"
    torch.manual_seed(0)
    net = ConvEncoder(nf=2)
    for p in net.parameters(): torch.nn.init.normal_(p, 0, .2)
    widths, their = [3, 2, 4, 8, 16, 16, 16], torch.nn.Module()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for i in range(6):
            conv = torch.nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1, bias=False)
            conv = torch.nn.utils.spectral_norm(conv)
            their.add_module(f'layer{i + 1}', torch.nn.Sequential(conv, torch.nn.InstanceNorm2d(widths[i + 1])))
    their.fc_mu, their.fc_var = torch.nn.Linear(256, 256), torch.nn.Linear(256, 256)
    their.load_state_dict(torch.load(save_official(net, tmp_path/'E.pth')))
    x = torch.randn(2, 3, 256, 256)
    for train in (False, True):
        net.train(train), their.train(train)
        h = x
        for i in range(6): h = torch.nn.functional.leaky_relu(getattr(their, f'layer{i + 1}')(h), .2)
        close(mu_logvar(net, x)[0], their.fc_mu(h.flatten(1)), 'mu', 1e-5)
