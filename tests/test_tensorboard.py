"fastai's callbacks that log every hyperparameter or trace the model; and an exported learner in a new process"
import subprocess, sys, types
from functools import partial
import numpy as np, pytest, torch
from fastai.vision.all import Callback, ParamScheduler, ProgressCallback, ReduceLROnPlateau, SchedLin, noop, set_seed
from spade_fastai.data.landcover import make_landcover
from spade_fastai.data.items import SpadeDataLoaders
from spade_fastai.learner import spade_learner
from spade_fastai.nets.norms import SPADE
from spade_fastai.nets.starts import MapNoiseStart
from spade_fastai.train.callbacks import SampleGrid

TOY = dict(generator=dict(nf=4, mults=(4, 2, 1), ups=(1, 1), norm=partial(SPADE, hidden=8)),
           critic=dict(nf=4, n_layers=2), gen_loss={}, weights=dict(feat=10), lr=slice(5e-4, 2e-3))

@pytest.fixture(scope='module')
def land(tmp_path_factory): return make_landcover(tmp_path_factory.mktemp('data')/'land', n=12, size=32)

@pytest.fixture
def make(land, tmp_path):
    def _make(**kwargs):
        dls = SpadeDataLoaders.from_folder(land, size=32, bs=4, valid_pct=.25, device='cpu')
        learn = spade_learner(dls, TOY, path=tmp_path, sample_grid=None, **kwargs)
        learn.remove_cb(ProgressCallback)
        learn.logger = noop
        return learn
    return _make

class Writer:
    "A `SummaryWriter` that keeps what is written, and traces as torch's own does"
    def __init__(self, log_dir=None): self.scalars, self.graphs, self.pictures = {}, [], []
    def add_scalar(self, name, v, step):
        assert isinstance(v, (int, float, torch.Tensor, np.ndarray, np.generic)), f'{name} is {v!r}'
        self.scalars.setdefault(name, []).append(float(v))
    def add_graph(self, model, *args):
        was = model.training
        model.eval()
        self.graphs.append(torch.jit.trace(model, args, strict=True).graph)
        model.train(was)
    def add_image(self, *args, **kwargs): self.pictures.append(args)
    add_figure = add_image
    def close(self): pass

@pytest.fixture
def board(monkeypatch):
    "fastai's TensorBoardCallback, with or without tensorboard"
    stub = types.ModuleType('torch.utils.tensorboard')
    stub.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, 'tensorboard', types.ModuleType('tensorboard'))
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', stub)
    monkeypatch.delitem(sys.modules, 'fastai.callback.tensorboard', raising=False)
    from fastai.callback.tensorboard import TensorBoardCallback
    yield TensorBoardCallback
    sys.modules.pop('fastai.callback.tensorboard', None)

@pytest.mark.parametrize('trace', [True, False])
@pytest.mark.parametrize('fast', [True, False], ids=['fast', 'clear'])
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_tensorboard(make, board, trace, fast):
    start = MapNoiseStart if trace and not fast else None                 # one that draws random numbers, too
    learn = make(fast=fast, **({'generator': dict(start=start)} if start else {}))
    log = board(trace_model=trace, log_preds=False)
    learn.fit(1, cbs=log)
    written = log.writer.scalars
    assert len(log.writer.graphs) == trace and len(written['lr_0']) == len(written['train_loss']) >= 2
    assert {'lr_1', 'eps_0', 'gan', 'feat', 'crit_fake', 'crit_real'} <= set(written)

TERMS = {'gan', 'feat', 'crit_fake', 'crit_real'}

@pytest.fixture
def trains_alike(make):
    "Train with a grid and a tracker, whose weights are those without; gives the learner"
    def _trained(*cbs):
        set_seed(3)
        learn = make()
        learn.fit(2, cbs=[*cbs, SampleGrid(2)] if cbs else [])
        return learn
    def _both(tracker):
        a, b = _trained(), _trained(tracker)
        for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True): assert torch.equal(p, q)
        return b
    return _both

def test_pictures_and_terms_in_the_real_tensorboard(trains_alike, tmp_path):
    pytest.importorskip('tensorboard')
    from fastai.callback.tensorboard import TensorBoardCallback
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    learn = trains_alike(TensorBoardCallback(tmp_path/'log', trace_model=False))
    log = EventAccumulator(str(tmp_path/'log')).Reload()
    assert log.Tags()['images'] == ['samples'] and TERMS | {'train_loss', 'valid_loss'} <= set(log.Tags()['scalars'])
    assert [o.step for o in log.Images('samples')] == [2, 4] and log.Images('samples')[0].width > 200
    col = learn.recorder.metric_names.index('feat') - 1
    want = [o[col] for o in learn.recorder.values]
    assert np.allclose([o.value for o in log.Scalars('feat')], want)

def test_the_grid_takes_over_where_a_tracker_would_draw(make, wandb, capsys):
    from fastai.callback.wandb import WandbCallback
    make().fit(1, cbs=[WandbCallback(), SampleGrid(2)])
    assert [o for _, o in wandb.logged if 'samples' in o] and 'was not able' not in capsys.readouterr().out

@pytest.fixture
def wandb(monkeypatch):
    "A stand-in for W&B that keeps what is logged"
    stub, logged = types.ModuleType('wandb'), []
    stub.run = types.SimpleNamespace(step=0, summary={})
    stub.config = types.SimpleNamespace(update=lambda *args, **kwargs: None)
    stub.Image = lambda o: ('picture', o.get_size_inches().tolist())
    stub.log = lambda d, step=None: logged.append((step, d))
    stub.logged = logged
    monkeypatch.setitem(sys.modules, 'wandb', stub)
    monkeypatch.delitem(sys.modules, 'fastai.callback.wandb', raising=False)
    yield stub
    sys.modules.pop('fastai.callback.wandb', None)

def test_pictures_and_terms_in_wandb(trains_alike, wandb):
    from fastai.callback.wandb import WandbCallback
    trains_alike(WandbCallback(log_preds=False))               # with it, fastai looks up random items beforehand
    pictures = [(step, o['samples'][0]) for step, o in wandb.logged if 'samples' in o]
    assert pictures == [(1, 'picture'), (3, 'picture')]
    assert sum(TERMS <= set(o) for _, o in wandb.logged) == 2
    steps = [step for step, _ in wandb.logged if step is not None]
    assert steps == sorted(steps)                              # W&B drops what comes for an earlier step

def test_every_hyperparameter_is_a_number(make):
    learn = make()
    learn.create_opt()
    assert all(isinstance(v, (int, float)) for h in learn.opt.hypers for v in h.values())

class Hypers(Callback):
    "What callbacks of experiment trackers do: log every hyperparameter as a number"
    order = 70
    def after_batch(self): self.seen = [{f'{k}_{i}': float(v) for k, v in h.items()} for i,
        h in enumerate(self.opt.hypers)]

def test_trackers_and_schedules(make):
    learn = make()
    sched = ParamScheduler({'lr': SchedLin(1e-3, 1e-4)})
    learn.fit(2, cbs=[hypers := Hypers(), sched, ReduceLROnPlateau(min_delta=1e9, patience=1)])
    assert len(hypers.seen) == 2 and len(learn.loss_terms.history) == 4
    assert 'SPADEGenerator' in learn.summary()

def test_an_exported_learner_in_a_new_process(make, land, tmp_path):
    learn = make()
    mask = learn.dls.valid.items[0][0]
    learn.fit(1)
    want = np.array(learn.generate(mask, seed=1))
    learn.export('l.pkl')
    code = ("from fastai.vision.all import *\nimport numpy as np, sys\nlearn = load_learner(sys.argv[1])\n"
            "np.save(sys.argv[3], np.array(learn.generate(sys.argv[2], seed=1)))\nlearn.predict(sys.argv[2])")
    args = [sys.executable, '-W', 'ignore', '-c', code, str(tmp_path/'l.pkl'), str(mask), str(tmp_path/'a.npy')]
    p = subprocess.run(args, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    assert np.abs(np.load(tmp_path/'a.npy').astype(int) - want).max() <= 1
