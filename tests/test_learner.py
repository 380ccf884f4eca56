"All of fastai on our learner, by value: what comes out is compared with what it should be, not only with its shape"
import math, random, shutil, warnings
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from types import SimpleNamespace
import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest, torch
from torch import nn
from PIL import Image
from fastai.vision.all import (
    Adam, Callback, CSVLogger, DataBlock, DataLoaders, EarlyStoppingCallback, GradientClip, Normalize, ProgressCallback,
    RandomSplitter, SaveModelCallback, ShowGraphCallback, TensorImage, TensorMask, TerminateOnNaNCallback,
    Zoom, get_image_files, imagenet_stats, load_learner, noop)
from spade_fastai.data.landcover import make_landcover
from spade_fastai.data.block import SpadeBlock
from spade_fastai.data.items import SpadeDataLoaders, SpadeItemList
from spade_fastai.nets.norms import SPADE
from spade_fastai.nets.starts import MapNoiseStart, MapStart
from spade_fastai.train.switchers import AdaptiveGANSwitcher, FixedGANSwitcher
from spade_fastai.train.callbacks import SampleGrid
from spade_fastai.train.memory import Accumulate
from spade_fastai.learner import spade_learner

TOY = dict(generator=dict(nf=4, mults=(4, 2, 1), ups=(1, 1), norm=partial(SPADE, hidden=8)),
           critic=dict(nf=8, n_layers=2), gen_loss={}, weights=dict(feat=10), lr=slice(5e-4, 2e-3))
TERMS = ['gan', 'feat', 'crit_fake', 'crit_real']
N_TRAIN, N_VALID, BS = 18, 6, 4                                 # 4 batches an epoch; the last of validation is short

@pytest.fixture(scope='module')
def land(tmp_path_factory): return make_landcover(tmp_path_factory.mktemp('data')/'land', n=N_TRAIN + N_VALID, size=32)

@pytest.fixture
def make(land, tmp_path):
    "Makes learners of toy size, all with the same weights and the same order of batches"
    def _make(dls=None, seed=1, progress=False, sample_grid=None, **kwargs):
        same_random(seed)
        dls = loaders(land) if dls is None else dls
        learn = spade_learner(dls, TOY, path=tmp_path, sample_grid=sample_grid, **kwargs)
        nn.init.normal_(learn.model.generator.conv_img.weight)   # pictures far from grey, or all would look alike
        if not progress: learn.remove_cb(ProgressCallback)
        learn.logger = noop
        return learn
    return _make

@pytest.fixture(autouse=True)
def no_figures():
    plt.close('all')
    yield
    plt.close('all')

def same_random(seed): random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
def loaders(path, **kwargs):
    return SpadeDataLoaders.from_folder(path, **{**dict(size=32, bs=BS, valid_pct=.25, device='cpu'), **kwargs})
def state(net): return {k: v.clone() for k, v in net.state_dict().items()}
def params(net): return torch.cat([p.detach().flatten() for p in net.parameters()])
def nets(learn): return learn.model.generator, learn.model.critic
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
def held_back(learn): return [m for m, _ in learn.dls.valid.items]

@contextmanager
def moved(learn):
    "Which of (generator, critic) moved inside, as `res.moved`"
    before, res = [params(o) for o in nets(learn)], SimpleNamespace()
    yield res
    res.moved = tuple(not torch.equal(b, params(o)) for b, o in zip(before, nets(learn), strict=True))

def drawn(model, files):
    "Pictures [N,3,H,W] for mask files, one at a time: what every way to predict must give"
    model.eval()
    with torch.no_grad(): return torch.cat([model(torch.from_numpy(np.array(Image.open(o)))[None]) for o in files])

def real(files):
    return torch.stack([torch.from_numpy(np.array(Image.open(o))).permute(2, 0, 1)/127.5 - 1 for o in files])
def image_of(mask): return mask.parent.parent/'images'/mask.name
def tiles(fig): return [np.asarray(ax.images[0].get_array()) for ax in fig.axes if ax.images]

class Watch(Callback):
    "Before each step: who has the turn by gradients, their norm, the rates; after each batch: which networks moved"
    order = 100
    def before_fit(self): self.steps, self.batches = [], []
    def before_batch(self): self.before = [params(o) for o in nets(self.learn)]
    def before_step(self):
        grads = [[p.grad for p in o.parameters() if p.grad is not None] for o in nets(self.learn)]
        who = ''.join(n for n, g in zip('gc', grads, strict=True) if g)
        norm = float(torch.cat([x.flatten() for g in grads for x in g]).norm())
        lr, mom = ([h[k] for h in self.opt.hypers] for k in ('lr', 'mom'))
        self.steps.append(dict(who=who, norm=norm, lr=lr, mom=mom))
    def after_batch(self):
        if not self.training: return
        pairs = zip(nets(self.learn), self.before, strict=True)
        self.batches.append([float((params(o) - b).abs().max()) for o, b in pairs])
    who = property(lambda self: ''.join(o['who'] for o in self.steps))

# Training and its schedules

def test_fit(make):
    learn = make(cbs=Watch())
    with moved(learn) as res: learn.fit(2)
    assert res.moved == (True, True)
    assert learn.watch.who == 'gc'*8
    assert list(learn.recorder.metric_names) == ['epoch', 'train_loss', 'valid_loss', *TERMS, 'time']
    assert np.isfinite(np.array(learn.recorder.values, dtype=float)).all() and len(learn.recorder.values) == 2
    log = learn.loss_terms.history
    assert len(log) == 8
    for epoch, row in enumerate(learn.recorder.values):
        for k, v in zip(TERMS, row[2:], strict=True):
            assert v == pytest.approx(np.mean([float(o[k]) for o in log[epoch*4:epoch*4+4]]), rel=1e-5)
    gen = [float(o['gan'] + o['feat']) for o in log]             # train_loss is the generator's, smoothed
    smooth = sum(.02*.98**(7-i)*o for i, o in enumerate(gen))/(1 - .98**8)
    assert learn.recorder.values[-1][0] == pytest.approx(smooth, rel=1e-4)

def test_each_network_has_its_own_rate(make):
    learn = make(cbs=Watch())
    learn.fit(1)
    assert [o['lr'] for o in learn.watch.steps] == [[5e-4, 2e-3]]*8
    assert learn.watch.batches[0] == pytest.approx([5e-4, 2e-3], rel=1e-3)   # Adam's first step is one rate long
    learn = make(cbs=Watch())
    learn.fit(1, lr=slice(1e-3, 1e-4))
    assert learn.watch.batches[0] == pytest.approx([1e-3, 1e-4], rel=1e-3)
    assert make(lr=1e-3).lr == 1e-3

def cos(a, b, t): return b + (a - b)*(1 + math.cos(math.pi*t))/2

@pytest.mark.parametrize('kwargs, tops', [({}, (5e-4, 2e-3)), (dict(lr_max=slice(1e-3, 3e-3)), (1e-3, 3e-3))])
def test_fit_one_cycle(make, kwargs, tops):
    learn = make(cbs=Watch())
    learn.fit_one_cycle(2, **kwargs)
    rate = lambda t, i: cos(t/25, t, i/8/.25) if i < 2 else cos(t, t/1e5, (i/8 - .25)/.75)
    want = [[rate(t, i) for t in tops] for i in range(8) for _ in 'gc']
    assert np.allclose([o['lr'] for o in learn.watch.steps], want, rtol=1e-4, atol=1e-9)
    assert np.allclose(want[4], tops) and want[0][0] < want[2][0] < want[4][0] > want[-1][0]   # up, then down
    assert all(o['mom'] == [0, 0] for o in learn.watch.steps)

def test_fit_flat_cos(make):
    learn = make(cbs=Watch())
    learn.fit_flat_cos(2, pct_start=.5)
    want = [[t if i < 4 else cos(t, t/1e5, (i/8 - .5)/.5) for t in (5e-4, 2e-3)] for i in range(8) for _ in 'gc']
    assert np.allclose([o['lr'] for o in learn.watch.steps], want, rtol=1e-4, atol=1e-9)

@pytest.mark.parametrize('gen_loss', [None, dict(feat=None)])
def test_lr_find(make, gen_loss):
    learn = make(gen_loss=gen_loss, cbs=Watch())
    learn.fit(1)
    before, opt = state(learn.model), deepcopy(learn.opt.state_dict())
    found = learn.lr_find(num_it=60, show_plot=False)
    lrs = learn.recorder.lrs
    assert len(lrs) == 60 and learn.watch.who == 'g'*60                         # the critic stands still
    assert np.allclose(lrs, [1e-7*1e8**(i/60) for i in range(60)], rtol=1e-4)
    assert lrs[6] <= found.valley <= lrs[-6]
    assert same(state(learn.model), before)
    now = learn.opt.state_dict()
    assert now['param_groups'] == opt['param_groups']
    assert all(same(now['state'][k], opt['state'][k]) for k in opt['state'])
    learn.fit(1)
    assert np.isfinite(np.array(learn.recorder.values, dtype=float)).all()

def test_same_seed_same_weights(make):
    learns = [make(seed=s) for s in (1, 1, 2)]
    for learn, s in zip(learns, (1, 1, 2), strict=True): same_random(s), learn.fit(2)
    a, b, c = [state(o.model) for o in learns]
    assert same(a, b) and not same(a, c)
    a, b, c = ([o[:6] for o in learn.recorder.values] for learn in learns)
    assert a == b != c

def test_freeze_and_unfreeze(make):
    learn = make()
    learn.freeze()                                              # all but the last group: the critic is trained
    with moved(learn) as res: learn.fit(1)
    assert res.moved == (False, True)
    learn.unfreeze()
    with moved(learn) as res: learn.fit(1)
    assert res.moved == (True, True)

def test_without_validation(make, land, tmp_path):
    items = SpadeItemList.from_folder(land/'labels').split_none().label_from_folder('images')
    dls = items.transform(32).dataloaders(bs=BS, device='cpu')
    learn = make(dls, sample_grid=partial(SampleGrid, folder=tmp_path/'grid'))
    with moved(learn) as res: learn.fit(2)
    assert res.moved == (True, True) and len(learn.loss_terms.history) == 12
    assert all(o[1] is None and np.isfinite([o[0], *o[2:6]]).all() for o in learn.recorder.values)
    assert len(list((tmp_path/'grid').iterdir())) == 2

# fastai's own optimiser keeps gradients of zero
@pytest.mark.parametrize('opt', [{}, dict(opt_func=partial(Adam, mom=.9, wd=.1), moms=(.9, .9, .9))])
def test_fixed_switcher(make, opt):
    learn = make(switcher=FixedGANSwitcher(n_crit=2, n_gen=1), cbs=Watch(), **opt)
    learn.fit(2)
    assert learn.watch.who == 'ccgccgcc'
    assert [(g > 0, c > 0) for g, c in learn.watch.batches] == [(o == 'g', o == 'c') for o in 'ccgccgcc']
    log, last = learn.loss_terms.history, learn.recorder.values[-1]
    assert last[2] == pytest.approx(float(log[5]['gan']))
    assert last[4] == pytest.approx(np.mean([float(log[i]['crit_fake']) for i in (4, 6, 7)]), rel=1e-5)

def test_adaptive_switcher(make):
    learn = make(switcher=AdaptiveGANSwitcher(gen_thresh=5.6, crit_thresh=1.96), cbs=Watch())
    learn.fit(4)
    want, who = '', 'c'
    for o in learn.loss_terms.history:
        want += who
        if sum(map(float, o.values())) < dict(g=5.6, c=1.96)[who]: who = 'g' if who == 'c' else 'c'
    assert learn.watch.who == want
    assert 'ccg' in want and 'ggc' in want, 'the thresholds never made both wait and go'

# Looking and predicting

def test_show_batch(make):
    learn = make()
    mask, pic = learn.dls.valid.one_batch()
    learn.dls.valid.show_batch((mask, pic), max_n=3)
    got = tiles(plt.gcf())
    assert len(got) == 6
    for i in range(3):
        assert np.array_equal(got[2*i], learn.dls.palette.paint(np.array(Image.open(held_back(learn)[i]))))
        assert np.allclose(got[2*i+1], np.array(Image.open(image_of(held_back(learn)[i])))/255, atol=1e-6)

def test_show_results(make):
    learn = make()
    learn.fit(1)
    learn.show_results(max_n=3, shuffle=False)
    got = tiles(plt.gcf())
    assert len(got) == 9
    for i, file in enumerate(held_back(learn)[:3]):
        assert np.array_equal(got[3*i], learn.dls.palette.paint(np.array(Image.open(file))))
        assert np.allclose(got[3*i+1], np.array(Image.open(image_of(file)))/255, atol=1e-6)
        assert np.abs(got[3*i+2] - np.array(learn.generate(file))/255).max() <= .5/255 + 1e-6

@pytest.mark.parametrize('bs', [4, 5])                           # the last batch has two items, or a single one
def test_validate(make, land, bs):
    learn = make(loaders(land, bs=bs))
    learn.fit(1)
    before, files = state(learn.model), held_back(learn)
    want = float((drawn(learn.model, files) - real(map(image_of, files))).abs().mean())
    assert learn.recorder.values[-1][1] == pytest.approx(want, rel=1e-4)
    got = learn.validate()
    assert len(got) == 5 and got[0] == pytest.approx(want, rel=1e-4)
    assert same(state(learn.model), before)

def test_predict(make):
    learn = make()
    learn.fit(1)
    before, file = state(learn.model), held_back(learn)[0]
    shown, picture, raw = learn.predict(file)
    want = np.array(learn.generate(file))/255
    assert want.std() > .01
    assert np.abs(shown.permute(1, 2, 0).numpy() - want).max() <= 1/255
    assert torch.allclose(raw, drawn(learn.model, [file])[0], atol=1e-5) and torch.equal(picture, raw)
    for other in (str(file), Image.open(file), np.array(Image.open(file))):
        assert torch.equal(learn.predict(other)[2], raw)
    assert same(state(learn.model), before)

def test_get_preds(make):
    learn = make()
    learn.fit(1)
    files = held_back(learn)
    preds, targs = learn.get_preds()
    assert torch.allclose(preds, drawn(learn.model, files), atol=1e-5)
    assert torch.allclose(targs.as_subclass(torch.Tensor), real(map(image_of, files)), atol=1e-6)
    files = [files[i] for i in (3, 0, 5, 1, 4, 2)] + sorted((files[0].parent).iterdir())[:5]
    dl = learn.dls.test_dl(files)
    assert len(dl) == 3 and len(dl.one_batch()) == 1             # masks alone
    preds, targs = learn.get_preds(dl=dl)
    assert targs is None and torch.allclose(preds, drawn(learn.model, files), atol=1e-5)

def test_get_preds_with_loss(make):
    learn = make()
    files = held_back(learn)
    preds, targs, losses = learn.get_preds(with_loss=True)
    want = (drawn(learn.model, files) - real(map(image_of, files))).abs().flatten(1).mean(1)
    assert losses.shape == (N_VALID,) and torch.allclose(losses, want, atol=1e-6)

# Files

def test_save_and_load(make):
    learn = make()
    learn.fit(1)
    file = learn.save('here')
    saved = state(learn.model)
    def goes_on(o):
        same_random(7)
        o.dls.train.rng = random.Random(7)
        o.fit(1)
        return state(o.model)
    on = goes_on(learn)
    assert not same(on, saved)
    for other in (learn, make(seed=2)):
        with warnings.catch_warnings():
            warnings.filterwarnings('error', '.*optimizer state')  # fastai only warns when it is lost
            other.load('here')
        assert same(state(other.model), saved)
        assert same(goes_on(other), on)
    weights_only = make(seed=2).load('here', with_opt=False)
    assert file.is_file() and same(state(weights_only.model), saved) and not same(goes_on(weights_only), on)

@pytest.mark.filterwarnings('ignore:load_learner')
def test_export_and_load_learner(make, tmp_path):
    learn = make(sample_grid=SampleGrid)
    learn.fit(1)
    files, before, opt = held_back(learn), state(learn.model), deepcopy(learn.opt.state_dict())
    pics = [np.array(o) for o in learn.generate(files)]
    learn.export('land.pkl')
    again = load_learner(tmp_path/'land.pkl')
    assert same(state(again.model), before)
    assert all(np.array_equal(a, b) for a, b in zip(map(np.array, again.generate(files)), pics, strict=True))
    assert torch.equal(again.predict(files[1])[2], learn.predict(files[1])[2])
    assert torch.allclose(again.get_preds(dl=again.dls.test_dl(files))[0], drawn(learn.model, files), atol=1e-5)
    now = learn.opt.state_dict()['state']
    assert len(now) == len(list(learn.model.parameters())) and all(same(now[k], opt['state'][k]) for k in now)
    with moved(learn) as res: learn.fit(1)
    assert res.moved == (True, True) and len(learn.loss_terms.history) == 4

# fastai's callbacks

class Spoil(Callback):
    "From epoch `start` on the generator draws white when it is validated; keeps what each epoch ended with"
    order = 55
    def __init__(self, start): self.start, self.states = start, []
    def before_validate(self):
        if self.epoch >= self.start: nn.init.constant_(self.model.generator.conv_img.bias, 99)
    def after_epoch(self): self.states.append(state(self.model))

def test_save_model_callback(make, capsys):
    learn = make()
    learn.fit(4, cbs=[spoil := Spoil(2), SaveModelCallback(fname='best')])
    losses = [o[1] for o in learn.recorder.values]
    best = int(np.argmin(losses))
    assert best < 2 and losses[3] > losses[best] + .02
    assert same(state(learn.model), spoil.states[best]) and not same(spoil.states[best], spoil.states[3])
    assert learn.validate()[0] == pytest.approx(losses[best], rel=1e-4)

def test_csv_logger(make, tmp_path):
    learn = make()
    learn.fit(3, cbs=CSVLogger(fname='h.csv'))
    table = pd.read_csv(tmp_path/'h.csv')
    assert list(table.columns) == ['epoch', 'train_loss', 'valid_loss', *TERMS, 'time']
    assert list(table.epoch) == [0, 1, 2]
    assert np.allclose(table.iloc[:, 1:-1].to_numpy(float), np.array(learn.recorder.values, dtype=float), rtol=1e-6)

@pytest.mark.parametrize('min_delta, patience, epochs', [(100, 2, 3), (100, 1, 2), (-100, 1, 4)])
def test_early_stopping(make, min_delta, patience, epochs, capsys):
    learn = make()
    learn.fit(4, cbs=EarlyStoppingCallback(min_delta=min_delta, patience=patience))
    assert len(learn.recorder.values) == epochs and len(learn.loss_terms.history) == 4*epochs

def test_show_graph(make, capsys):
    calls = []
    class Catch(Callback):
        order = 60
        def before_epoch(self): self.progress.mbar.update_graph = lambda *args: calls.append(deepcopy(args))
    learn = make(progress=True)
    learn.fit(2, cbs=[ShowGraphCallback(), Catch()])
    assert len(calls) == 2
    (train, valid), x_bounds, y_bounds = calls[-1]
    assert list(map(float, train[1])) == list(map(float, learn.recorder.losses)) and len(train[1]) == 8
    assert list(valid[0]) == [4, 8]
    assert list(valid[1]) == [o[1] for o in learn.recorder.values] and tuple(x_bounds) == (0, 8)

def test_gradient_clip(make):
    free, clipped = make(cbs=Watch()), make(cbs=[GradientClip(.01), Watch()])
    for o in (free, clipped): o.fit(1)
    assert free.watch.who == clipped.watch.who == 'gc'*4
    assert all(o['norm'] > .02 for o in free.watch.steps)
    assert [o['norm'] for o in clipped.watch.steps] == pytest.approx([.01]*8, rel=1e-3)

def test_terminate_on_nan(make):
    class Poison(Callback):
        def before_batch(self):
            if self.training and self.train_iter == 5: self.model.generator.conv_img.bias.data.fill_(math.nan)
    learn = make()
    learn.fit(4, cbs=[Poison(), TerminateOnNaNCallback()])
    assert len(learn.recorder.values) == 1 and len(learn.recorder.losses) == 5
    assert all(math.isfinite(float(v)) for o in learn.loss_terms.history for v in o.values())
    assert params(learn.model.generator).isnan().any()

@pytest.mark.parametrize('to', ['to_fp16', 'to_bf16'])
def test_mixed_precision_is_near_float32(make, to):
    kwargs = dict(init_scale=2.**8) if to == 'to_fp16' else {}
    plain, mixed = make(cbs=Watch()), getattr(make(cbs=Watch()), to)(**kwargs)
    off = abs(plain.validate()[0] - mixed.validate()[0])
    assert 0 < off < .01
    for o in (plain, mixed): same_random(3), o.fit(1)
    assert mixed.watch.who == 'gc'*4
    assert all(o.dtype == torch.float32 for o in mixed.model.state_dict().values() if o.is_floating_point())
    a, b = plain.loss_terms.history, mixed.loss_terms.history
    assert all(a[0][k] != b[0][k] and float(b[0][k]) == pytest.approx(float(a[0][k]), abs=.05) for k in TERMS)

@pytest.mark.parametrize('accumulate', [False, True])
def test_every_turn_runs_in_mixed_precision(make, accumulate):
    on, seen = partial(torch.is_autocast_enabled, 'cpu'), []
    class Look(Callback):
        def after_pred(self):
            if not self.training: return
            dtype = self.learn.loss_grad.dtype if hasattr(self.learn, 'loss_grad') else torch.float32
            seen.append(('pred', on(), dtype))
        def before_backward(self): seen.append(('backward', on(), self.loss_grad.dtype))
    learn = make(cbs=[Watch(), Look(), *([Accumulate(2)] if accumulate else [])]).to_bf16()
    with moved(learn) as res: learn.fit(1)
    assert res.moved == (True, True) and learn.watch.who == 'gc'*(2 if accumulate else 4)
    assert seen == [('pred', True, torch.float32), ('backward', False, torch.float32)]*8 and not on()
    assert np.isfinite(np.array(learn.recorder.values, dtype=float)).all()

def test_mixed_precision_scales_and_clips(make):
    "Gradients are scaled back before clipping, in each turn; one that overflows costs its own network a step"
    learn = make(cbs=[Watch(), GradientClip(1e-2)]).to_fp16(init_scale=2.**8)
    learn.fit(1)
    assert [o['norm'] for o in learn.watch.steps] == pytest.approx([1e-2]*8, rel=1e-3)
    learn = make(cbs=Watch()).to_fp16(init_scale=2.**126)
    learn.fit(1)
    assert learn.watch.batches[0] == [0, 0] and learn.watch.steps == []

def test_accumulate(make):
    "Two batches act as one: half the steps, each of the mean gradient over both; schedules and switchers count these"
    learn = make(cbs=[Watch(), Accumulate(2)], switcher=FixedGANSwitcher(1, 1))
    learn.fit_one_cycle(2)
    assert learn.watch.who == 'cgcg' and len(learn.loss_terms.history) == 4
    t = 5e-4
    want = [cos(t/25, t, i/4/.25) if i < 1 else cos(t, t/1e5, (i/4 - .25)/.75) for i in range(4)]
    assert [o['lr'][0] for o in learn.watch.steps] == pytest.approx(want, rel=1e-4)
    with pytest.raises(ValueError, match='5 batches of 4 need 20 items, there are 18'): make(cbs=Accumulate(5)).fit(1)
    assert len(learn.dls.train) == 4 and learn.dls.bs == BS         # the data stay as they were

# SampleGrid

@pytest.mark.parametrize('start', [MapStart, partial(MapNoiseStart, nz=4)])   # the second draws random numbers
def test_sample_grid_does_not_disturb(make, tmp_path, start):
    before = plt.get_fignums()
    grids = None, partial(SampleGrid, n=2, folder=tmp_path/'all'), partial(SampleGrid, every=2, folder=tmp_path/'some')
    runs = [make(sample_grid=o, generator=dict(start=start)) for o in grids]
    for o in runs: same_random(3), o.fit(3)
    assert plt.get_fignums() == before
    assert all(same(state(runs[0].model), state(o.model)) for o in runs[1:])
    assert runs[0].recorder.losses == runs[1].recorder.losses
    assert sorted(o.name for o in (tmp_path/'all').iterdir()) == [f'epoch_00{i}.png' for i in range(3)]
    assert sorted(o.name for o in (tmp_path/'some').iterdir()) == ['epoch_001.png', 'epoch_002.png']

def test_sample_grid_spreads_over_the_held_back(make, tmp_path):
    learn = make(sample_grid=partial(SampleGrid, n=2, folder=tmp_path/'grid'))
    learn.fit(1)
    before = state(learn.model.train())
    got = tiles(learn.sample_grid.plot())
    assert len(got) == 6 and learn.model.training and same(state(learn.model), before)
    for i, file in enumerate(held_back(learn)[::5]):                # the first and the last of six
        assert np.array_equal(got[3*i], learn.dls.palette.paint(np.array(Image.open(file))))
        assert np.allclose(got[3*i+1], np.array(Image.open(image_of(file)))/255, atol=1e-6)
        assert np.abs(got[3*i+2] - np.array(learn.generate(file))/255).max() <= .5/255 + 1e-6

def test_sample_grid_belongs_to_training_only(make, tmp_path):
    learn = make(sample_grid=partial(SampleGrid, every=2, folder=tmp_path/'grid'))
    learn.validate(), learn.get_preds(), learn.lr_find(num_it=20, show_plot=False)
    assert not (tmp_path/'grid').exists()
    learn.fit(2)
    file, = (tmp_path/'grid').iterdir()
    file.unlink()
    learn.validate(), learn.predict(held_back(learn)[0]), learn.show_results(max_n=1)
    assert not file.exists()

# Don't-care pixels, and what does not fit

def test_dontcare(make, land, tmp_path):
    path = shutil.copytree(land, tmp_path/'holes')
    for o in (path/'labels').iterdir():
        ids = np.array(Image.open(o))
        ids[:8, :8] = 255
        Image.fromarray(ids).save(o)
    with pytest.raises(ValueError, match='255'): make(loaders(path))
    learn = make(loaders(path, ignore=255))
    assert [o.encode.nc for o in nets(learn)] == [14, 14]
    assert learn.dls.one_batch()[0][:, :8].unique().tolist()[-1] == 13
    with moved(learn) as res: learn.fit(1)
    assert res.moved == (True, True) and np.isfinite(np.array(learn.recorder.values, dtype=float)).all()
    file = held_back(learn)[0]
    batch = learn.dls.valid.one_batch()[0][:1]
    assert batch[0, :8, :8].eq(13).all() and batch[0, 8:].lt(13).all()
    with torch.no_grad(): want = learn.model.eval()(batch)[0]
    assert np.abs(np.array(learn.generate(file))/127.5 - 1 - want.permute(1, 2, 0).numpy()).max() < .01
    ids = np.array(Image.open(file))
    assert np.array_equal(learn.generate(ids), learn.generate(file))

def test_padding_is_dontcare(land):
    "A picture zoomed out to half its size has black around it, and its mask says don't-care there, not class 0"
    zoom = Zoom(min_zoom=.5, max_zoom=.5, p=1., draw_x=.5, draw_y=.5, pad_mode='zeros')
    mask, pic = loaders(land, ignore=255, batch_tfms=zoom).one_batch()
    middle = torch.zeros(32, 32, dtype=torch.bool)
    middle[8:24, 8:24] = True
    assert mask[:, ~middle].eq(13).all() and mask[:, middle].lt(13).all()
    outside = pic.movedim(1, -1)[:, ~middle]
    assert outside.eq(-1).all()

def pairs(mask, pic, bs=2):
    "DataLoaders of one mask and one picture, eight times; they know nothing of classes"
    ds = [(TensorMask(mask), TensorImage(pic))]*8
    return DataLoaders.from_dsets(ds, ds, bs=bs, device='cpu')

@pytest.mark.parametrize('size, bs, said', [
    (30, 4, 'a mask of 30×30 pixels does not fit 2 doublings; .* multiples of 4, for example 32×32'),
    (32, 1, 'bs=1 with batch norm.*Pass bs=2 or more')])
def test_batches_that_do_not_fit(make, land, size, bs, said):
    with pytest.raises(ValueError, match=said): make(loaders(land, size=size, bs=bs))

def test_one_picture_a_batch_with_instance_norm(make, land):
    learn = make(loaders(land, bs=1), generator=dict(norm=partial(SPADE, hidden=8, base='instance')))
    with moved(learn) as res: learn.fit(1)
    assert res.moved == (True, True) and len(learn.loss_terms.history) == N_TRAIN

def test_pictures_that_do_not_fit(make, land):
    with pytest.raises(ValueError, match=r'pictures go from -\d\.\d to \d\.\d, but the generator draws in \[-1,1\]'):
        make(loaders(land, batch_tfms=Normalize.from_stats(*imagenet_stats, cuda=False)))
    mask, pic = torch.zeros(16, 16, dtype=torch.long), torch.zeros(3, 16, 16)
    with pytest.raises(ValueError, match='do not say how many classes'): make(pairs(mask, pic))
    with pytest.raises(ValueError, match=r'these are \[2, 3, 16, 8\] and \[2, 16, 16\]'):
        make(pairs(mask, pic[..., :8]), n_classes=2)
    with pytest.raises(ValueError, match=r'pictures go from 0.0 to 255.0'):
        make(pairs(mask, pic + torch.tensor([0., 9, 255])[:, None, None]), n_classes=2)
    assert make(pairs(mask, pic), n_classes=2).model.generator.n_classes == 2

def test_the_check_draws_no_random_numbers(make, land):
    dls = loaders(land)
    before = random.getstate(), np.random.get_state()[1].tolist()
    spade_learner(dls, TOY)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before

def test_too_few_pairs(make, land):
    block = DataBlock(blocks=SpadeBlock(land/'codes.txt'), get_items=lambda p: get_image_files(p/'labels'),
                      getters=[noop, image_of], splitter=RandomSplitter(.5))
    with pytest.raises(ValueError, match='no full training batch: 12 items, bs=16; pass a smaller `bs`'):
        make(block.dataloaders(land, bs=16, device='cpu'))

def test_parts_over_the_preset(make):
    def crit_loss(fake_pred, real_pred, **_): return fake_pred[0][-1].mean()
    learn = make(generator=dict(nf=8), critic=dict(n_scales=3), weights=dict(gan=2), crit_loss=crit_loss)
    assert [o.conv_1.out_channels for o in learn.model.generator.blocks] == [16, 8]
    assert len(learn.model.critic.nets) == 3
    assert learn.weights == dict(feat=10, gan=2) and TOY['generator']['nf'] == 4 and TOY['weights'] == dict(feat=10)
    learn.fit(1)
    assert list(learn.recorder.metric_names)[3:-1] == ['gan', 'feat', 'crit']
    ready = make(generator=learn.model.generator, critic=learn.model.critic)
    assert ready.model.generator is learn.model.generator and ready.model.critic is learn.model.critic
