"OASIS: networks and losses against numbers recorded from the official code, and the learner's way with its presets"
import random, warnings
from functools import partial
import numpy as np, pytest, re, torch
from torch import nn
from fastai.vision.all import TensorMask, load_learner
from spade_fastai.core import *
from spade_fastai.data.landcover import make_landcover
from spade_fastai.data.items import SpadeDataLoaders
from spade_fastai.nets.norms import *
from spade_fastai.nets.starts import *
from spade_fastai.nets.generator import *
from spade_fastai.nets.critic import MultiscaleDiscriminator
from spade_fastai.nets.oasis import *
from spade_fastai.nets.oasis import oasis_layout
from spade_fastai.train.augment import *
from spade_fastai.train.losses import FeatureMatchingLoss
from spade_fastai.train.penalties import R1
from spade_fastai.train.ema import EMA, average_
from spade_fastai.train.oasis import *
from spade_fastai.train.oasis import equal_classes, equal_pixels, mix_mask
from spade_fastai.train.step import GAN
from spade_fastai.fast.switch import faster
from spade_fastai.official_family import oasis_key
from spade_fastai.learner import oasis, presets, spade_learner, tiny_oasis
from spade_fastai.saving import load_gan, load_spade

# The official code: the order of its channels

def map_first(tensors, nz):
    "Official weights with the noise channels behind those of the map"
    sees_noise = re.compile(r'(mlp_shared\.0|(^|/)fc)\.weight$')
    return {k: v.roll(-nz, 1) if sees_noise.search(k) and v.ndim == 4 else v for k, v in tensors.items()}

@pytest.fixture
def official(fixture):
    def read(name):
        f = fixture(name, key=oasis_key)
        nz = f.hyper.get('z_dim', 0)
        f.t = map_first(f.t, nz)
        if (f.folder/'state_dict.safetensors').exists(): f.state = map_first(f.state, nz)
        return f
    return read

@pytest.fixture(params=['clear', 'fast'])
def way(request): return faster if request.param == 'fast' else lambda net: net

def official_critic(h):
    return SegmentationCritic(h['semantic_nc'], nf=h['D_base'])

def official_generator(h):
    norm, start = partial(NoisySPADE, nz=h['z_dim']), partial(MapNoiseStart, nz=h['z_dim'])
    return SPADEGenerator(h['semantic_nc'], nf=h['channels_G'], **oasis_layout, norm=norm, start=start)

def count(f): return sum('/probe/' not in k and '/in/' not in k and not k.endswith('/loss') for k in f.t)

def test_critic(official, way):
    f = official('oasis_discriminator')
    run = lambda case, i: dict(logits=net(i['image'])[0][-1])
    net = way(official_critic(f.hyper))
    assert f.check(net, run, ('image',)) == count(f) > 150

def test_generator(official, way):
    f = official('oasis_generator')
    net = way(official_generator(f.hyper))
    assert f.check(net, lambda case, i: dict(out=net(i['label'], i['z'])), ('z',)) == count(f) > 300
    f.load(net).eval()
    z = f.t['main/in/z'][..., None, None]
    for size in ((1, 1), (64, 64), (2, 2)):                        # the same noise as a field
        f.close(net(f.t['main/in/label'], z.expand(-1, -1, *size)), 'main/eval/out')

def test_block(official, way):
    f = official('oasis_resblk_learned')
    enc, out = OneHot(f.hyper['semantic_nc']), f.hyper['fout']
    net = way(SPADEResBlk(f.hyper['fin'], out, partial(NoisySPADE, encode=enc, nz=f.hyper['z_dim'])))
    run = lambda case, i: dict(out=net(i['x'], enc(i['label'], style=i['z'])))
    assert f.check(net, run, ('x',)) == count(f) > 40

def test_average_of_a_block(official):
    f = official('oasis_ema')
    h = f.hyper
    norm = partial(NoisySPADE, encode=OneHot(h['semantic_nc']), nz=h['z_dim'], ks=h['spade_ks'])
    def state(name):
        theirs = {k.split('/')[1]: v for k, v in f.t.items() if k.startswith(f'{name}/')}
        return f.load(SPADEResBlk(h['fin'], h['fout'], norm), theirs).state_dict()
    avg = state('ema0')
    for t in (1, 2):
        average_(avg, state(f'g{t}'), h['EMA_decay'])
        for k, v in state(f'ema{t}').items(): assert (avg[k] - v).abs().max() <= f.cfg['tolerance']['atol'], k

# Losses. Official don't-care is class 0; ours is the id n_classes. Official coins are one a class that is there, for
# the whole batch, and that of class 0 is overwritten by that of class 1 where it is 1

def ours(label, n, dontcare): return torch.where(label == 0, n, label) if dontcare else label

def official_coins(label, bits, n, dontcare):
    "The official coins [1,n+1] by our ids"
    coin = dict(zip(label.unique().tolist(), bits.tolist(), strict=True))
    if coin.get(0) == 1 and 1 in coin: coin[0] = coin[1]
    return torch.tensor([[coin.get(0 if dontcare and c == n else c, 0) for c in range(n + 1)]])

class Coins(LabelMix):
    def __init__(self, weight, given): super().__init__(weight); self.given = given
    def coins(self, n, n_ids): return self.given

@pytest.mark.parametrize('name', ['oasis_losses', 'oasis_losses_dontcare'])
def test_losses(official, name):
    f = official(name)
    n, dontcare = f.hyper['semantic_nc'], f.hyper['contain_dontcare_label']
    label = f.t['main/in/label']
    ids = ours(label, n, dontcare)
    balanced, even = SegmentationLoss(), SegmentationLoss(equal_pixels)
    cases = [('D_real', 'real', lambda p: balanced.crit_real(p, ids)), ('G', 'fake', lambda p: balanced.gen(p, ids)),
             ('D_fake', 'fake', balanced.crit_fake), ('D_fake/no_balancing', 'fake', even.crit_fake),
             ('D_real/no_balancing', 'real', lambda p: even.crit_real(p, label)),         # class 0 counts there
             ('G/no_balancing', 'fake', lambda p: even.gen(p, label))]
    for key, side, func in cases:
        logits = f.t[f'main/in/logits_{side}'].clone().requires_grad_()
        value = func([[logits]])
        f.close(value, f'main/{key}')
        value.backward()
        f.close(logits.grad, f'main/grad/{key}')
    counts = torch.bincount(ids.flatten(), minlength=n + 1)[:n]
    weights = torch.cat([equal_classes(counts), torch.zeros(1)])*ids.numel()
    f.close(weights[ids], 'main/weight_map')

@pytest.mark.parametrize('name', ['oasis_losses', 'oasis_losses_dontcare'])
def test_labelmix(official, name):
    f = official(name)
    n, dontcare, weight = (f.hyper[o] for o in ('semantic_nc', 'contain_dontcare_label', 'lambda_labelmix'))
    label = f.t['main/in/label'][:, 0]
    ids, coins = ours(label, n, dontcare), official_coins(label, f.t['main/in/labelmix_bits'], n, dontcare)
    f.close(mix_mask(ids, coins).float(), 'main/mask')
    logits = {k: f.t[f'main/in/logits_{k}'].clone().requires_grad_() for k in ('fake', 'real', 'mixed')}
    seen = []
    def critic(pictures):
        seen.append(pictures)
        return [[logits['mixed']]]
    images = [f.t[f'main/in/{o}_image'] for o in ('fake', 'real')]
    for w, key in ((weight, 'labelmix_weighted'), (1, 'labelmix')):
        value = Coins(w, coins)(critic, *images, ids, [[logits['fake']]], [[logits['real']]])
        f.close(value, f'main/{key}')
    f.close(seen[0], 'main/mixed_image')
    value.backward()
    for k, o in logits.items(): f.close(o.grad, f'main/grad/labelmix/{k}')

def test_coins_are_thrown_for_each_picture_and_class():
    mix = LabelMix()
    torch.manual_seed(0); a = mix.coins(50, 14)
    torch.manual_seed(0); b = mix.coins(50, 14)
    assert torch.equal(a, b) and a.shape == (50, 14) and len(a.unique(dim=0)) > 40

def logits_for(mask, n, sure=20.):
    "What a critic would say that knows `mask` by heart"
    return sure*nn.functional.one_hot(mask + 1, n + 1).movedim(-1, 1).float()

def test_dontcare_has_no_share_anywhere():
    mask = torch.randint(0, 4, (2, 8, 8))                            # 3 is don't-care
    logits = torch.randn(2, 4, 8, 8)
    other = torch.where(mask[:, None] == 3, torch.randn(2, 4, 8, 8), logits)
    for share in (equal_classes, equal_pixels):
        loss = SegmentationLoss(share)
        assert loss.gen(logits, mask) == pytest.approx(float(loss.gen(other, mask)), rel=1e-5)
    known = mask < 3
    each = nn.functional.cross_entropy(logits, (mask + 1).clamp(max=3), reduction='none')
    assert SegmentationLoss(equal_pixels).gen(logits, mask) == pytest.approx(float(each[known].mean()), rel=1e-5)
    by_class = torch.stack([each[mask == c].mean() for c in range(3)]).mean()
    assert SegmentationLoss().crit_real([[None, logits]], mask[:, None]) == pytest.approx(float(by_class), rel=1e-5)

@pytest.mark.parametrize('mask,logits,said', [
    (torch.full((1, 4, 4), 6), torch.zeros(1, 6, 4, 4), 'id 6, but the critic tells 5 classes'),
    (torch.full((1, 4, 4), -1), torch.zeros(1, 6, 4, 4), 'id -1, but the critic tells 5 classes'),
    (torch.zeros(1, 8, 8).long(), torch.zeros(1, 6, 4, 4), 'as large as the masks'),
    (torch.zeros(2, 4, 4).long(), torch.zeros(1, 6, 4, 4), 'as large as the masks'),
    (torch.zeros(1, 4, 4), torch.zeros(1, 6, 4, 4), 'integer class ids'),
    (torch.zeros(1, 4, 4).long(), [[torch.zeros(1, 1, 3, 3)]]*2, 'one map of logits')])
def test_what_does_not_fit(mask, logits, said):
    for loss in (SegmentationLoss().gen, SegmentationLoss(equal_pixels).crit_real):
        with pytest.raises(ValueError, match=re.escape(said)): loss(logits, mask)

# An augmentation before the critic moves the pictures: the mask of the loss moves along

class Oracle(nn.Module):
    "Says of each pixel the class that is painted there, and nothing of don't-care"
    def forward(self, image, mask, instance=None): return [[logits_for((image[:, 0]*5).round().long() - 1, 5)]]

@pytest.mark.parametrize('ratio', [.25, .5])
def test_the_loss_sees_what_the_critic_saw(ratio):
    mask = torch.randint(0, 5, (6, 4, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    real = ((mask + 1)/5)[:, None].expand(-1, 3, -1, -1)
    gan = GAN(nn.Identity(), Oracle(), augment=DiffAugment(partial(translate, ratio=ratio, outside=5)))
    (fake_pred, real_pred), seen = gan.judge_and_show(0*real, real, mask)
    assert not torch.equal(seen.mask, mask)
    kw = dict(fake_pred=fake_pred, real_pred=real_pred, output=0*real, target=real, mask=mask, critic=None)
    terms = OASISCriticLoss()(**kw, seen=seen)
    assert terms['crit_real'] < 1e-6 and terms['crit_mix'] == 0 and terms['crit_fake'] < 1e-6
    kw['critic'] = lambda pictures: gan.ask(pictures, mask)
    blind = OASISCriticLoss()(**kw)                                  # the mask of the data
    assert blind['crit_real'] > 1 and blind['crit_mix'] > 1
    assert OASISGeneratorLoss()(**{k: v for k, v in kw.items() if k != 'critic'}, seen=seen)['gan'] > 1
    gan.eval()                                                       # nothing is changed then
    assert torch.equal(gan.judge_and_show(0*real, real, mask)[1].mask, mask)

# The norm and noise

def test_noise_makes_pictures_differ():
    def spread(norm, start, seed=0):
        torch.manual_seed(seed)
        gen = SPADEGenerator(4, nf=8, mults=(4, 4, 2, 1), ups=(1, 1, 0), norm=norm, start=start).eval()
        for k, p in gen.named_parameters():
            if p.ndim > 1 and 'original' not in k: nn.init.normal_(p, 0, .05)
        mask = torch.randint(0, 4, (8, 8)).repeat_interleave(4, 0).repeat_interleave(4, 1)
        with torch.no_grad(): return float(torch.cat([gen(mask) for _ in range(3)]).std(0).mean())
    noisy = spread(partial(NoisySPADE, nz=8), partial(MapNoiseStart, nz=8))
    assert spread(SPADE, MapStart) == 0 and noisy > spread(SPADE, partial(MapNoiseStart, nz=8)) > 0

@pytest.mark.parametrize('z', [torch.randn(1, 6), torch.randn(1, 6, 4, 4), torch.randn(1, 6, 64, 64)])
def test_other_noise_for_a_region(z):
    mask = torch.zeros(64, 64, dtype=torch.long)
    mask[20:30, 20:30], mask[:4] = 2, 1
    gen = SPADEGenerator(3, nf=4, mults=(2, 1), ups=(1,), norm=partial(NoisySPADE, nz=6, hidden=16),
                         start=partial(MapNoiseStart, nz=6)).eval()
    for k, p in gen.named_parameters():
        if p.ndim > 1 and 'original' not in k: nn.init.normal_(p, 0, .1)
    for net in (gen, faster(gen)):
        with torch.no_grad():
            a, b, same = (net(mask, renew_noise(z, mask == 2, o)) for o in (z, torch.randn(1, 6), z))
        changed = (a - b).abs().amax((0, 1))
        assert torch.equal(a, same)
        assert changed[mask == 2].min() > 0 and not changed[:8].any() and not changed[44:].any()
        assert not changed[:, :8].any() and not changed[:, 44:].any()

@pytest.mark.parametrize('where', [np.zeros((4, 4), bool), torch.zeros(2, 4, 4) > 0, TensorMask(torch.zeros(4, 4)) > 0])
def test_where_may_be_anything_of_true_and_false(where):
    assert renew_noise(torch.ones(2, 3), where, torch.zeros(2, 3)).eq(1).all()

@pytest.mark.parametrize('where', [torch.zeros(4, 4), np.zeros((4, 4), int), torch.zeros(1, 1, 4, 4) > 0])
def test_where_must_be_true_and_false(where):
    z = torch.ones(1, 3)
    with pytest.raises(ValueError, match='`where` is a map of True and False'): renew_noise(z, where, z)

@pytest.mark.parametrize('size', [(60, 64), (64, 100), (32, 32), (1, 64)])
def test_a_size_that_cannot_be_halved(size):
    with pytest.raises(ValueError, match='must be multiples of 64'):
        SegmentationCritic(3, nf=1)(torch.zeros(1, 3, *size), torch.zeros(1, *size, dtype=torch.long))

@pytest.mark.parametrize('mults,size', [((1,), (2, 6)), ((2, 1), (4, 12)), ((1, 2, 3, 1), (16, 48))])
def test_critics_of_other_depths(mults, size):
    critic = SegmentationCritic(5, nf=2, mults=mults)
    pred = critic(torch.randn(2, 3, *size), torch.zeros(2, *size, dtype=torch.long))
    assert pred[0][-1].shape == (2, 6, *size) and len(pred[0]) == 2*len(mults) + 1
    assert R1(1.)(critic, torch.randn(2, 3, *size), torch.randn(2, 3, *size)) >= 0

# The learner's way

SMALL = dict(generator=dict(nf=4, mults=(4, 2, 1), ups=(1, 1), norm=partial(NoisySPADE, nz=4, hidden=8),
                            start=partial(MapNoiseStart, nz=4)), critic=dict(nf=2, mults=(2, 4)), sample_grid=None)

@pytest.fixture(scope='module')
def land(tmp_path_factory): return make_landcover(tmp_path_factory.mktemp('data')/'land', n=12, size=32)

@pytest.fixture
def make(land, tmp_path):
    def _make(preset=tiny_oasis, data=None, **kwargs):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        dls = SpadeDataLoaders.from_folder(land, **{**dict(size=32, bs=4, valid_pct=.25, device='cpu'), **(data or {})})
        learn = spade_learner(dls, preset, path=tmp_path, **{**SMALL, **kwargs})
        nn.init.normal_(learn.model.generator.conv_img.weight)
        return learn
    return _make

def fit(learn, n=1):
    with learn.no_bar(), learn.no_logging(): learn.fit(n)
    return learn

def pictures(model, mask): return np.array(model.generate(mask, seed=3))

def test_fit_save_load_export(make, tmp_path):
    learn = fit(make())
    assert list(learn.recorder.metric_names)[3:-1] == ['gan', 'crit_fake', 'crit_real', 'crit_mix']
    assert np.isfinite(np.array(learn.recorder.values, dtype=float)).all()
    assert learn.ema.n_updates == 2 and type(learn.model.critic) is SegmentationCritic
    assert all(h['sqr_mom'] == .999 for h in learn.opt.hypers) or learn.opt_func.keywords == dict(sqr_mom=.999)
    mask = learn.dls.valid.items[0][0]
    want = pictures(learn, mask)
    assert want.std() > 1 and not np.array_equal(want, np.array(learn.generate(mask, seed=4)))
    file = learn.save_spade(tmp_path/'net.safetensors')
    assert np.array_equal(pictures(load_spade(file), mask), want)
    assert np.array_equal(pictures(load_spade(file, fast=False), mask), want)
    gan, image = load_gan(file), torch.randn(1, 3, 32, 32)
    assert torch.equal(gan.critic(image)[0][-1], learn.model.critic.eval()(image)[0][-1])
    learn.export('net.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert np.array_equal(pictures(load_learner(tmp_path/'net.pkl'), mask), want)

def test_one_region_of_a_drawing(make):
    learn = make(generator={**SMALL['generator'], 'mults': (2, 1), 'ups': (1,)})
    mask = torch.zeros(32, 32, dtype=torch.long)
    mask[24:, 24:] = 3
    for k, p in learn.model.generator.named_parameters():
        if p.ndim > 1 and 'original' not in k: nn.init.normal_(p, 0, .1)
    z, new = (learn.model.generator.draw_z(1, mask.shape) for _ in range(2))
    a, b = (np.array(learn.generate(mask, z=o)).astype(int) for o in (z, renew_noise(z, mask == 3, new)))
    changed = np.abs(a - b).max(-1) > 0
    assert not changed[:12].any() and not changed[:, :12].any() and changed[24:, 24:].any()

def test_parts_one_by_one(make):
    critic = SegmentationCritic(13, nf=2, mults=(2, 2))
    losses = dict(gen_loss=OASISGeneratorLoss(), crit_loss=OASISCriticLoss())
    learn = fit(make(presets.tiny_hinge, critic=critic, **losses, generator=None))
    assert list(learn.recorder.metric_names)[3:-1] == ['gan', 'crit_fake', 'crit_real', 'crit_mix']
    assert type(learn.model.generator.blocks[0].norm_0) is SPADE and not hasattr(learn, 'ema')

@pytest.mark.parametrize('kw,terms', [
    (dict(gen_loss=dict(feat=FeatureMatchingLoss)), ['gan', 'feat', 'crit_fake', 'crit_real', 'crit_mix']),
    (dict(crit_loss=OASISCriticLoss(penalty=None)), ['gan', 'crit_fake', 'crit_real']),
    (dict(crit_loss=OASISCriticLoss(penalty=partial(R1, 1.))), ['gan', 'crit_fake', 'crit_real', 'crit_r1']),
    (dict(augment=DiffAugment()), ['gan', 'crit_fake', 'crit_real', 'crit_mix'])])
def test_options(make, kw, terms):
    learn = fit(make(**kw))
    assert list(learn.recorder.metric_names)[3:-1] == terms
    assert np.isfinite(np.array(learn.recorder.values, dtype=float)).all()

def test_style(make):
    data = dict(style=lambda o: o)
    generator = {k: v for k, v in SMALL['generator'].items() if k != 'start'}           # the encoder says which
    learn = fit(make(data=data, generator=generator, encoder=dict(nf=2, nz=4, size=16)))
    assert list(learn.recorder.metric_names)[3:5] == ['gan', 'kld']
    with pytest.raises(ValueError, match='built for 4 channels of noise, z has 6'):
        fit(make(data=data, generator=generator, encoder=dict(nf=2, nz=6, size=16)))

def test_dontcare_pixels(make):
    learn = fit(make(data=dict(ignore=3)))
    critic = learn.model.critic
    assert learn.dls.n_classes == critic.n_classes and critic.last.out_channels == critic.n_classes + 1
    assert np.isfinite(np.array(learn.recorder.values, dtype=float)).all()

def test_callbacks_of_the_preset(make):
    mine = EMA(.5)
    learn = make(cbs=mine)
    assert [o for o in learn.cbs if isinstance(o, EMA)] == [mine]
    one, two = make(), make()
    assert one.ema is not two.ema

def test_half_precision(make):
    learn = fit(make().to_bf16())
    assert all(torch.as_tensor(o[k]).dtype != torch.bfloat16 for o in learn.loss_terms.history for k in o)

def test_a_critic_of_other_classes_or_depth(make):
    with pytest.raises(ValueError, match=r'the mask has id \d+; classes are 0..1'):
        fit(make(critic=SegmentationCritic(2, nf=1, mults=(2,))))
    with pytest.raises(ValueError, match='must be multiples of 64, for example 64×64'):
        fit(make(critic=SegmentationCritic(13, nf=1)))
    with pytest.raises(ValueError, match='one map of logits'): fit(make(critic=MultiscaleDiscriminator(13, nf=2)))

def test_presets_fit_their_sizes():
    for preset, size in ((oasis, (256, 512)), (tiny_oasis, (64, 64))):
        gen, critic = (({**preset[o], 'nf': 1}) for o in ('generator', 'critic'))
        SPADEGenerator(13, **gen).fits(size), SegmentationCritic(13, **critic).fits(size)
        assert gen['norm'].keywords['nz'] == gen['start'].keywords['nz'] == preset['encoder']['nz']
