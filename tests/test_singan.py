"One picture as a data set: the pyramid, what learns and what rests, what is drawn of it, and a mask that is followed"
from functools import partial
from itertools import pairwise
import numpy as np, pytest, torch
from torch.nn import functional as F
from fastai.vision.all import Callback, CancelFitException
from spade_fastai.apps.pyramid import FiveConvs, SinGANCritic, SinGANGenerator, pyramid_sizes
from spade_fastai.apps.singan import (InTurn, PixelGP, ScaleByScale, load_singan, patch_distance, quick_singan,
                                      singan_learner)
from spade_fastai.nets.clade import CLADE
from spade_fastai.train.resume import Checkpoint

FEW = dict(quick_singan, pyramid=dict(min_size=13, ratio=.69), nets=dict(nf=4), n_iter=30)
MASKED = dict(FEW, pyramid=dict(min_size=16, ratio=.6), nets=dict(nf=8), n_iter=40)
RED, GREEN = (200, 60, 40), (40, 140, 60)

def two_fields(ids, seed=0):
    "A picture of a mask of two classes: red, and green in stripes"
    noise = np.random.default_rng(seed).normal(0, 12, (*ids.shape, 1))
    stripes = 25*(np.arange(ids.shape[1]) % 4 < 2)[None, :, None]*(ids == 1)[..., None]
    return (np.array([RED, GREEN])[ids] + noise + stripes).clip(0, 255).astype(np.uint8)

def half(h=27, w=31):
    ids = np.zeros((h, w), np.uint8)
    ids[:, w//2:] = 1
    return ids

def fit(learn, n=None, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(learn.n_scales if n is None else n, **kwargs)
    return learn

def states(nets, scales): return [v.clone() for k in scales for v in nets[k].state_dict().values()]

def error(gen): return float(F.l1_loss(gen.eval().reconstruct(), gen.at(gen.scale)[0]))

@pytest.fixture(scope='module')
def learned():
    torch.manual_seed(0)
    return fit(singan_learner(two_fields(half()), preset=FEW))

@pytest.fixture(scope='module')
def masked():
    torch.manual_seed(0)
    return fit(singan_learner(two_fields(half()), half(), preset=MASKED))

# The pyramid

@pytest.mark.parametrize('size', [(27, 31), (50, 13), (100, 250), (25, 25)])
def test_pyramid(size):
    sizes = pyramid_sizes(size, 13)
    assert min(sizes[0]) == 13 and sizes[-1] == size
    shares = [a[i]/b[i] for a, b in pairwise(sizes) for i in (0, 1)]
    assert all(.68 < o < .86 for o in shares)                                # .75, bent, and rounded to pixels

@pytest.mark.parametrize('size', [(27, 31), (41, 19)])
@pytest.mark.parametrize('norm', [None, CLADE])
def test_shapes_at_every_scale(size, norm):
    gen = SinGANGenerator(pyramid_sizes(size, 13, .7), 3, nf=4, **({} if norm is None else dict(norm=norm)))
    critic = SinGANCritic(gen.sizes, 3, nf=4)
    for k, (h, w) in enumerate(gen.sizes):
        gen.begin(k), critic.begin(k)
        mask = torch.randint(0, 3, (2, h, w))
        assert gen(mask).shape == (2, 3, h, w) and gen.reconstruct().shape == (1, 3, h, w)
        assert critic(gen(mask), mask)[0][0].shape == (2, 1, h - 10, w - 10)
    assert gen(torch.zeros(1, 2*h + 1, w, dtype=torch.long)).shape == (1, 3, 2*h + 1, w)

def test_a_scale_starts_from_the_one_before_where_widths_match():
    gen = SinGANGenerator([(12 + 2*k, 12 + 2*k) for k in range(6)], nf=2)
    for k in range(6):
        gen.begin(k)
        here, before = (states(gen.nets, [o]) for o in (k, max(k - 1, 0)))
        same = all(map(torch.equal, here, before))
        assert same == (k != 4)                                              # twice the width at the fifth
        for p in gen.nets[k].parameters(): p.data += torch.randn_like(p)

def test_beginning_again_changes_nothing():
    gen = SinGANGenerator([(12, 12), (16, 16)], nf=2)
    gen.begin(0), gen.begin(1)
    for p in gen.nets[1].parameters(): p.data += 1
    before, amps = states(gen.nets, [0, 1]), gen.amps.clone()
    gen.begin(1)
    assert all(map(torch.equal, before, states(gen.nets, [0, 1]))) and torch.equal(gen.amps, amps)

# Learning

def test_reconstruction_gets_better_at_every_scale():
    torch.manual_seed(0)
    learn = singan_learner(two_fields(half()), preset=FEW)
    gen, nothing = learn.generator, float(learn.generator.picture.abs().mean())
    for k in range(gen.n_scales):
        gen.begin(k)
        before = error(gen)
        gen.begun.fill_(k)                                                   # as it was
        fit(learn, 1)
        assert error(gen) < before
    assert error(gen) < .5*nothing

def test_noise_amplitude_by_hand(learned):
    gen = learned.generator
    amps, picture = gen.amps.tolist(), gen.picture
    assert amps[0] == 1
    for k in range(1, gen.n_scales):
        gen.begun.fill_(k)                                                   # the finest was k-1 then
        up = F.interpolate(gen.eval().reconstruct(), gen.sizes[k], mode='bilinear')
        small = picture if k == 2 else F.interpolate(picture, gen.sizes[k], mode='bilinear', antialias=True)
        assert amps[k] == pytest.approx(.1*float((up - small).square().mean().sqrt()), rel=1e-4)
    gen.begun.fill_(gen.n_scales)

def test_frozen_scales_stay_bit_equal():
    learn = fit(singan_learner(two_fields(half()), preset=FEW), 1)
    for k in (1, 2):
        before = [states(o.nets, range(k)) for o in (learn.generator, learn.model.critic)]
        learning = states(learn.generator.nets, [k])
        fit(learn, 1)
        after = [states(o.nets, range(k)) for o in (learn.generator, learn.model.critic)]
        for b, a in zip(before, after, strict=True): assert all(map(torch.equal, b, a))
        assert not all(map(torch.equal, learning, states(learn.generator.nets, [k])))

class Watch(Callback):
    "The rate and the turns of each batch"
    order, run_valid = 60, False
    def __init__(self): self.seen = []
    def after_batch(self): self.seen.append((self.opt.hypers[0]['lr'], self.learn.turns, tuple(self.yb[0].shape[-2:])))

def test_rates_turns_and_sizes():
    watch = Watch()
    learn = fit(singan_learner(two_fields(half()), preset=dict(FEW, n_iter=5, steps=(2, 1), lr=.01), cbs=watch), 2)
    rates, turns, sizes = zip(*watch.seen, strict=True)
    assert rates == pytest.approx(2*[.01, .01, .01, .01, .001])
    assert set(turns) == {('critic', 'critic', 'generator')}
    assert sizes == (learn.generator.sizes[0],)*5 + (learn.generator.sizes[1],)*5

def test_validation_begins_no_scale(learned):
    before, scale = states(learned.generator.nets, range(3)), learned.generator.scale
    with learned.no_bar(): loss, *_ = learned.validate()
    assert learned.generator.scale == scale and all(map(torch.equal, before, states(learned.generator.nets, range(3))))
    assert loss == pytest.approx(error(learned.generator), rel=1e-4)         # that of the reconstruction

def test_too_many_epochs(learned):
    with pytest.raises(ValueError, match='of 3 only 0 are left; 1 epochs are too many'): fit(learned, 1)

class Stop(Callback):
    order = 2000
    def after_batch(self):
        if self.training and self.epoch == 1 and self.iter == 8: raise CancelFitException

def test_resumes_in_the_middle_of_a_scale(tmp_path):
    def learner(**kwargs):
        torch.manual_seed(3)
        return singan_learner(two_fields(half()), preset=dict(FEW, n_iter=10), **kwargs)      # the rate falls after 8
    whole = fit(learner(cbs=Checkpoint(tmp_path/'whole')))
    fit(learner(cbs=[Checkpoint(tmp_path/'cut', every=999), Stop()]))
    again = learner(cbs=Checkpoint(tmp_path/'cut', every=999, resume=True))
    again.model.generator.picture.zero_()                                    # it is in the checkpoint
    fit(again)
    there = again.model.state_dict()
    for k, a in whole.model.state_dict().items(): assert torch.equal(a, there[k]), k

def test_penalty_is_that_of_finite_differences():
    critic = FiveConvs(3, 1, 4).double().eval()
    for conv in critic.convs: torch.nn.init.normal_(conv.weight, 0, .3)
    fake, real = torch.randn(2, 1, 3, 12, 13, dtype=torch.float64).unbind()
    torch.manual_seed(5)
    eps = torch.rand(1, 1, 1, 1)
    torch.manual_seed(5)
    found = PixelGP(.1).penalty(lambda x: [[critic(x)]], fake, real)
    x, step = (eps*real + (1 - eps)*fake).double(), 1e-6
    nudges = step*torch.eye(x.numel(), dtype=torch.float64).view(-1, *x.shape[1:])
    with torch.no_grad(): slope = (critic(x + nudges) - critic(x - nudges)).flatten(1).sum(1).view(x.shape)/(2*step)
    by_hand = .1*((slope.square().sum(1).sqrt() - 1)**2).mean()
    assert float(found) == pytest.approx(float(by_hand), rel=1e-4)

# Drawing

def test_same_seed_same_sample(learned):
    a, b, c = (np.array(learned.sample(seed=s)) for s in (3, 3, 4))
    assert (a == b).all() and (a != c).any()
    two = learned.sample(seed=3, n=2)
    assert (np.array(two[0]) == a).all() and (np.array(two[1]) != a).any()
    assert (np.array(learned.sample((27, 31), seed=3)) == a).all()

@pytest.mark.parametrize('size, pil', [((27, 31), (31, 27)), ((61, 40), (40, 61)), (33, (33, 33))])
def test_samples_of_any_size(learned, size, pil): assert learned.sample(size, seed=1).size == pil

def test_later_scales_keep_more_of_the_picture(learned):
    off = lambda o: np.abs(np.array(o, float) - two_fields(half())).mean()
    each = [np.mean([off(learned.sample(seed=s, from_scale=k)) for s in range(4)]) for k in range(3)]
    assert each[0] > each[1] > each[2]

def test_drawing_leaves_the_training_mode(learned):
    learned.model.train()
    before = states(learned.generator.nets, range(3))
    learned.sample(seed=0)
    assert learned.generator.training and learned.generator.nets[2].training and not learned.generator.nets[0].training
    assert all(map(torch.equal, before, states(learned.generator.nets, range(3))))

def test_only_what_was_changed_is_new(learned):
    picture, where = two_fields(half()), np.zeros((27, 31), bool)
    where[4:9, 4:9] = True
    for use in (partial(learned.edit, from_scale=1), learned.harmonise):
        new = np.array(use(picture, where, seed=0, feather=1))
        assert (new[:, 16:] == picture[:, 16:]).all() and (new[5:8, 5:8] != picture[5:8, 5:8]).any()
    assert (np.array(learned.edit(picture, seed=0))[:, 20:] != picture[:, 20:]).any()

@pytest.mark.parametrize('factor, size', [(2, (62, 54)), (1.2, (37, 32)), (3, (93, 81))])
def test_upscale(learned, factor, size):
    large = learned.upscale(factor, seed=0)
    assert large.size == size
    small = np.array(large.resize((31, 27)), float)
    assert np.abs(small - two_fields(half())).mean() < 40                    # still that picture

def test_one_file(learned, masked, tmp_path):
    for learn, mask in ((learned, None), (masked, half()[::-1, ::-1])):
        again = load_singan(learn.save_singan(tmp_path/'one.safetensors'))
        for k in (0, 1):
            a, b = (o.sample(seed=2, mask=mask, from_scale=k) for o in (learn, again))
            assert (np.array(a) == np.array(b)).all()

# A mask

NEW = dict(rows=np.s_[:14], swapped=np.s_[:, :15], island=np.s_[7:20, 9:22])

@pytest.mark.parametrize('name', NEW)
def test_a_new_mask_is_followed(masked, name):
    ids = np.zeros((27, 31), np.uint8)
    ids[NEW[name]] = 1
    pics = np.stack([np.array(o, float) for o in masked.sample(mask=ids, seed=0, n=3)])
    train, their = two_fields(half()).astype(float), half()
    for c in (0, 1):
        found, means = pics[:, ids == c].mean((0, 1)), [train[their == k].mean(0) for k in (0, 1)]
        far = [np.abs(found - o).mean() for o in means]
        assert far[c] < .5*far[1 - c], f'class {c} has the colour {found}'

def test_without_a_mask_there_is_one_class(learned, masked):
    assert learned.generator.n_classes == 1 and learned.model.critic.encode is None
    assert masked.generator.n_classes == 2 and masked.model.critic.nets[0].convs[0].in_channels == 5

# Errors

SMALL = np.zeros((20, 40, 3), np.uint8)

@pytest.mark.parametrize('call, says', [
    (lambda o, m: singan_learner(SMALL), '20×40 pixels is too small for a pyramid whose coarsest scale has 25'),
    (lambda o, m: singan_learner(two_fields(half()), half(27, 30)), 'the mask has 27×30 pixels, the picture 27×31'),
    (lambda o, m: singan_learner(two_fields(half()), half(), n_classes=1), 'the mask has id 1; classes are 0..0'),
    (lambda o, m: singan_learner(two_fields(half()), preset=FEW).sample(), 'nothing has been learned yet'),
    (lambda o, m: o.sample((20, 90)), '20×90 pixels are 10×44 at the coarsest scale.*at least 23 each way'),
    (lambda o, m: o.sample(from_scale=3), 'from_scale=3: a picture enters at scale 1 .* to 2'),
    (lambda o, m: o.paint(two_fields(half()), from_scale=0), 'from_scale=0: a picture enters at scale 1'),
    (lambda o, m: o.sample(from_scale=-1), 'from_scale=-1'),
    (lambda o, m: o.sample(mask=half()), 'learned without a mask'),
    (lambda o, m: m.sample(mask=half() + 1), 'the mask has id 2; classes are 0..1'),
    (lambda o, m: o.upscale(1), 'factor=1 makes nothing larger'),
    (lambda o, m: o.edit(two_fields(half()), np.zeros((3, 4))), '`where` has 3×4 pixels, the picture 27×31')])
def test_errors(learned, masked, call, says):
    with pytest.raises(ValueError, match=says): call(learned, masked)

def test_a_class_that_the_picture_has_not():
    learn = fit(singan_learner(two_fields(half()), 2*half(), dict(FEW, n_iter=1), n_classes=4), 1)
    with pytest.raises(ValueError, match='has class 1, which the learned picture has not.*its classes are 0, 2'):
        learn.sample(mask=half())

# The measure

def test_patch_distance_by_hand():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)
    assert patch_distance(picture, picture) < .1 and patch_distance(picture[3:15, 4:], picture) < .1
    flat = lambda v: np.full((12, 12, 3), v, np.uint8)
    assert patch_distance(flat(50), flat(60)) == pytest.approx(10, abs=.01)
    one_red = flat(50)
    one_red[5, 5, 0] = 71                                                    # a patch of 3×3: sqrt(21²/27), or 0
    assert patch_distance(one_red, flat(50), ks=3, stride=1) == pytest.approx(9*21/27**.5/100, abs=.01)

def test_turns(): assert InTurn(2, 1).turns() == ('critic', 'critic', 'generator')
def test_callback_is_there(learned): assert any(isinstance(o, ScaleByScale) for o in learned.cbs)

# What cannot be right

@pytest.mark.odd
@pytest.mark.parametrize('change, said', [
    (dict(steps=(1, 1, 1)), 'steps=(1, 1, 1) of the preset must be two numbers'),
    (dict(steps=3), 'steps=3 must be a list'),
    (dict(steps=(0, 1)), 'steps=0 must'), (dict(steps=(1, 1.5)), 'steps=1.5 must'), (dict(n_iter=0), 'n_iter=0 must'),
    (dict(n_iter='9'), "n_iter='9' must"), (dict(max_size=None), 'max_size=None must'),
    (dict(nets=dict(nf=-1)), 'nf=-1'),
    (dict(nets=dict(width=4)), "nets={'width': 4} of the preset must be"), (dict(pyramid=3), 'pyramid=3 of the preset'),
    (dict(pyramid=dict(ratio=float('nan'))), 'ratio=nan must'),
    (dict(pyramid=dict(min_size=13.5)), 'min_size=13.5 must'),
    (dict(extra=1), 'a preset of SinGAN is a dict with the keys'), (dict(lr=-1), 'lr=-1 must'),
    (dict(lr='1'), "lr='1'")])
def test_presets_that_cannot_be_right(change, said):
    with pytest.raises(ValueError) as e: fit(singan_learner(two_fields(half()), half(), {**FEW, **change}), 1)
    assert said in str(e.value)

@pytest.mark.odd
@pytest.mark.parametrize('args, said', [
    (dict(n=0), 'n=0 must'), (dict(n=-1), 'n=-1 must'), (dict(n='2'), "n='2' must"), (dict(size=0), 'size=0 must'),
    (dict(size='40'), "size='40' must"), (dict(size=(40,)), 'must be (height, width)'), (dict(size=30.5), 'size=30.5'),
    (dict(seed=-1), 'seed=-1 must'), (dict(seed='a'), "seed='a' must"), (dict(from_scale='1'), "from_scale='1' must"),
    (dict(from_scale=True), 'from_scale=True must'), (dict(from_scale=-1), 'from_scale=-1 must')])
def test_samples_that_cannot_be_right(learned, args, said):
    with pytest.raises(ValueError) as e: learned.sample(**args)
    assert said in str(e.value)

@pytest.mark.odd
@pytest.mark.parametrize('factor', [1, -2, float('nan'), float('inf'), '2', None])
def test_factors_that_cannot_be_right(learned, factor):
    with pytest.raises(ValueError, match='factor='): learned.upscale(factor)

def test_a_sample_leaves_the_random_state(learned):
    before = torch.get_rng_state()
    learned.sample(), learned.upscale(1.5), learned.paint(two_fields(half()))
    assert before.equal(torch.get_rng_state())
