"Files of strangers: configurations, weights, checkpoints, made by hand or damaged. One ValueError names the file"
import json, os, socket, subprocess, sys, threading, time, warnings
from copy import deepcopy
from functools import partial
from pathlib import Path
import numpy as np, pytest, torch
from torch import nn
from safetensors.torch import load_file, save_file
from fastai.vision.all import Callback
from spade_fastai.data.readers import MaskReader
from spade_fastai.nets.critic import MultiscaleDiscriminator
from spade_fastai.nets.encoder import ConvEncoder
from spade_fastai.nets.generator import SPADEGenerator
from spade_fastai.nets.norms import SPADE
from spade_fastai.official import load_official, save_official
from spade_fastai.saving import load_gan, load_spade, read_config, save_spade
from spade_fastai.train.gan import GAN, GANLearner
from spade_fastai.train.losses import VGGLoss, VGGMissing, vgg_weights_path
from spade_fastai.train.resume import Checkpoint, _born, only_one
from spade_fastai.train.toy import Toy, quiet, toy_dls, toy_nets

# `save_spade`'s files

@pytest.fixture(scope='module')
def good(tmp_path_factory):
    torch.manual_seed(0)
    gen = SPADEGenerator(3, nf=2, mults=(2, 2, 1), ups=(1, 1), norm=partial(SPADE, hidden=4))
    gan = GAN(gen, MultiscaleDiscriminator(3, nf=2, n_layers=2), ConvEncoder(nf=1, nz=2, size=8, base='group'))
    return save_spade(gan, tmp_path_factory.mktemp('good')/'good.safetensors', MaskReader(['a', 'b', 'c']))

def put(conf, where, value):
    *path, last = where.split('/')
    for o in path: conf = conf[o]
    if value is KeyError: del conf[last]
    else: conf[last] = value

G, C, E = 'generator/args/', 'critic/args/', 'encoder/args/'
norm = lambda **kw: dict(partial='spade_fastai.nets.norms.SPADE', args=[], kwargs=dict(dict=kw))
deep = lambda n: [deep(n - 1)] if n else 1
ODD = [('generator', KeyError), ('critic', None), ('data', KeyError), ('data', 5), ('data', []),
    ('generator', 'SPADEGenerator'),
       ('generator', dict(call=5, args={})), ('generator', dict(call=None, args={})), ('generator',
           dict(call=['x'], args={})),
       ('generator', dict(name='torch.nn.modules.linear.Identity')), ('generator', {}), ('generator', dict(args={})),
       ('generator/args', KeyError), ('generator/args', 5), ('generator/args', []), (G + 'n_classes', 'x'),
           (G + 'n_classes', 0),
       (G + 'n_classes', 4), (G + 'nf', 10**9), (G + 'nf', 10**4), (G + 'nf', 1e308), (G + 'nf', -1), (G + 'nf', 'a'),
           (G + 'nf', None),
       (G + 'mults', [1]*10**5), (G + 'mults', 5), (G + 'ups', [10**9, 1]), (G + 'ups', [60000, 0]), (G + 'ups',
           [-1, 3]),
       (G + 'ups', 'ab'), (G + 'ups', [1.5, 1]), (G + 'norm', 5), (G + 'norm', norm(hidden=10**9)), (G + 'norm',
           norm(hidden=60000)),
       (G + 'norm', norm(ks=10**6)), (G + 'norm', norm(base='/etc/passwd')), (G + 'norm', norm(nonsense=1)),
       (G + 'norm', dict(partial='spade_fastai.nets.norms.SPADE', args=5, kwargs={})),
       (G + 'up', dict(name='spade_fastai.palette.distinct_colors')), (G + 'up', dict(name='builtins.print')),
       (G + 'up', dict(name='torch.nn.modules.x.Y')), (G + 'up', dict(name='antigravity.fly')), (G + 'up',
           dict(name=['a'])),
       (G + 'up', dict(name='torch.nn.modules.container.Sequential')), (G + 'up',
           dict(name='fastai.layers.load_image')),
       (G + 'up', dict(name='spade_fastai.core.saveable')), (G + 'up', dict(name='spade_fastai.nets.norms.torch')),
       (G + 'start', dict(call='spade_fastai.nets.starts.MapStart', args={})), (G + 'weight_norm', 5), (G + 'encode',
           [1]),
       (G + 'nf', True and [[[]]]), (C + 'n_scales', 10**5), (C + 'n_scales', 0), (C + 'n_layers', 10**6),
           (C + 'n_layers', 60000),
       (C + 'nf', 10**9), (C + 'scales', dict(name='spade_fastai.core.resize_nearest')), (C + 'net', 7),
       (E + 'size', 2**70), (E + 'size', 7), (E + 'nz', 10**9), ('encoder', 5), ('encoder',
           dict(name='torch.nn.modules.linear.Linear'))]

@pytest.mark.parametrize('where, value', ODD, ids=lambda o: f'{o!r:.40}')
def test_odd_configurations(good, tmp_path, where, value):
    conf, file = read_config(good), tmp_path/'odd.safetensors'
    put(conf, where, value)
    save_file(load_file(good), file, {'spade_fastai': json.dumps(conf)})
    start = time.perf_counter()
    for load in (load_gan, load_spade):
        with pytest.raises(ValueError, match='odd.safetensors') as e: load(file)
        assert '\n' not in str(e.value) and len(str(e.value)) < 700
    assert time.perf_counter() - start < 60                                # it is not built before it is compared

@pytest.mark.parametrize('text',
    ['', 'x', '[]', 'null', '5', '{}', '"a"', '['*10**5, '{"generator": ' + '['*3000 + ']'*3000 + '}',
                                  '{"generator": {"call": {}}, "critic": {}, "data": null}'])
def test_no_configurations(good, tmp_path, text):
    save_file(load_file(good), tmp_path/'odd.safetensors', {'spade_fastai': text})
    for load in (load_gan, load_spade,
        read_config) if text != '{"generator": {"call": {}}, "critic": {}, "data": null}' else (load_gan,):
        with pytest.raises(ValueError, match='odd.safetensors'): load(tmp_path/'odd.safetensors')

DATA = [('codes', 'private.txt'), ('codes', KeyError), ('codes', []), ('codes', [1, 2, 3]), ('codes', None),
    ('codes', dict(a=1)),
        ('codes', ['a']*10**5), ('table', 'private.txt'), ('table', [[5, 1]]), ('table', [[[1, 2, 999], 1]]),
            ('table', {}),
        ('table', [[[1, 2, 3], 'a']]), ('ids', 'private.txt'), ('ids', [['a', 1]]), ('ids', [[1, 2, 3]]), ('ids',
            [[1, 99]]),
        ('ignore', 'x'), ('ignore', 1.5), ('ignore', ['a']), ('tolerance', -1), ('tolerance', 'x'), ('tolerance', 1.5),
        ('colors', 'red'), ('colors', [[1, 2, 3]]), ('colors', [[0, 0, 256]]*3), ('colors', [[0, 0]]*3), ('open',
            '/etc/passwd')]

@pytest.mark.parametrize('where, value', DATA, ids=lambda o: f'{o!r:.40}')
def test_odd_settings_of_the_data(good, tmp_path, monkeypatch, where, value):
    (tmp_path/'private.txt').write_text('secret line 1\nsecret line 2\nsecret line 3')
    monkeypatch.chdir(tmp_path)
    conf = read_config(good)
    put(conf['data'], where, value)
    save_file(load_file(good), 'odd.safetensors', {'spade_fastai': json.dumps(conf)})
    for load in (load_gan, load_spade):
        with pytest.raises(ValueError, match='odd.safetensors') as e: load(Path('odd.safetensors'))
        assert 'secret' not in str(e.value)

TENSORS = dict(
    missing=lambda d: d.pop('generator.conv_img.bias'), strange=lambda d: d.update(x=torch.zeros(2)),
    shape=lambda d: d.update({'generator.conv_img.bias': torch.zeros(4)}),
    kind=lambda d: d.update({'generator.conv_img.bias': torch.zeros(3, dtype=torch.int64)}), none=lambda d: d.clear())

@pytest.mark.parametrize('change', TENSORS)
def test_odd_tensors(good, tmp_path, change):
    tensors = load_file(good)
    TENSORS[change](tensors)
    save_file(tensors, tmp_path/'odd.safetensors', {'spade_fastai': json.dumps(read_config(good))})
    with pytest.raises(ValueError, match='odd.safetensors .*do not fit'): load_spade(tmp_path/'odd.safetensors')

@pytest.mark.parametrize('cut', [0, 1, 8, 100, .5, .99])
def test_cut_files(good, tmp_path, cut):
    data = good.read_bytes()
    (tmp_path/'odd.safetensors').write_bytes(data[:int(cut*len(data)) if isinstance(cut, float) else cut])
    with pytest.raises(ValueError,
        match='odd.safetensors is not a safetensors file, or is damaged'): load_spade(tmp_path/'odd.safetensors')

def test_other_files(good, tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no file'): load_spade(tmp_path)
    for name, data in dict(text=b'hello', header=b'\xff'*64, json=b'\x02' + bytes(7) + b'[]').items():
        (tmp_path/name).write_bytes(data)
        with pytest.raises(ValueError, match=f'{name} is not a safetensors file'): load_spade(tmp_path/name)
    save_file(load_file(good), tmp_path/'other', {'format': 'pt'})
    with pytest.raises(ValueError, match='other holds no spade_fastai configuration'): load_spade(tmp_path/'other')
    before = torch.get_rng_state()
    assert np.asarray(load_spade(good).generate(np.zeros((8, 8), int))).shape == (8, 8, 3)
    assert torch.equal(torch.get_rng_state(), before)

def test_nothing_is_left_where_writing_fails(good, tmp_path, monkeypatch):
    from safetensors import SafetensorError
    def full(*args, **kwargs): raise SafetensorError('I/O error: No space left on device')
    monkeypatch.setattr('safetensors.torch.save_model', full)
    (tmp_path/'a.safetensors').write_text('of before')
    with pytest.raises(OSError,
        match='cannot write .*a.safetensors .*No space left'): save_spade(load_gan(good),
            tmp_path/'a.safetensors')
    assert [o.name for o in tmp_path.iterdir()] == ['a.safetensors']
    assert (tmp_path/'a.safetensors').read_text() == 'of before'

# The official code's files

def official(tmp_path, change):
    sd = torch.load(save_official(ConvEncoder(nf=1), tmp_path/'E.pth'), weights_only=True)
    change(sd)
    torch.save(sd, tmp_path/'E.pth')
    return tmp_path/'E.pth'

W, B = 'layer1.0.weight_orig', 'fc_mu.bias'
WRONG = dict(
    stride_0=lambda d: d.update({W: torch.zeros(1).expand(10**9, 3, 3, 3)}),
        bias=lambda d: d.update({B: torch.zeros(1).expand(10**9)}),
    bools=lambda d: d.update({B: d[B] > 0}), ints=lambda d: d.update({B: d[B].long()}),
        bytes=lambda d: d.update({B: d[B].byte()}),
    complex=lambda d: d.update({B: d[B].to(torch.complex64)}), nan=lambda d: d[W].view(-1)[:1].fill_(float('nan')),
    inf=lambda d: d[W].view(-1)[:1].fill_(float('inf')), sparse=lambda d: d.update({B: d[B].to_sparse()}),
    wide=lambda d: d.update({W: torch.zeros(3*10**5, 3, 3, 3)}), empty=lambda d: d.update({W: torch.zeros(0, 3, 3, 3)}),
    meta=lambda d: d.update({B: d[B].to('meta')}), shape=lambda d: d.update({B: torch.zeros(3)}))

@pytest.mark.parametrize('wrong', WRONG)
def test_odd_official_tensors(tmp_path, wrong):
    file = official(tmp_path, WRONG[wrong])
    with pytest.raises(ValueError, match='E.pth') as e: load_official(file)
    assert 'layer' in str(e.value) or B in str(e.value) or 'fit' in str(e.value)

# Checkpoints

def fit(folder, n=2, cbs=(), items=Toy, **kw):
    torch.manual_seed(0)
    learn = GANLearner(toy_dls(4, items), *toy_nets(), weights=dict(feat=10), lr=1e-3)
    quiet(learn, n, cbs=[Checkpoint(folder, resume=True, **kw), *cbs])
    return learn

@pytest.fixture(scope='module')
def kept(tmp_path_factory):
    class Stop(Callback):
        order = 70
        def after_batch(self):
            from fastai.vision.all import CancelFitException
            if self.training and self.train_iter == 6: raise CancelFitException()
    folder = tmp_path_factory.mktemp('kept')/'run'
    fit(folder, cbs=[Stop()])
    return torch.load(folder/'batch_000000006.ckpt', weights_only=True)

ENTRIES = dict(
    epoch=(10**9, -1, 'a', None, 1.5, True), batch=(10**9, -3, 'x', None), plan=(5, None, []), random=({}, 5, None),
    model=({}, 5, None), opt=({}, 5, dict(state={}, param_groups=[])), losses=(5, None), learner=({'save': 3},
        {'train_iter': 'a'}, 5),
    callbacks=({}, 5, None), scaler=(5, None), start=(5, None, {}))

@pytest.mark.parametrize('entry', ENTRIES)
def test_entries_of_a_checkpoint_made_by_hand(kept, tmp_path, entry):
    file = tmp_path/'run'/'batch_000000006.ckpt'
    file.parent.mkdir()
    for value in (*ENTRIES[entry], KeyError):
        state = deepcopy(kept)
        put(state, entry, value)
        torch.save(state, file)
        with pytest.raises(ValueError, match='batch_000000006.ckpt') as e: fit(file.parent)
        assert '\n' not in str(e.value).split(': Error')[0] or entry in ('model', 'losses', 'start')
    assert not Path(f'{file.parent}.lock').exists()

INNER = {'callbacks/loss_terms/sums': 5, 'callbacks/loss_terms/history': 'x', 'callbacks/recorder/values': 5,
    'callbacks/recorder/save': 5,
         'callbacks/recorder/metrics': 7, 'random/torch': torch.zeros(3), 'random/numpy': 5, 'random/python': [1],
             'random/loaders': 5,
         'opt/param_groups/0/lr': 'high', 'opt/state/0/exp_avg': torch.zeros(7), 'learner/last_loss': 5,
         'model/generator.conv_img.bias': torch.full((3,), float('nan'))}

@pytest.mark.parametrize('where', [o for o in INNER if o != 'learner/last_loss'])
def test_what_is_inside_of_them(kept, tmp_path, where):
    state = deepcopy(kept)
    at = state
    *path, last = where.split('/')
    for o in path: at = at[int(o) if o.isdigit() else o]
    at[last] = INNER[where]
    (tmp_path/'run').mkdir()
    torch.save(state, tmp_path/'run'/'batch_000000006.ckpt')
    with pytest.raises(ValueError, match='batch_000000006.ckpt'): fit(tmp_path/'run')

def test_one_training_a_folder(tmp_path):
    inside, errors = threading.Event(), []
    class Second(Callback):
        def after_batch(self):
            if self.training and self.train_iter == 3:
                with pytest.raises(ValueError,
                    match=f'another training is at work in .*run .process {os.getpid()} on'): fit(tmp_path/'run')
                inside.set()
    fit(tmp_path/'run', cbs=[Second()])
    assert inside.is_set() and not errors and [o.name for o in tmp_path.iterdir()] == ['run']
    class Fail(Callback):
        def after_batch(self): raise RuntimeError('a wire was pulled')
    with pytest.raises(RuntimeError): fit(tmp_path/'other', cbs=[Fail()])
    fit(tmp_path/'other')                                                   # the lock went with the error

def test_locks_of_other_processes(tmp_path):
    lock, host = tmp_path/'run.lock', socket.gethostname()
    child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
    write = lambda **kw: lock.write_text(json.dumps(kw))
    write(pid=child.pid, host=host, born=_born(child.pid))
    with pytest.raises(ValueError, match=f'process {child.pid} on {host}'), only_one(tmp_path/'run'): pass
    write(pid=1, host='elsewhere', born='5')
    with pytest.raises(ValueError, match='process 1 on elsewhere.*delete .*run.lock'), only_one(tmp_path/'run'): pass
    lock.write_text('')
    with pytest.raises(ValueError, match='delete .*run.lock'), only_one(tmp_path/'run'): pass
    write(pid=child.pid, host=host, born=_born(child.pid))
    child.kill()
    while _born(child.pid): time.sleep(.01)                                 # ended, though nobody has asked for its end
    with only_one(tmp_path/'run'): assert json.loads(lock.read_text())['pid'] == os.getpid()
    child.wait()
    for old in (dict(pid=child.pid, born='1'),
        dict(pid=os.getpid(), born='1')):      # the second: the number came again
        write(host=host, **old)
        with only_one(tmp_path/'run'): pass
    assert not lock.exists()

def test_a_folder_that_is_deleted_meanwhile(tmp_path):
    import shutil
    class Delete(Callback):
        def after_batch(self):
            if self.training and self.train_iter == 5: shutil.rmtree(tmp_path/'run')
    fit(tmp_path/'run', cbs=[Delete()])
    assert [o.name for o in (tmp_path/'run').iterdir()] == ['batch_000000008.ckpt']

class Files(Toy):
    items = []

def test_files_that_changed_meanwhile(tmp_path):
    from fastai.vision.all import CancelFitException
    Files.items = [(tmp_path/f'{i}.png', [tmp_path/f'{i}.jpg']) for i in range(3)]
    for a, (b,) in Files.items: a.write_text('mask'), b.write_text('picture')
    class Stop(Callback):
        order = 70
        def after_batch(self):
            if self.training and self.train_iter == 4: raise CancelFitException()
    fit(tmp_path/'run', cbs=[Stop()], items=Files)
    again = lambda name: [str(o.message) for o in told(name)]
    def told(name):
        import shutil
        shutil.copytree(tmp_path/'run', tmp_path/name)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            fit(tmp_path/name, items=Files)
        return [o for o in said if 'another size or time' in str(o.message)]
    assert not again('same')
    Files.items[1][0].write_text('another mask')
    os.utime(Files.items[2][1][0], (1, 1))
    (message,) = again('changed')
    assert message.startswith('4 of 12 files') and '1.png' in message

@pytest.mark.parametrize('data', [b'', b'half of a download', 'tensor', 'names'])
def test_a_damaged_vgg(tmp_path, monkeypatch, data):
    monkeypatch.setattr('torch.hub.get_dir', lambda: str(tmp_path))
    monkeypatch.setattr('torchvision.models.vgg.make_layers', lambda *args, **kw: nn.Sequential(nn.Conv2d(3, 8, 3)))
    file = vgg_weights_path()
    file.parent.mkdir()
    if isinstance(data, str): torch.save(torch.zeros(3) if data == 'tensor' else dict(x=torch.zeros(3)), file)
    else: file.write_bytes(data)
    with pytest.raises(VGGMissing, match=f'{file.name} are damaged .*delete this file'): VGGLoss().net(torch.zeros(1))
