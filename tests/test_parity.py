"Our networks and losses against numbers recorded from the official code: outputs in both modes, buffers, and gradients"
from functools import partial
import pytest, torch
from safetensors.torch import load_file
from fastai.vision.all import Callback, CancelValidException, DataLoader, DataLoaders, ProgressCallback, Recorder
from spade_fastai.core import *
from spade_fastai.nets.norms import *
from spade_fastai.nets.starts import *
from spade_fastai.nets.generator import *
from spade_fastai.nets.critic import *
from spade_fastai.nets.encoder import *
from spade_fastai.train.losses import *
from spade_fastai.train.gan import *
from spade_fastai.train.ema import average_
from spade_fastai.official import *
from spade_fastai.official_names import official_key
from spade_fastai.fast.switch import faster
from spade_fastai.fast.ways import with_limits

@pytest.fixture(params=['clear', 'fast'])
def way(request):
    "Each comparison twice: as the networks are written, and with the faster ways forced, whatever the size"
    if request.param == 'clear': yield lambda net: net
    else:
        with with_limits(dense_below=0, share=99., small_map=0): yield faster

def of_ids(seg, way):
    "The recorded one-hot map as a condition; for the faster way as the ids that it stands for"
    cond = OneHot(seg.shape[1])(seg.argmax(1))
    return cond if way is faster and torch.equal(cond.seg, seg) else Cond(seg=seg)         # some cases are soft maps

def test_nearest_resize(fixture):
    f = fixture('nearest_resize')
    for n_in, n_out in f.hyper['pairs']:
        assert nearest_index(n_in, n_out).tolist() == f.t[f'main/index_{n_in}_{n_out}'].tolist()

layers = [('batch', 'batch', 3, 31), ('instance', 'instance', 3, 22), ('syncbatch_ks5', 'sync', 5, 26)]

@pytest.mark.parametrize('name,base,ks,count', layers)
def test_spade_layer(fixture, way, name, base, ks, count):
    f = fixture(f'spade_layer_{name}')
    net = way(SPADE(f.hyper['norm_nc'], OneHot(f.hyper['label_nc']), base=base, ks=ks))
    run = lambda case, i: dict(out=net(i['x'], of_ids(i['seg'], way)))
    lost = ('seg',) if way is faster else ()             # ids have no gradient
    compared = f.check(net, run, ('x', 'seg')[:2 - len(lost)], lost)
    gone = len(lost)*len([k for k in f.t if k.endswith('/grad/input/seg')])
    assert compared == count - gone                                # none may silently drop out
    label = OneHot(f.hyper['label_nc'])(f.t['main/in/label'])      # ids and recorded map are the same condition
    assert torch.equal(label.seg, f.t['main/in/seg'])

@pytest.mark.parametrize('name,count', [('same', 42), ('learned', 59)])
def test_spade_resblk(fixture, way, name, count):
    f = fixture(f'spade_resblk_{name}')
    x, out = f.t['main/in/x'], f.t['main/eval/out']
    net = way(SPADEResBlk(x.shape[1], out.shape[1], partial(SPADE, encode=OneHot(5), base='batch')))
    lost = ('seg',) if way is faster else ()
    run = lambda case, i: dict(out=net(i['x'], of_ids(i['seg'], way)))
    compared = f.check(net, run, ('x', 'seg')[:2 - len(lost)], lost)
    assert compared == count - len(lost)*len([k for k in f.t if k.endswith('/grad/input/seg')])

def official_generator(h, **kw):
    layout = layouts[h['num_upsampling_layers']]
    width = h['crop_size']//2**sum(layout['ups'])
    start = partial(NoiseStart, nz=256, size=(round(width/h['aspect_ratio']), width)) if h['use_vae'] else MapStart
    encode = partial(OneHot, dontcare=h['contain_dontcare_label'], edges=not h['no_instance'])
    return SPADEGenerator(h['label_nc'], nf=h['ngf'], encode=encode, start=start, **layout)

@pytest.mark.parametrize('name,count', [('normal', 380), ('dontcare_instance', 380), ('more_vae', 382), ('most', 107)])
def test_generator(fixture, way, name, count):
    f = fixture(f'generator_{name}')
    net = way(official_generator(f.hyper))
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

def test_encoder(fixture):
    f = fixture('encoder')
    net = ConvEncoder(nf=f.hyper['ngf'])
    assert f.check(net, lambda case, i: net(i['image'])[1]) == 52

def _features(t, side, grad=True):
    return [[t[f'main/in/{side}_d{s}_f{l}'].clone().requires_grad_(grad) for l in range(3)] for s in range(2)]

losses = dict(hinge=HingeLoss(), ls=LeastSquaresLoss(), original=OriginalLoss(), w=WassersteinLoss())

@pytest.mark.parametrize('mode,loss', losses.items())
def test_gan_losses(fixture, mode, loss):
    f = fixture('losses')
    sides = ('D_fake', 'fake', loss.crit_fake), ('D_real', 'real', loss.crit_real), ('G', 'fake', loss.gen)
    for what, side, func in sides:
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
    state = load_file(f.folder/'torchvision_features.safetensors')
    lost = net.load_state_dict({k.removeprefix('features.'): v for k, v in state.items()}, strict=False)
    beyond = all(int(k.split('.')[0]) > 29 for k in lost.missing_keys)      # nothing up to relu5_1
    assert beyond and not lost.unexpected_keys, lost
    return net

def test_vgg_perceptual(fixture):
    f = fixture('vgg_perceptual')
    loss = VGGLoss(lambda: narrow_vgg(f))
    fake, real = (f.t[f'main/in/{o}'].clone().requires_grad_() for o in ('fake', 'real'))
    feats, value = loss.features(fake), loss(fake, real)
    f.close(value, 'main/eval/loss_value')
    for i, o in enumerate(feats, 1): f.close(o, f'main/eval/slice{i}_fake')
    total = (value*f.t['main/probe/loss_value']).sum()
    total = total + sum((o*f.t[f'main/probe/slice{i}_fake']).sum() for i, o in enumerate(feats, 1))
    f.close(total, 'main/eval/loss')
    total.backward()
    f.close(fake.grad, 'main/eval/grad/input/fake')
    assert real.grad is None

def test_init(fixture):
    "Standard deviations and means of first weights, and biases of zero"
    f = fixture('init')
    h, stats = f.hyper, f.cfg['statistics']['xavier']
    nets = dict(G=SPADEGenerator(h['label_nc'], nf=h['ngf'], start=partial(NoiseStart, size=(8, 8))),
                D=MultiscaleDiscriminator(h['label_nc'], nf=h['ndf']), E=ConvEncoder(nf=h['ngf']))
    n = 0
    for which, net in nets.items():
        ours = {official_key(k): v for k, v in net.state_dict().items()}
        for key, want in stats[which].items():
            p = ours[key]
            assert list(p.shape) == want['shape'], key
            if want['kind'] == 'bias': assert not p.any(), key
            else:
                std, tol = want['expected_std'], 5/p.numel()**.5
                assert abs(p.std() - std) <= std*tol and abs(p.mean()) <= std*tol, key
            n += 1
    assert n > 100

# Five steps of training: the learner against the official trainer; generator first, critic on a fresh fake,
# Adam (0, 0.9), TTUR

class Steps(torch.utils.data.Dataset):
    "Two batches of two pictures, in turn, for five steps"
    def __init__(self, f, dtype): self.f, self.dtype = f, dtype
    def __len__(self): return 10
    def __getitem__(self, i):
        b, k = i//2 % 2, i % 2
        return self.f.t[f'main/in/label{b}'][k, 0], self.f.t[f'main/in/image{b}'][k].to(self.dtype)

class FirstGradients(Callback):
    "What the networks' gradients were in the first turn of each, and the first fake"
    order = 100
    def before_fit(self): self.sums = {}
    def after_pred(self): self.first_fake = getattr(self, 'first_fake', self.pred.detach().clone())
    def before_step(self):
        which = 'G' if 'generator' not in self.learn.last_loss else 'D'
        net = self.model.generator if which == 'G' else self.model.critic
        if which in self.sums: return
        sums = lambda g: torch.stack([g.sum(), g.norm(), g.abs().max()])
        self.sums[which] = {official_key(k): sums(p.grad) for k, p in net.named_parameters()}

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_train_steps(fixture, way, dtype):
    f = fixture('train_steps')
    h = f.hyper
    gen = official_generator(h)
    critic = MultiscaleDiscriminator(h['label_nc'], nf=h['ndf'], n_layers=h['n_layers_D'], n_scales=h['num_D'])
    for net, which in ((gen, 'G'), (critic, 'D')): f.load(net, load_file(f.folder/f'state_dict_{which}.safetensors'))
    dl = DataLoader(Steps(f, dtype), bs=2, num_workers=0)
    way(gen), way(critic)
    learn = GANLearner(DataLoaders(dl, dl, device='cpu'), gen.to(dtype), critic.to(dtype),
                       weights=dict(feat=h['lambda_feat']), lr=slice(1e-4, 4e-4), cbs=FirstGradients())
    learn.dls.n_inp = 1
    class NoValidation(Callback):
        def before_validate(self): raise CancelValidException()
    learn.remove_cbs([ProgressCallback, Recorder])                  # fastai's Recorder cannot average float64
    learn.fit(1, cbs=NoValidation())
    exact = dtype is torch.float64
    # Adam makes a whole step of a gradient that is zero but for rounding (one weight's is 1.5e-7 here). After that
    # float32 goes one of many ways; the clear one goes that of the recording, a sum in another order may not.
    lasting = exact or way is not faster
    names = dict(gan='GAN', feat='GAN_Feat', crit_fake='D_Fake', crit_real='D_real')
    for i, terms in enumerate(learn.loss_terms.history):
        for ours, theirs in names.items():
            key = f'main/step{i}/loss/{theirs}'
            if exact:
                want = f.t[key.replace('main/', 'main/f64/')].item()
                assert abs(terms[ours] - want) <= 1e-6*max(1, abs(terms[ours])), (i, ours)
            elif lasting or i == 0 and ours in ('gan', 'feat'): f.close(torch.tensor(terms[ours]), key)
    assert i == 4
    for which, sums in learn.first_gradients.sums.items():
        keys = [k for k in f.t if k.startswith(f'main/step0/gradsum/{which}/')]
        assert len(keys) == len(sums) == (144 if which == 'G' else 14)
        for k in keys if lasting or which == 'G' else (): f.close(sums[k.split('/')[-1]].float(), k)
    f.close(learn.first_gradients.first_fake, 'main/step0/generated')
    probe = f.t['main/in/probe_label']
    with torch.no_grad(): ours = dict(probe_eval=gen.eval()(probe), probe_train=gen.train()(probe))
    for k, o in ours.items():
        if exact: assert (o - f.t[f'main/f64/final/{k}']).abs().max() <= 1e-5, k
        # in float32 biases under a norm drift with rounding noise, which only eval mode shows
        elif k == 'probe_train' and lasting: f.close(o, f'main/final/{k}')

# Checkpoint files

official_files = dict(
    generator_normal            = dict(upsampling='normal'),
    generator_dontcare_instance = dict(upsampling='normal', dontcare=True, edges=True),
    generator_more_vae          = dict(upsampling='more'),
    generator_most              = dict(size=(128, 256)),
    discriminator               = {},
    encoder                     = {})

@pytest.mark.parametrize('name,hints', official_files.items())
def test_official_files(fixture, tmp_path, name, hints):
    f = fixture(name)
    theirs = f.folder/'latest_net_G.pth'
    if not theirs.exists(): torch.save(f.state, theirs := tmp_path/'theirs.pth')
    net = load_official(theirs, **hints)
    assert not net.training
    i = {k.split('/')[2]: v for k, v in f.t.items() if k.startswith('main/in/')}
    with torch.no_grad():
        if name == 'discriminator': f.close(net.features(i['x'])[1][-1], 'main/eval/d1_f4')
        elif name == 'encoder': f.close(net(i['image'])[1]['logvar'], 'main/eval/logvar')
        else:
            out = net(i.get('label', i.get('label_raw')), z=i.get('z'), instance=i.get('instance'))
            f.close(out, 'main/eval/out')
    ours = save_official(net, tmp_path/'ours.pth')
    again, was = (torch.load(o, weights_only=True) for o in (ours, theirs))
    assert set(again) == set(was) and all(again[k].dtype == was[k].dtype and torch.equal(again[k], was[k]) for k in was)

def test_ema(fixture):
    f = fixture('oasis_ema')
    state = lambda name: {k.split('/')[1]: v for k, v in f.t.items() if k.startswith(f'{name}/')}
    avg = state('ema0')
    for t in (1, 2):
        average_(avg, state(f'g{t}'), f.hyper['EMA_decay'])
        want = state(f'ema{t}')
        assert avg.keys() == want.keys() and len(want) == 38
        for k, v in want.items(): assert (avg[k] - v).abs().max() <= f.cfg['tolerance']['atol'], k
