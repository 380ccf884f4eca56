"Drawing leaves no trace, whoever draws, and shows the weights there are, whatever wrote them"
import random, threading
from functools import partial
import matplotlib.pyplot as plt, numpy as np, pytest, torch
from torch import nn
from torch.nn.utils import parametrize
from fastai.vision.all import Callback, ProgressCallback, noop
from clear import agrees
from spade_fastai.core import OneHot
from spade_fastai.data.landcover import make_landcover
from spade_fastai.data.items import SpadeDataLoaders
from spade_fastai.drawing import generate
from spade_fastai.fast.switch import faster
from spade_fastai.learner import spade_learner
from spade_fastai.nets.generator import SPADEGenerator, SPADEResBlk
from spade_fastai.nets.norms import SPADE
from spade_fastai.nets.starts import MapNoiseStart
from spade_fastai.saving import load_spade

TOY = dict(generator=dict(nf=4, mults=(4, 2, 1), ups=(1, 1), norm=partial(SPADE, hidden=8),
                          start=partial(MapNoiseStart, nz=4)),
           critic=dict(nf=4, n_layers=2), gen_loss={}, weights=dict(feat=10), lr=slice(5e-4, 2e-3))

@pytest.fixture(scope='module')
def land(tmp_path_factory): return make_landcover(tmp_path_factory.mktemp('data')/'land', n=12, size=32)

@pytest.fixture
def make(land, tmp_path):
    def _make(seed=1, **kwargs):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        dls = SpadeDataLoaders.from_folder(land, size=32, bs=4, valid_pct=.25, device='cpu')
        learn = spade_learner(dls, TOY, path=tmp_path, sample_grid=None, **kwargs)
        nn.init.normal_(learn.model.generator.conv_img.weight)
        learn.remove_cb(ProgressCallback)
        learn.logger = noop
        return learn
    yield _make
    plt.close('all')

def mask_of(learn): return learn.dls.valid.items[0][0]

def world(net):
    "All that drawing must leave as it is"
    mods, ps = list(net.modules()), list(net.parameters())
    return dict(
        random=(random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
        modes=[m.training for m in mods], hooks=[len(m._forward_hooks) + len(m._forward_pre_hooks) for m in mods],
        attributes=[sorted(vars(m)) for m in mods], asks=[p.requires_grad for p in ps],
            grads=[p.grad is None for p in ps],
        weights=[p.tolist() for p in (*ps, *net.buffers())], switches=(torch.is_grad_enabled(),
            torch.get_default_dtype(),
        torch.get_num_threads(), torch.backends.cudnn.benchmark, torch.is_inference_mode_enabled()))

WAYS = dict(generate=lambda o: o.generate(mask_of(o)), seed=lambda o: o.generate(mask_of(o), seed=3),
            interpolate=lambda o: o.interpolate(mask_of(o), 1, 2, 3), predict=lambda o: o.predict(mask_of(o)),
            show_results=lambda o: o.show_results(max_n=2),
            show_styles=lambda o: o.show_styles([mask_of(o)], [1, 2]))

@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('fast', [True, False], ids=['fast', 'clear'])
def test_no_trace(make, way, fast):
    learn = make(fast=fast)
    net = learn.model.train()
    net.generator.blocks[0].eval(), net.critic.eval()
    before, cbs = world(net), {o.name: dict(vars(o)) for o in learn.cbs}
    WAYS[way](learn)
    assert world(net) == before
    assert {o.name: dict(vars(o)) for o in learn.cbs} == cbs

def test_no_trace_of_a_file(make, tmp_path):
    learn = make()
    file, before = learn.save_spade(tmp_path/'a.safetensors'), world(learn.model)
    gen = load_spade(file)
    gen.generate(mask_of(learn))
    assert world(learn.model) == before

class Draws(Callback):
    "Draws after each turn and each batch of a training"
    order = 44
    def after_pred(self): self.look()
    def after_batch(self): self.look()
    def look(self):
        if self.training: [way(self.learn) for way in (WAYS['generate'], WAYS['predict'])]
    def after_epoch(self): WAYS['show_results'](self.learn)

def test_drawing_inside_of_a_training(make):
    runs = [make(cbs=o) for o in (None, Draws())]
    for o in runs: random.seed(3), np.random.seed(3), torch.manual_seed(3), o.fit(2)
    a, b = (o.model.state_dict() for o in runs)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert runs[0].recorder.losses == runs[1].recorder.losses and len(runs[1].recorder.losses) == 4
    assert [list(o[:6]) for o in runs[0].recorder.values] == [list(o[:6]) for o in runs[1].recorder.values]

def test_a_callback_that_predicts_within_a_prediction(make):
    class Looks(Callback):
        def after_epoch(self): self.learn.predict(mask_of(self))
    learn = make(cbs=Looks())
    with pytest.raises(ValueError, match="hasattr.self, 'gather_preds'"): learn.predict(mask_of(learn))
    learn.fit(1)

def test_drawing_beside_a_training(make):
    "A second thread draws while this one trains"
    alone, beside, pics, stop = make(), make(), [], threading.Event()
    def draw():
        while not stop.is_set(): pics.append(beside.generate(mask_of(beside), seed=1))
    for o in (alone, beside):
        random.seed(3), np.random.seed(3), torch.manual_seed(3)
        if o is beside: (thread := threading.Thread(target=draw)).start()
        try: o.fit(1)
        finally:
            if o is beside: stop.set(), thread.join()
    a, b = alone.model.state_dict(), beside.model.state_dict()
    assert pics and all(torch.equal(a[k], b[k]) for k in a)

@pytest.mark.parametrize('mode', [True, False], ids=['train', 'eval'])
def test_many_threads(make, mode):
    learn = make()
    files, net = [o[0] for o in learn.dls.valid.items], learn.model.train(mode)
    want = {(f, s): np.array(learn.generate(f, seed=s)) for f in files for s in (1, 2)}
    before, wrong = world(net), []
    def draw():
        for _ in range(3): wrong.extend(k for k,
            v in want.items() if (np.array(learn.generate(k[0], seed=k[1])) != v).any())
    threads = [threading.Thread(target=draw) for _ in range(4)]
    for o in threads: o.start()
    for o in threads: o.join()
    assert not wrong and world(net) == before

@pytest.mark.parametrize('context', [torch.inference_mode, torch.no_grad])
def test_weights_can_learn_after_it(make, tmp_path, context):
    learn = make()
    file = learn.save_spade(tmp_path/'a.safetensors')
    learn.model.eval()
    with context():
        want = np.array(learn.generate(mask_of(learn), seed=1))
        gen = load_spade(file)
        assert np.array_equal(gen.generate(mask_of(learn), seed=1), want)
    assert not any(o.is_inference() for o in (*gen.parameters(), *learn.model.parameters()))
    assert np.array_equal(learn.generate(mask_of(learn), seed=1), want)
    copy = learn.model.generator.forward.memory['kept'][0]
    assert not any(o.is_inference() for o in (*copy.parameters(), *copy.buffers()))
    learn.fit(1)
    assert np.isfinite(float(learn.recorder.losses[-1]))

# A generator with modules of one's own

class Grain(nn.Module):
    "Noise of a reader's own, drawn from torch's random numbers even when drawing"
    def forward(self, x): return x + .5*torch.randn_like(x)

def test_own_noise_follows_the_seed_and_leaves_no_trace():
    gen, mask = small(), np.zeros((16, 16), int)
    gen.ups[0].append(Grain())
    before = world(gen)
    a, b, c, d = (np.array(generate(gen, mask, seed=s)) for s in (1, 1, 2, None))
    assert world(gen) == before and (a == b).all() and (a != c).any() and (d != np.array(generate(gen, mask))).any()

# The weights there are

def small(**kw):
    gen = faster(SPADEGenerator(4, nf=4, mults=(2, 2, 1), ups=(1, 1), **{**dict(norm=partial(SPADE, hidden=6)), **kw}))
    for p in gen.parameters(): nn.init.normal_(p, 0, .3 if p.ndim < 2 else .7*p[0].numel()**-.5)
    with torch.no_grad():
        for _ in range(15): gen.train()(torch.randint(0, 4, (2, 16, 16)))    # its statistics follow the weights
    return gen.eval()

class Knob(nn.Module):
    def __init__(self, by): super().__init__(); self.by = by
    def forward(self, x): return x*self.by['gain'] if isinstance(self.by, dict) else x*self.by

def other_block(gen): gen.blocks[0] = SPADEResBlk(8, 8, partial(SPADE, encode=gen.encode, hidden=6)).eval()
def assign(gen): gen.load_state_dict({k: v + .1 for k, v in gen.state_dict().items()}, assign=True)
def foreach(gen): torch._foreach_add_([p.data for p in gen.blocks[1].parameters()], .02)
def swapped(gen): gen.conv_img.weight = nn.Parameter(gen.conv_img.weight.detach()*2)
def statistics(gen): gen.blocks[0].norm_0.param_free_norm.running_var.data.fill_(3.)
def spectral_vectors(gen): gen.blocks[0].conv_0.parametrizations.weight[0]._u.data.neg_()
def doubled(gen): gen.double()
def eps(gen): gen.blocks[0].norm_0.param_free_norm.eps = 1.
def slope(gen): gen.blocks[1].act.negative_slope = .9
def own_forward(gen): gen.blocks[0].act.forward = lambda x: x*0
def learning_inside(gen): gen.blocks[0].norm_0.param_free_norm.train()
def upsampling(gen): gen.ups[0][0].mode = 'bilinear'
def sequential(gen): gen.conv_img = nn.Sequential(gen.conv_img, nn.Softsign())
WRITES = [other_block, assign, foreach, swapped, statistics, spectral_vectors, doubled, eps, slope, own_forward,
          learning_inside, upsampling, sequential]

@pytest.mark.parametrize('write', WRITES, ids=lambda o: o.__name__)
def test_no_change_leaves_a_stale_copy(write):
    gen, mask = small(), torch.randint(0, 4, (2, 16, 16))
    before = agrees(gen, mask)
    assert gen.forward.memory
    write(gen)
    got = agrees(gen, mask)
    assert got.dtype != before.dtype or not torch.allclose(got, before, atol=1e-6)

@pytest.mark.parametrize('own', [lambda k: k, lambda k: k['gain']], ids=['dict', 'number'])
def test_own_modules_are_asked_each_time(own):
    gen, mask, knob = small(), torch.randint(0, 4, (2, 16, 16)), dict(gain=1.)
    gen.ups[1].append(mine := Knob(own(knob)))
    before = agrees(gen, mask)
    knob['gain'] = 3.
    mine.by = own(knob)
    assert not torch.allclose(agrees(gen, mask), before, atol=1e-3)

def test_own_parametrizations_are_asked_each_time():
    gen, mask = small(weight_norm=nn.Identity()), torch.randint(0, 4, (2, 16, 16))
    for m in (gen.blocks[0].conv_0, gen.blocks[0].norm_0.mlp_gamma):
        parametrize.register_parametrization(m, 'weight', mine := Knob(1.))
        before = agrees(gen, mask)
        mine.by = -2.
        assert not torch.allclose(agrees(gen, mask), before, atol=1e-3)

PATCHES = [(SPADE, 'gamma_beta', lambda self, cond, size: (torch.ones(1), torch.full((1,), .3))),
           (SPADEResBlk, 'forward', lambda self, x, cond: torch.ones(len(x), self.conv_1.out_channels, *x.shape[2:])),
           (nn.Conv2d, 'forward', lambda self, x: self._conv_forward(x, 2*self.weight, self.bias)),
           (nn.LeakyReLU, 'forward', lambda self, x: x.relu()),
           (OneHot, 'encode', lambda self, ids: nn.functional.one_hot(ids.roll(1, -1), 4).movedim(-1, 1))]

@pytest.mark.parametrize('cls, name, new', PATCHES, ids=lambda o: getattr(o, '__name__', str(o)))
@pytest.mark.parametrize('copied', [True, False], ids=['after a copy', 'before it'])
def test_a_class_that_is_patched(monkeypatch, cls, name, new, copied):
    gen, mask = small(), torch.randint(0, 4, (2, 16, 16))
    before = agrees(gen, mask) if copied else None
    monkeypatch.setattr(cls, name, new)
    got = agrees(gen, mask)
    if copied: assert not torch.allclose(got, before, atol=1e-3)
    monkeypatch.undo()
    assert not torch.allclose(agrees(gen, mask), got, atol=1e-3)
