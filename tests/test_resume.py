"A training that was stopped or killed goes on bit for bit: all that a checkpoint holds is compared, in a new process"
import os, random, shutil, signal, subprocess, sys, time
os.environ.setdefault('OMP_NUM_THREADS', '1')
from functools import partial
from pathlib import Path
import numpy as np, pytest, torch
from torch import nn
from fastai.vision.all import (
    Adam, Callback, CancelFitException, CSVLogger, DataLoaders, EarlyStoppingCallback, ProgressCallback,
    ReduceLROnPlateau, SGD, TensorImage, TensorMask, aug_transforms, noop)
from spade_fastai.data.landcover import make_landcover
from spade_fastai.data.items import SpadeDataLoaders
from spade_fastai.nets.norms import SPADE
from spade_fastai.nets.starts import MapNoiseStart
from spade_fastai.nets.generator import SPADEGenerator
from spade_fastai.nets.critic import MultiscaleDiscriminator
from spade_fastai.train.losses import CriticLoss
from spade_fastai.train.penalties import R1
from spade_fastai.train.augment import DiffAugment
from spade_fastai.train.switchers import AdaptiveGANSwitcher, FixedGANSwitcher
from spade_fastai.train.gan import GANLearner
from spade_fastai.train.memory import Accumulate
from spade_fastai.train.ema import EMA
from spade_fastai.train import resume, schedule   # the second gives `fit_flat_lin`
from spade_fastai.train.resume import Checkpoint, read_checkpoint

class Toy:
    "Masks and pictures, each changed by all three kinds of random numbers when it is loaded"
    def __init__(self, n=18):
        g = torch.Generator().manual_seed(0)
        self.masks = torch.randint(0, 2, (n, 4, 4), generator=g).repeat_interleave(4, 1).repeat_interleave(4, 2)
        self.colors = torch.rand(n, 2, 3, generator=g)*2 - 1
    def __len__(self): return len(self.masks)
    def __getitem__(self, i):
        mask = self.masks[i].flip(0) if random.random() < .5 else self.masks[i]
        image = self.colors[i][mask].permute(2, 0, 1)*np.random.uniform(.8, 1) + .05*torch.randn(3, 16, 16)
        return TensorMask(mask), TensorImage(image.clamp(-1, 1).float())

def nets(nf=4, n_classes=2):
    gen = SPADEGenerator(n_classes, nf=nf, mults=(2, 2, 1), ups=(1, 1), norm=partial(SPADE, hidden=4),
                         start=partial(MapNoiseStart, nz=4))
    return gen, MultiscaleDiscriminator(n_classes, nf=4, n_layers=2)

def toy_dls(n=18, bs=4, workers=0):
    return DataLoaders.from_dsets(Toy(n), Toy(6), bs=bs, num_workers=workers, device='cpu')

def land_dls():
    "Real files through item and batch transforms, with fastai's augmentations"
    path = make_landcover(Path(os.environ['RESUME_LAND']), n=24, size=24)
    tfms = aug_transforms(size=16, max_rotate=20, min_scale=.7)
    return SpadeDataLoaders.from_folder(path, size=16, bs=4, valid_pct=.25, device='cpu', batch_tfms=tfms)

def make(cbs=None, dls=toy_dls, nf=4, to=lambda o: o, seed=1, n_classes=2, **kwargs):
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    kwargs = {'lr': slice(1e-3, 4e-3), **kwargs}
    learn = to(GANLearner(dls(), *nets(nf, n_classes), weights=dict(feat=10), cbs=cbs, **kwargs))
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    return learn

def plain_fit(learn, **kw): learn.fit(3, **kw)
def four(learn, **kw): learn.fit(4, **kw)
def one_cycle(learn, **kw): learn.fit_one_cycle(3, **kw)
def flat_lin(learn, **kw): learn.fit_flat_lin(1, 2, **kw)
# fastai's own, with its moments and its schedule of them
momentum = dict(opt_func=partial(Adam, mom=.9, wd=.1), moms=(.9, .8, .9), wd_bn_bias=False)
penalty = partial(R1, every=5)
never_content = dict(min_delta=1e9, patience=2)                            # end after 3 epochs

# name: how to train, where to stop (12 batches in 3 epochs), what with
CASES = dict(
    middle      = (one_cycle, 6, dict),
    epoch_end   = (flat_lin, 8, dict),
    last_batch  = (plain_fit, 4, dict),                                    # before the validation of the first epoch
    switcher    = (flat_lin, 7, lambda: dict(switcher=FixedGANSwitcher(2, 1), **momentum)),
    adaptive    = (one_cycle, 5, lambda: dict(switcher=AdaptiveGANSwitcher(3., 1.95), **momentum)),
    ema         = (one_cycle, 6, lambda: dict(cbs=EMA(.9, n_batches=2))),
    ema_epoch   = (one_cycle, 8, lambda: dict(cbs=EMA(.9, n_batches=2))),  # the average is in place
    accumulate  = (one_cycle, 3, lambda: dict(cbs=Accumulate(2), opt_func=partial(SGD, mom=.9))),
    small_data  = (flat_lin, 7, lambda: dict(augment=DiffAugment(), crit_loss_func=CriticLoss(penalty=penalty))),
    watched     = (four, 8, lambda: dict(cbs=[o(**never_content) for o in (ReduceLROnPlateau, EarlyStoppingCallback)],
                                         **momentum)),
    bf16        = (plain_fit, 5, lambda: dict(to=GANLearner.to_bf16)),
    fp16        = (plain_fit, 5, lambda: dict(to=partial(GANLearner.to_fp16, init_scale=2.**18, growth_interval=3))),
    workers     = (one_cycle, 6, lambda: dict(dls=partial(toy_dls, workers=2))),
    land        = (one_cycle, 6, lambda: dict(dls=land_dls, n_classes=13)))

class StopAt(Callback):
    "A clean stop after `n` batches, or after the epoch that they end"
    order = 70
    def __init__(self, n, epoch_end=False): self.n, self.epoch_end = n, epoch_end
    def after_batch(self):
        if self.training and self.train_iter == self.n and not self.epoch_end: raise CancelFitException()
    def after_epoch(self):
        if self.train_iter == self.n: raise CancelFitException()

class KillAt(Callback):
    "SIGKILL in the middle of batch `n`, when the generator has had its turn"
    def __init__(self, n): self.n = n
    def after_step(self):
        if self.train_iter == self.n: os.kill(os.getpid(), signal.SIGKILL)

def differ(a, b, at=''):
    "Places where two nested structures of tensors and numbers are not equal to the last bit"
    if isinstance(a, torch.Tensor):
        same = isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        return [] if same else [at]
    if isinstance(a, dict):
        lost = [f'{at}/{k}' for k in a.keys() ^ b.keys()]
        return lost + [o for k in a if k in b for o in differ(a[k], b[k], f'{at}/{k}')]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b): return [at]
        return [o for i, (x, y) in enumerate(zip(a, b, strict=True)) for o in differ(x, y, f'{at}/{i}')]
    return [] if type(a) == type(b) and a == b else [at]

def last(folder): return read_checkpoint(sorted(folder.glob('*.ckpt'))[-1])

def child(*args, **kwargs):
    "This file in a new process, with as many threads"
    root = str(Path(__file__).parent.parent)
    env = {**os.environ, 'OMP_NUM_THREADS': str(torch.get_num_threads()),
           'PYTHONPATH': os.pathsep.join([root, os.environ.get('PYTHONPATH', '')])}
    return subprocess.run([sys.executable, __file__, *map(str, args)], capture_output=True, text=True, timeout=300,
                          env=env, **kwargs)

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "For each case a folder of the whole run and one of a run that was stopped here and went on in another process"
    path = tmp_path_factory.mktemp('runs')
    os.environ['RESUME_LAND'] = str(path/'made')
    for name, (fit, stop, kwargs) in CASES.items():
        fit(make(**kwargs()), cbs=Checkpoint(path/name/'whole'))
        stop_at = StopAt(stop, epoch_end=name in ('epoch_end', 'ema_epoch', 'watched'))
        fit(make(**kwargs()), cbs=[Checkpoint(path/name/'parts'), stop_at])
        assert last(path/name/'parts')['learner']['train_iter'] == stop
    went_on = child('go_on', path)
    assert went_on.returncode == 0, went_on.stderr
    return path

@pytest.mark.parametrize('name', CASES)
def test_stopped_and_gone_on_in_a_new_process(runs, name):
    whole, parts = last(runs/name/'whole'), last(runs/name/'parts')
    assert whole['learner']['train_iter'] == (6 if name == 'accumulate' else 12)
    assert not differ(whole, parts)
    history, losses = whole['callbacks']['loss_terms']['history'], whole['callbacks']['recorder']['losses']
    assert len(history) == len(losses) == whole['learner']['train_iter']

def test_it_is_one_training_and_writing_changes_nothing(tmp_path):
    one_cycle(a := make()), one_cycle(b := make(), cbs=Checkpoint(tmp_path, every=1))
    assert not differ(dict(a.model.state_dict()), dict(b.model.state_dict()))
    assert not differ(dict(a.model.state_dict()), last(tmp_path)['model'])
    assert [float(o) for o in a.recorder.losses] == [float(o) for o in b.recorder.losses]

@pytest.mark.parametrize('how', ['batch', 'writing'])
def test_killed(runs, tmp_path, how):
    died = child('killed', how, tmp_path)
    assert died.returncode == -signal.SIGKILL, died.stderr
    files = sorted(o.name for o in tmp_path.iterdir())
    want = dict(batch=['batch_000000004.ckpt', 'batch_000000006.ckpt'],
                writing=['batch_000000002.ckpt', 'batch_000000004.ckpt', 'batch_000000006.new'])
    assert files == want[how]
    one_cycle(make(seed=99), cbs=Checkpoint(tmp_path, every=5, resume=True))
    assert not differ(last(runs/'middle'/'whole'), last(tmp_path))
    assert not list(tmp_path.glob('*.new'))

@pytest.fixture
def stopped(tmp_path):
    "A run of the first case that was stopped in the middle of the second epoch"
    one_cycle(make(), cbs=[Checkpoint(tmp_path, every=2), StopAt(6)])
    return tmp_path

FORGET = dict(
    random = ('_set_random_state', lambda learn, state: None),
    position = ('_from_batch', lambda dl, n, then: (then(), enumerate(dl, n))[1]),
    memory = ('_set_memory', lambda cb, state: None))

@pytest.mark.parametrize('what', [None, *FORGET])
def test_the_comparison_can_fail(runs, stopped, monkeypatch, what):
    if what: monkeypatch.setattr(resume, *FORGET[what])
    one_cycle(make(seed=99), cbs=Checkpoint(stopped, resume=True))
    bad = differ(last(runs/'middle'/'whole'), last(stopped))
    assert bool(bad) == bool(what)
    if what in ('random', 'position'): assert any(o.startswith('/model') for o in bad)

def test_every_random_number_comes_again():
    "Python's, numpy's, torch's, and the order of the items, which a loader draws by itself"
    learn = make()
    rand = lambda: (random.random(), np.random.rand(), float(torch.rand(1)), learn.dls.train.get_idxs())
    state = resume._random_state(learn)
    once, later = rand(), rand()
    assert all(a != b for a, b in zip(once, later, strict=True))
    resume._set_random_state(learn, state)
    assert rand() == once

def test_every_and_keep(tmp_path):
    one_cycle(make(), cbs=Checkpoint(tmp_path/'a', every=5, keep=3))
    assert [o.name for o in Checkpoint(tmp_path/'a').files] == [f'batch_{o:09d}.ckpt' for o in (5, 10, 12)]
    one_cycle(make(), cbs=Checkpoint(tmp_path/'b', keep=10))
    assert [o.name for o in Checkpoint(tmp_path/'b').files] == [f'batch_{o:09d}.ckpt' for o in (4, 8, 12)]
    one_cycle(make(), cbs=Checkpoint(tmp_path/'c', minutes=0, keep=20))
    assert len(Checkpoint(tmp_path/'c').files) == 12
    one_cycle(make(), cbs=Checkpoint(tmp_path/'d', minutes=60, keep=20))
    assert len(Checkpoint(tmp_path/'d').files) == 1

def test_an_ended_training_is_not_trained_again(runs):
    learn = make(seed=99)
    cb = Checkpoint(runs/'middle'/'whole', resume=True)
    one_cycle(learn, cbs=cb)
    whole = last(runs/'middle'/'whole')
    assert not differ(dict(learn.model.state_dict()), whole['model'])
    assert len(learn.recorder.values) == 3 and len(learn.recorder.hps['lr']) == 12
    learn.fit(1)                                                    # and can be trained on
    assert differ(dict(learn.model.state_dict()), whole['model'])

def test_with_a_progress_bar_and_a_checkpoint_that_stays(runs, stopped, capsys):
    learn = make(seed=99, cbs=Checkpoint(stopped, resume=True))
    learn.add_cb(ProgressCallback())
    learn.validate(), learn.get_preds()
    learn.lr_find(num_it=6, show_plot=False)                        # all three leave the folder alone
    assert len(list(stopped.iterdir())) == 2
    one_cycle(learn)
    assert not differ(last(runs/'middle'/'whole'), last(stopped))
    one_cycle(learn)                                                # has ended

def test_the_table_is_whole(runs, stopped, tmp_path):
    learn = make(seed=99, path=tmp_path)
    one_cycle(learn, cbs=[Checkpoint(stopped, resume=True), CSVLogger(tmp_path/'history.csv')])
    head, *rows = [o.split(',') for o in (tmp_path/'history.csv').read_text().splitlines()]
    want = last(runs/'middle'/'whole')['callbacks']['recorder']['values']
    assert head == list(learn.recorder.metric_names) and [o[0] for o in rows] == ['0', '1', '2']
    assert [[float(o) for o in row[1:-1]] for row in rows] == want and rows[0][-1] == '' != rows[1][-1]

def bad_file(folder, change):
    file = sorted(folder.glob('*.ckpt'))[-1]
    file.write_bytes(change(bytearray(file.read_bytes())))

def flipped(b): b[len(b)//2] ^= 1; return b

@pytest.mark.parametrize('change', [lambda b: b[:len(b)//2], lambda b: b'', lambda b: b'not a checkpoint', flipped])
def test_damaged(runs, stopped, change):
    bad_file(stopped, change)
    said = r'batch_000000006.ckpt is damaged or no checkpoint .* delete it to go on from the one before'
    with pytest.raises(ValueError, match=said):
        one_cycle(make(), cbs=Checkpoint(stopped, resume=True))
    (stopped/'batch_000000006.ckpt').unlink()
    one_cycle(make(seed=99), cbs=Checkpoint(stopped, resume=True))
    assert not differ(last(runs/'middle'/'whole'), last(stopped))

def test_foreign(stopped):
    for o in stopped.iterdir(): o.unlink()
    torch.save(dict(model={}), stopped/'batch_000000001.ckpt')
    resumed = lambda: one_cycle(make(), cbs=Checkpoint(stopped, resume=True))
    with pytest.raises(ValueError, match='was not written by `Checkpoint`'): resumed()
    class Evil:
        def __reduce__(self): return (Path.touch, (stopped/'evil',))
    torch.save(dict(model=Evil()), stopped/'batch_000000001.ckpt')
    with pytest.raises(ValueError, match='damaged or no checkpoint'): resumed()
    assert not (stopped/'evil').exists()

OTHER = {
    'number of epochs was 3, is 5': (lambda o, **kw: o.fit_one_cycle(5, **kw), {}),
    'schedule .* is another': (plain_fit, {}),
    r'learning rates was \[0.001, 0.004\], is \[0.002, 0.002\]': (one_cycle, dict(lr=2e-3)),
    'schedule .* another': (lambda o, **kw: o.fit_one_cycle(3, pct_start=.5, **kw), {}),
    'items to learn from was 18, is 17': (one_cycle, dict(dls=partial(toy_dls, n=17))),
    'batch size was 4, is 3': (one_cycle, dict(dls=partial(toy_dls, bs=3))),
    'processes that load was 0, is 1': (one_cycle, dict(dls=partial(toy_dls, workers=1))),
    'is of other networks: generator': (one_cycle, dict(nf=5)),
    'optimiser was OptimWrapper Adam, is Optimizer': (one_cycle, dict(opt_func=Adam)),
    r'switchers .*BothOnEachBatch.*FixedGANSwitcher\(n_crit=1, n_gen=2\)':
        (one_cycle, dict(switcher=FixedGANSwitcher(1, 2))),
    'batches that make one was 1, is 2': (one_cycle, dict(cbs=Accumulate(2))),
    'precision was float32, is bf16': (one_cycle, dict(to=GANLearner.to_bf16)),
    'other callbacks: ema was there and is not now, or the reverse': (one_cycle, dict(cbs=EMA(.9)))}

def test_another_training(stopped):
    for message, (fit, kwargs) in OTHER.items():
        with pytest.raises(ValueError, match=message): fit(make(**kwargs), cbs=Checkpoint(stopped, resume=True))
    said = 'batch_000000006.ckpt of an earlier training; pass `resume=True`'
    with pytest.raises(ValueError, match=said): one_cycle(make(), cbs=Checkpoint(stopped))
    assert len(list(stopped.iterdir())) == 2

def test_another_number_of_threads(runs, stopped, recwarn):
    "Is said with both numbers and the cure, and only then"
    was = torch.get_num_threads()
    told = lambda: [str(o.message) for o in recwarn if 'threads' in str(o.message)]
    for n in (was, was + 1):
        shutil.copytree(stopped, folder := stopped.with_name(f'{stopped.name}_{n}'))
        try:
            torch.set_num_threads(n)
            one_cycle(make(seed=99), cbs=Checkpoint(folder, resume=True))
        finally: torch.set_num_threads(was)
        if n == was: assert not told() and not differ(last(runs/'middle'/'whole'), last(folder))
    (message,) = told()
    assert f'written by torch with {was} threads, there are {was + 1} now' in message
    assert f'torch.set_num_threads({was})' in message
    assert last(folder)['threads'] == was + 1

def test_a_stop_within_a_batch_keeps_the_checkpoint_before(tmp_path):
    class Stop(Callback):
        def after_step(self):
            if self.train_iter == 5: raise CancelFitException()
    one_cycle(make(cbs=Stop()), cbs=Checkpoint(tmp_path))
    assert [o.name for o in tmp_path.iterdir()] == ['batch_000000004.ckpt']

def test_after_an_error_validation_writes_nothing(tmp_path):
    class Fail(Callback):
        def before_batch(self):
            if self.training and self.train_iter == 10: raise RuntimeError('a wire was pulled')
    learn = make(cbs=[Fail(), Checkpoint(tmp_path)])
    with pytest.raises(RuntimeError): one_cycle(learn)
    before = {o.name: o.read_bytes() for o in tmp_path.iterdir()}
    learn.validate()
    assert list(before) and before == {o.name: o.read_bytes() for o in tmp_path.iterdir()}

def test_a_callback_with_state(tmp_path):
    class Count(Callback):
        n = 0
        def after_batch(self): self.n += self.training
        def state_dict(self): return dict(n=self.n)
        def load_state_dict(self, state): self.n = state['n']
    for stop in (5, 99):
        learn = make(cbs=[Count(), StopAt(stop)])
        one_cycle(learn, cbs=Checkpoint(tmp_path, resume=True))
    assert learn.count.n == 12

if __name__ == '__main__':
    command, *args = sys.argv[1:]
    if command == 'go_on':
        for name, (fit, _, kwargs) in CASES.items():
            fit(make(seed=99, **kwargs()), cbs=Checkpoint(Path(args[0])/name/'parts', resume=True))
    if command == 'killed':
        how, folder = args
        save, seen = torch.save, []
        def half(state, f):                                         # the third file is never finished
            seen.append(f)
            save(state, f)
            if len(seen) == 3: f.truncate(5000), os.kill(os.getpid(), signal.SIGKILL)
        if how == 'writing': torch.save = half
        one_cycle(make(), cbs=[Checkpoint(folder, every=2), KillAt(7)])
