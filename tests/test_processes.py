"Two processes learn what one learns from the whole batch: networks, averages, random numbers, checkpoints"
import os, random, signal, socket, subprocess, sys
os.environ.setdefault('OMP_NUM_THREADS', '1')
from functools import partial
from pathlib import Path
import numpy as np, pytest, torch
from fastai.vision.all import (
    AvgSmoothLoss, Callback, CancelFitException, DataLoaders, ProgressCallback, TensorImage, TensorMask, noop)
from spade_fastai.core import TensorInstance, TensorStyle
from spade_fastai.nets.norms import SPADE
from spade_fastai.nets.starts import MapNoiseStart
from spade_fastai.nets.generator import SPADEGenerator
from spade_fastai.nets.critic import MultiscaleDiscriminator
from spade_fastai.nets.encoder import ConvEncoder
from spade_fastai.nets.inade import INADE
from spade_fastai.nets.oasis import SegmentationCritic
from spade_fastai.train.losses import CriticLoss, DiversityLoss, GeneratorLoss, KLDLoss
from spade_fastai.train.penalties import R1
from spade_fastai.train.augment import DiffAugment
from spade_fastai.train.gan import GANLearner
from spade_fastai.train.switchers import AdaptiveGANSwitcher
from spade_fastai.train.ema import EMA
from spade_fastai.train.oasis import OASISCriticLoss, OASISGeneratorLoss
from spade_fastai.train.resume import Checkpoint, capture, read_checkpoint
from spade_fastai.train.warp import WarpMasks
from spade_fastai.train.processes import Processes, by_first, processes, this_process

class Toy:
    "Masks, perhaps things or styles, and pictures, changed by all three kinds of random numbers when they are loaded"
    def __init__(self, n=18, more=None):
        rng = torch.Generator().manual_seed(0)
        self.masks = torch.randint(0, 3, (n, 4, 4), generator=rng).repeat_interleave(4, 1).repeat_interleave(4, 2)
        self.colours, self.more, self.n_inp = torch.rand(n, 3, 3, generator=rng)*2 - 1, more, 1 + (more is not None)
    def __len__(self): return len(self.masks)
    def __getitem__(self, i):
        mask = self.masks[i].flip(0) if random.random() < .5 else self.masks[i]
        image = self.colours[i][mask].permute(2, 0, 1)*np.random.uniform(.8, 1) + .05*torch.randn(3, 16, 16)
        image = TensorImage(image.clamp(-1, 1)).double()                     # fastai makes float32 of all
        style, things = (lambda: TensorStyle(image).double()), lambda: TensorInstance(mask*(1 + i % 3))
        more = {TensorStyle: style, TensorInstance: things}
        return (TensorMask(mask), *([more[self.more]()] if self.more else []), image)

def toy_dls(n=18, bs=5, more=None):
    "With a last batch that is not full"
    dls = DataLoaders.from_dsets(Toy(n, more), Toy(5, more), bs=bs, num_workers=0, device='cpu')
    dls.train.drop_last = False
    return dls

def nets(norm=partial(SPADE, hidden=4), nf=4, critic=partial(MultiscaleDiscriminator, nf=4, n_layers=2), **kwargs):
    start = dict(start=partial(MapNoiseStart, nz=4)) if norm.func is SPADE else {}
    gen = SPADEGenerator(3, nf=nf, mults=(2, 2, 1), ups=(1, 1), norm=norm, **start, **kwargs)
    return gen, critic(3)

def spade():
    losses = GeneratorLoss(kld=KLDLoss, diverse=DiversityLoss), CriticLoss(penalty=partial(R1, every=3))
    cbs = [EMA(.9, n_batches=3, at_least=2), WarpMasks()]
    encoder = ConvEncoder(nf=4, nz=4, size=16, base='batch')
    return GANLearner(toy_dls(more=TensorStyle), *nets(), *losses, weights=dict(feat=10, kld=.05), encoder=encoder,
                      augment=DiffAugment(), cbs=cbs)

def oasis():
    critic = partial(SegmentationCritic, nf=4, mults=(1, 2))
    return GANLearner(toy_dls(17, 4), *nets(partial(SPADE, hidden=4, base='sync'), critic=critic), OASISGeneratorLoss(),
                      OASISCriticLoss(), cbs=EMA(.9, n_batches=2, at_least=2))

def inade():
    switcher = AdaptiveGANSwitcher(3., 1.95)
    return GANLearner(toy_dls(16, 4, TensorInstance), *nets(partial(INADE, nz=4)), switcher=switcher)

CASES = dict(spade=(spade, 5), oasis=(oasis, 4), inade=(inade, 5))   # 20 steps each; a last batch of 3, of 1, of 4

class Smooth(AvgSmoothLoss):
    "fastai's is float32 alone"
    def reset(self): self.count, self.val = 0, torch.zeros(())

def made(make, seed=1, **kwargs):
    "A learner in float64, that says nothing"
    torch.set_default_dtype(torch.float64)
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    learn = make(**kwargs)
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    learn.recorder.smooth_loss = Smooth()
    learn.add_cb(Processes())
    return learn

def state_of(learn) -> dict:
    "All that a checkpoint would hold, the average, and the table"
    return dict(capture(learn), values=[[-1. if v is None else float(v) for v in o] for o in learn.recorder.values])

def trained(name, **kwargs):
    make, epochs = CASES[name]
    learn = made(make)
    learn.fit(epochs, **kwargs)
    return state_of(learn)

# What the children do: this file, started twice

class StopAt(Callback):
    "A clean stop after `n` batches"
    order = 70
    def __init__(self, n): self.n = n
    def after_batch(self):
        if self.training and self.train_iter == self.n: raise CancelFitException()

class KillAt(Callback):
    "SIGKILL of process 1 in the middle of batch `n`"
    def __init__(self, n): self.n = n
    def after_step(self):
        if self.train_iter == self.n and this_process() == 1: os.kill(os.getpid(), signal.SIGKILL)

class OneAlone(Callback):
    "Draws random numbers in process 1 alone"
    def after_batch(self): torch.rand(this_process())

def stopped(folder):
    "15 of 20 batches, in the middle of an epoch"
    learn = made(spade)
    learn.fit(5, cbs=[StopAt(15), Checkpoint(folder)])

def gone_on(folder):
    "The last 5, by a learner that began otherwise"
    learn = made(spade, seed=2 + this_process())
    learn.fit(5, cbs=Checkpoint(folder, resume=True))
    return state_of(learn)

def refused(make, **kwargs) -> str:
    "What a fit says that cannot be"
    torch.manual_seed(0)
    try: made(make, **kwargs).fit(1)
    except ValueError as e: return str(e)
    return 'nothing'

def other_data(): return GANLearner(toy_dls(18 + 3*this_process()), *nets())
def few(): return GANLearner(toy_dls(18, bs=1), *nets())
def alone(): return GANLearner(toy_dls(), *nets(), cbs=OneAlone())
def fails(): raise ValueError('process 0 says no')

def raised(f, *args) -> str:
    try: by_first(f, *args)
    except ValueError as e: return str(e)

def main(folder):
    with processes(60) as rank:
        out = {k: trained(k) for k in CASES}
        stopped(folder/'two')
        out['two on'] = gone_on(folder/'one')
        out['said'] = [refused(o) for o in (other_data, few, alone)] + [raised(fails)]
        out['first'] = by_first(os.getpid), rank, os.getpid()
        torch.save(out, folder/f'rank{rank}.pt')
        made(spade).fit(5, cbs=[KillAt(7), Checkpoint(folder/'killed', every=2)])

if __name__ == '__main__': main(Path(sys.argv[1]))

# What the tests ask

def start_two(*args, **kwargs) -> list:
    "This file in two processes that find each other"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        where = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(s.getsockname()[1]), WORLD_SIZE='2')
    path = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, [os.environ.get('PYTHONPATH')])])
    who = lambda r: dict(RANK=str(r), LOCAL_RANK=str(r), OMP_NUM_THREADS='1', PYTHONPATH=path)
    env = lambda r: {**os.environ, **where, **who(r)}
    return [subprocess.Popen([sys.executable, __file__, *map(str, args)], env=env(r), text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, **kwargs) for r in range(2)]

def far(a, b, at='') -> tuple:
    "How far two structures of tensors and numbers are from each other, for numbers above 1 as a share, and where"
    if hasattr(a, 'keys'):
        assert a.keys() == b.keys(), at
        return max([far(a[k], b[k], f'{at}/{k}') for k in a], default=(0., at))
    if isinstance(a, (list, tuple)) or type(a).__name__ == 'L':
        return max([far(*o, f'{at}/{i}') for i, o in enumerate(zip(a, b, strict=True))], default=(0., at))
    if isinstance(a, (torch.Tensor, int, float)):
        a, b = (torch.as_tensor(o).double() for o in (a, b))
        return float(((a - b).abs()/a.abs().clamp(min=1)).max()) if a.numel() else 0., at
    assert a == b, at
    return 0., at

@pytest.fixture(scope='module')
def two(tmp_path_factory):
    "What one process did, what two did, and how these two ended"
    folder, kind, threads = tmp_path_factory.mktemp('two'), torch.get_default_dtype(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        stopped(folder/'one')
        children = start_two(folder)
        one = {k: trained(k) for k in CASES}
        out = [(o.communicate(timeout=300), o.returncode) for o in children]
        assert all((folder/f'rank{r}.pt').exists() for r in range(2)), out[0][0][1]
        yield dict(one=one, out=out, folder=folder,
                   two=[torch.load(folder/f'rank{r}.pt', weights_only=False) for r in range(2)])
    finally:
        torch.set_default_dtype(kind)
        torch.set_num_threads(threads)

@pytest.mark.parametrize('name', CASES)
def test_two_are_one(two, name):
    "Networks, optimiser, average, terms, metrics and random states after 20 steps"
    for rank in two['two']:
        for k, v in two['one'][name].items(): assert far(v, rank[name][k])[0] < 1e-10, (k, far(v, rank[name][k]))
    a, b = (o[name]['model'] for o in two['two'])
    assert all(torch.equal(a[k], b[k]) for k in a)                                     # and the two to the last bit

def test_two_go_on_where_one_stopped(two):
    for rank in two['two']: assert far(two['one']['spade']['model'], rank['two on']['model'])[0] < 1e-10
    assert far(two['one']['spade']['values'], two['two'][0]['two on']['values'])[0] < 1e-10

def test_one_goes_on_where_two_stopped(two):
    one, on = two['one']['spade'], gone_on(two['folder']/'two')
    for k in ('model', 'opt', 'random', 'values'): assert far(one[k], on[k])[0] < 1e-10, (k, far(one[k], on[k]))

def test_what_cannot_be_is_said_by_all(two):
    data, few, alone, no = zip(*(o['said'] for o in two['two']), strict=True)
    assert data[0] == data[1] and 'process 1 does not train as process 0' in data[0]
    assert 'items to learn from was 18, is 21' in data[0]
    assert few[0] == few[1] and 'bs=1 is the batch of all processes together, and there are 2' in few[0]
    assert alone[0] == alone[1] and 'in batch 1 of epoch 0' in alone[0] and 'same random numbers' in alone[0]
    assert no == ('process 0 says no',)*2
    (a, rank0, pid0), (b, rank1, pid1) = (o['first'] for o in two['two'])
    assert (a, b, rank0, rank1) == (pid0, pid0, 0, 1) and pid1 != pid0

def test_a_killed_process_ends_all(two):
    "The other one says so in a line, and the last checkpoint can be gone on with"
    ((_, err), code), (_, killed) = two['out']
    assert killed == -signal.SIGKILL and code == 1
    last = err.strip().splitlines()[-1]
    assert 'process 0 of 2: another process of this training has ended' in last, err[-2000:]
    files = sorted((two['folder']/'killed').glob('*.ckpt'))
    assert [o.name for o in files] == ['batch_000000004.ckpt', 'batch_000000006.ckpt']
    assert read_checkpoint(files[-1])['batch'] == 2
