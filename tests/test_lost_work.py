"What a run leaves that is ended by a signal, a full disk, a broken file or kill -9, and how it goes on"
import errno, json, multiprocessing, os, re, resource, shutil, signal, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from safetensors.torch import load_file
from spade_fastai.commands import train as cmd
from spade_fastai.commands.terminal import new_folder, on_signals, whole_file
from spade_fastai.commands.train import main, train
from spade_fastai.data.landcover import make_landcover
from spade_fastai.apps.marks import save_marked
from spade_fastai.data.items import SpadeDataLoaders
from spade_fastai.drawing import generate
from spade_fastai.learner import spade_learner
from spade_fastai.nets.generator import SPADEGenerator
from spade_fastai.official import save_official
from spade_fastai.saving import load_spade
from spade_fastai.train.resume import Checkpoint, read_checkpoint
from test_command import CMD, ENV, FILES, report

@pytest.fixture(scope='module')
def land(tmp_path_factory): return make_landcover(tmp_path_factory.mktemp('own')/'land', n=14, size=32)

@pytest.fixture
def own(land, tmp_path):
    "A user's folder that a test may spoil, and the command line that trains on it: 3 batches an epoch"
    shutil.copytree(land, tmp_path/'own')
    return ['--path', str(tmp_path/'own'), *'--size 32 --bs 4 --device cpu'.split(), '--out', str(tmp_path/'out')]

def before(monkeypatch, owner, name, act, nth=1):
    "Before the `nth` call of `owner.name`, `act()` happens"
    f, calls = getattr(owner, name), []
    def g(*args, **kwargs):
        calls.append(name)
        if len(calls) == nth: act()
        return f(*args, **kwargs)
    monkeypatch.setattr(owner, name, g)

def ended(args) -> str:
    "The one line with which the command ends"
    with pytest.raises(SystemExit) as e: main(args)
    assert isinstance(e.value.code, str) and '\n' not in e.value.code and e.value.code.startswith('spade-train: ')
    return e.value.code

def draws(out): return generate(load_spade(out/'model.safetensors'), np.zeros((32, 32), np.uint8)).size == (32, 32)
def same_bits(a, b):
    a, b = load_file(a/'model.safetensors'), load_file(b/'model.safetensors')
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)

# kill -9, and going on

def killed(args, when, cwd):
    "Kill the command when the file `when` is there"
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = subprocess.Popen([*CMD, *args], cwd=cwd, env=ENV, **quiet)
    start = time.time()
    while not when.exists() and run.poll() is None and time.time() - start < 120: time.sleep(.02)
    assert run.poll() is None, 'it ended before it could be killed'
    run.kill()
    run.wait()

def test_kill_9_and_resume_bit_for_bit(own, tmp_path):
    whole = train(path=own[1], size=32, bs=4, device='cpu', epochs=3, out=tmp_path/'whole')
    out = tmp_path/'out'
    killed([*own, '--epochs', '3'], out/'model.safetensors', tmp_path)
    assert draws(out) and not (out/'report.json').exists()
    assert train(resume=out) == out
    assert same_bits(whole, out) and report(out)['stopped'] is None and report(out)['batches'] == 9
    losses = [[r.rsplit(',', 1)[0] for r in (o/'history.csv').read_text().splitlines()] for o in (whole, out)]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    assert {o.name for o in out.iterdir()} == FILES

def test_what_is_kept_is_the_average(own, tmp_path, monkeypatch):
    "In the middle of an epoch, too, and keeping it changes nothing"
    monkeypatch.setattr(cmd.Keeper, 'after_batch', lambda self: self.save(self.epoch, self.iter + 1))
    def die():
        shutil.copy(tmp_path/'out/model.safetensors', tmp_path/'kept')
        raise Stop('x')
    class Stop(KeyError): pass
    before(monkeypatch, cmd.Keeper, 'after_batch', die, 6)
    with pytest.raises(Stop): main([*own, '--epochs', '3'])
    state = read_checkpoint(sorted((tmp_path/'out/checkpoint').glob('*.ckpt'))[-1])
    avg, kept = state['callbacks']['ema']['avg'], load_file(tmp_path/'kept')
    assert (state['epoch'], state['batch']) == (1, 2)
    assert all(torch.equal(v, kept[k]) for k, v in avg.items() if k in kept) and len(set(avg) & set(kept)) > 20

def test_the_minutes_of_before_count(own, tmp_path, monkeypatch):
    before(monkeypatch, cmd.StopWatch, 'after_batch', lambda: signal.raise_signal(signal.SIGTERM), 2)
    main([*own, '--minutes', '.5'])
    out = tmp_path/'out'
    first = report(out)
    config = json.loads((out/'config.json').read_text())
    assert first['stopped'] == 'by SIGTERM' and first['batches'] == 2 and config['planned_epochs'] > 3
    file = max((out/'checkpoint').iterdir())
    state = torch.load(file, weights_only=True)
    state['callbacks']['stop_watch']['seconds'] = 29.5             # as if it had taken so long
    torch.save(state, file)
    train(resume=out)
    last = report(out)
    assert last['stopped'] == 'by time' and 29.5 < last['seconds'] < 40 and not (out/'checkpoint').exists()
    assert json.loads((out/'config.json').read_text())['planned_epochs'] == config['planned_epochs']

def test_resume_before_anything_was_kept(own, tmp_path, monkeypatch):
    before(monkeypatch, cmd, 'seconds_per_epoch', lambda: signal.raise_signal(signal.SIGINT))
    assert ended([*own, '--minutes', '.01']) == 'spade-train: stopped by Ctrl-C; nothing was learned yet'
    main(['--resume', str(tmp_path/'out')])
    assert report(tmp_path/'out')['stopped'] == 'by time' and draws(tmp_path/'out')

@pytest.mark.odd
@pytest.mark.parametrize('more,says', [
    ('--size 64', '--size 64 contradicts the run in .*out, which has 32'), ('--seed 1', '--seed 1 contradicts'),
    ('--epochs 5', '--epochs 5 contradicts'), ('--minutes 1', '--minutes 1.0 contradicts'),
    ('--path /', '--path / contradicts'), ('--cure', '--cure True contradicts'), ('--out other', 'are two folders'),
    ('--workers 1', '--workers 1 contradicts'), ('--device meta', '--device meta cannot be used')])
def test_resume_does_not_take_other_options(own, tmp_path, more, says, monkeypatch):
    before(monkeypatch, cmd, '_fitted', lambda: signal.raise_signal(signal.SIGINT))
    ended([*own, '--epochs', '1'])
    assert re.search(says, ended(['--resume', str(tmp_path/'out'), *more.split()]))
    assert not (tmp_path/'out/model.safetensors').exists()

@pytest.mark.odd
@pytest.mark.parametrize('config', ['', '{', '[]', '{"command": 3}', '{"command": {"size": 64}}', '\x00'])
def test_resume_of_what_is_no_run(tmp_path, config):
    (tmp_path/'config.json').write_text(config)
    assert 'does not hold the options of a run; start a new one' in ended(['--resume', str(tmp_path)])

@pytest.mark.odd
@pytest.mark.parametrize('where,says', [('none', 'name the folder of a run'), ('file', 'name the folder of a run'),
                                        ('', '--resume is empty')])
def test_resume_nowhere(tmp_path, where, says):
    (tmp_path/'file').touch()
    assert says in ended(['--resume', str(tmp_path/where) if where else ''])

# A signal at any moment

MOMENTS = dict(        # what is about to happen, whether the run ends as usual, whether there are weights
    checking=(cmd, 'check_masks', False, False), learner=(cmd, 'spade_learner', False, False),
    folder=(cmd, 'only_one', False, False), timing=(cmd, 'seconds_per_epoch', False, False),
    batch=(cmd.StopWatch, 'before_batch', True, True), validation=(cmd.EMA, 'before_validate', True, True),
    pictures=(cmd.WholeSamples, 'put', True, True), keeping=(cmd.Keeper, 'save', True, True),
    results=(cmd, 'leave_results', False, True), last=(cmd, '_say', False, True))

@pytest.mark.parametrize('moment', MOMENTS)
@pytest.mark.parametrize('which', ['SIGINT', 'SIGTERM', 'SIGHUP'])
def test_a_signal_at_any_moment(own, tmp_path, monkeypatch, moment, which):
    owner, name, as_usual, weights = MOMENTS[moment]
    said, out = 'by Ctrl-C' if which == 'SIGINT' else f'by {which}', tmp_path/'out'
    if which != 'SIGTERM' and moment not in ('batch', 'results'): pytest.skip('one signal is enough at this moment')
    handler = signal.getsignal(getattr(signal, which))
    before(monkeypatch, owner, name, lambda: signal.raise_signal(getattr(signal, which)))
    args = [*own, '--minutes', '.2'] if moment == 'timing' else [*own, '--epochs', '3']
    if as_usual:
        main(args)
        assert report(out)['stopped'] == said and any((out/'checkpoint').iterdir())
    else: assert ended(args).startswith(f'spade-train: stopped {said}; ' + ('the last' if weights else 'nothing was'))
    assert draws(out) if weights else not (out/'model.safetensors').exists()
    assert signal.getsignal(getattr(signal, which)) == handler

def test_while_tiles_are_made(tmp_path, monkeypatch):
    from spade_fastai.data import landcover
    before(monkeypatch, landcover, 'landcover_tile', lambda: signal.raise_signal(signal.SIGTERM), 9)
    says = ended(['--tiles', '40', '--size', '32', '--device', 'cpu', '--out', str(tmp_path/'out')])
    assert says == 'spade-train: stopped by SIGTERM; nothing was learned yet'

def test_the_second_signal_ends_at_once(own, tmp_path, monkeypatch):
    "Though validation is not over"
    twice = lambda: [signal.raise_signal(o) for o in (signal.SIGTERM, signal.SIGINT)]
    before(monkeypatch, cmd.EMA, 'before_validate', twice, 2)
    assert 'stopped by SIGTERM; the last weights are in' in ended([*own, '--epochs', '3'])
    assert draws(tmp_path/'out') and not (tmp_path/'out/report.json').exists()

def test_nohup_is_heard():
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with on_signals(): signal.raise_signal(signal.SIGHUP)
    finally: signal.signal(signal.SIGHUP, old)

# A full disk, a broken image, a folder that goes

def full(): raise OSError(errno.ENOSPC, 'No space left on device')

@pytest.mark.odd
@pytest.mark.parametrize('nth', [1, 3, 5, 8, 9, 12, 14])            # files that are written, one after the other
def test_a_disk_that_is_full(own, tmp_path, monkeypatch, nth):
    out = tmp_path/'out'
    before(monkeypatch, os, 'replace', full, nth)
    says = ended([*own, '--epochs', '2'])
    assert 'No space left on device' in says and 'make room there' in says
    there = (out/'model.safetensors').exists()
    assert there == ('the last weights are in' in says) and (nth == 1 or draws(out))
    assert not [o for o in out.rglob('*') if '.new' in o.name] and not (out/'report.json').exists()

@pytest.mark.odd
@pytest.mark.parametrize('error', [RuntimeError('[enforce fail at inline_container.cc:603] . unexpected pos 64 vs 0'),
                                   OSError(errno.EIO, 'Input/output error'), MemoryError()], ids=repr)
def test_keeping_that_fails(own, tmp_path, monkeypatch, error):
    "As torch says a full disk; the weights are written nevertheless, as they are small"
    def fail(): raise error
    before(monkeypatch, torch, 'save', fail, 2)
    says = ended([*own, '--epochs', '2'])
    assert 'the last weights are in' in says and draws(tmp_path/'out')

@pytest.mark.skipif(sys.platform != 'linux', reason='a limit that the system sets')
@pytest.mark.parametrize('limit', [100_000, 7_000_000])             # too small for the weights; for the checkpoint
def test_a_limit_of_the_system(own, tmp_path, limit):
    small = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    run = subprocess.run([*CMD, *own, '--epochs', '1'], cwd=tmp_path, env=ENV, capture_output=True, text=True,
                         preexec_fn=small)
    assert run.returncode == 1 and 'Traceback' not in run.stderr
    assert re.fullmatch(r'spade-train: cannot write [^\n]*; make room there[^\n]*\n', run.stderr)
    assert (tmp_path/'out/model.safetensors').exists() == (limit > 1e6)

def noise(): return Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))

DOORS = dict(         # what writes a file, or a folder, in a library that is called from Python
    save_spade=lambda learn, f: learn.save_spade(f), export=lambda learn, f: learn.export(f),
    save_official=lambda learn, f: save_official(SPADEGenerator(3, nf=1), f),
    png=lambda learn, f: save_marked(noise(), f.with_suffix('.png'), seed=1),
    tif=lambda learn, f: save_marked(noise(), f.with_suffix('.tif'), seed=1),
    land=lambda learn, f: make_landcover(f, 1, 64), checkpoint=lambda learn, f: learn.fit(1, cbs=Checkpoint(f)))

@pytest.fixture(scope='module')
def toy(land):
    small = dict(generator=dict(nf=4, mults=(4, 2, 1), ups=(1, 1)), critic=dict(nf=4, n_layers=2), gen_loss={})
    dls = SpadeDataLoaders.from_folder(land, size=32, bs=4, num_workers=0, device='cpu')
    learn = spade_learner(dls, dict(small, weights=dict(feat=10), lr=1e-3), sample_grid=None)
    with learn.no_bar(), learn.no_logging(): yield learn

@pytest.mark.odd
@pytest.mark.skipif(sys.platform != 'linux', reason='a limit that the system sets')
@pytest.mark.parametrize('limit', [0, 1000])
@pytest.mark.parametrize('door', DOORS)
def test_a_full_disk_at_every_door(toy, tmp_path, door, limit):
    "The file is named, with the cure, and no half of one is left"
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        with pytest.raises(OSError) as e: DOORS[door](toy, tmp_path/'out')
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert re.search(rf"cannot write .*{tmp_path}/out.*make room there", str(e.value), re.S)
    assert not [o for o in tmp_path.rglob('*') if o.is_file() and (door != 'land' or 'new_' in o.name)]
    DOORS[door](toy, tmp_path/'out')                                 # and then there is room

@pytest.mark.odd
@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('content', [b'', b'<html>', None], ids=['empty', 'html', 'gone'])
def test_an_image_that_breaks(own, tmp_path, monkeypatch, workers, content):
    if workers and content != b'<html>': pytest.skip('one is enough with processes')
    def spoil():
        for o in (tmp_path/'own/images').iterdir(): o.unlink() if content is None else o.write_bytes(content)
    before(monkeypatch, cmd.WholeSamples, 'put', spoil)
    says = ended([*own, '--epochs', '3', '--workers', str(workers)])
    assert '.png' in says and 'the last weights are in' in says and draws(tmp_path/'out')

@pytest.mark.odd
@pytest.mark.parametrize('name', ['put', 'keep_weights'])
def test_a_folder_that_goes(own, tmp_path, monkeypatch, name):
    "It is made anew, with all that can be written again"
    owner = cmd.WholeSamples if name == 'put' else cmd.Keeper
    before(monkeypatch, owner, name, lambda: shutil.rmtree(tmp_path/'out'))
    main([*own, '--epochs', '2'])
    assert FILES <= {o.name for o in (tmp_path/'out').iterdir()} and draws(tmp_path/'out')
    assert len((tmp_path/'out/history.csv').read_text().splitlines()) == 3

def test_a_folder_that_goes_at_the_end(own, tmp_path, monkeypatch):
    before(monkeypatch, cmd, 'plot_samples', lambda: shutil.rmtree(tmp_path/'out'))
    assert 'has lost model.safetensors' in ended([*own, '--epochs', '1'])

def test_a_file_is_whole_or_not_there(tmp_path):
    seen = []
    with whole_file(tmp_path/'x.txt') as f:
        f.write_text('a'*10)
        seen.append((tmp_path/'x.txt').exists())
    assert seen == [False] and [o.name for o in tmp_path.iterdir()] == ['x.txt']

# Folders

def test_every_run_has_its_own_folder(tmp_path):
    assert [new_folder(tmp_path/'run').name for _ in range(3)] == ['run', 'run_1', 'run_2']
    with ThreadPoolExecutor(16) as pool: names = list(pool.map(new_folder, [tmp_path/'a/b']*64))
    assert len(set(names)) == 64
    context = multiprocessing.get_context('fork' if sys.platform == 'linux' else 'spawn')
    with context.Pool(4) as pool: names = pool.map(new_folder, [tmp_path/'c']*64, chunksize=1)
    assert len(set(names)) == 64

def test_two_runs_at_once(own, tmp_path):
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    runs = [subprocess.Popen([*CMD, *own, '--epochs', '1'], cwd=tmp_path, env=ENV, **pipes) for _ in range(2)]
    said = [o.communicate(timeout=300)[0] for o in runs]
    assert [o.returncode for o in runs] == [0, 0], said
    for o in ('out', 'out_1'): assert {x.name for x in (tmp_path/o).iterdir()} == FILES

@pytest.mark.skipif(os.name != 'posix', reason='locks of the system')
def test_a_run_at_work_is_not_resumed(own, tmp_path, monkeypatch):
    seen = []
    def resume():
        code = 'from spade_fastai.commands.terminal import only_one\nwith only_one("out"): pass'
        run = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=tmp_path, env=ENV, capture_output=True)
        seen.append(run.stderr.decode().splitlines()[-1])
    before(monkeypatch, cmd.WholeSamples, 'put', resume)
    main([*own, '--epochs', '1'])
    assert 'another run is at work in out; wait for its end, or stop it' in seen[0]

@pytest.mark.odd
@pytest.mark.parametrize('out,says', [
    ('lost', '--out .*lost is a link to .*nowhere, which is not there'), ('file', 'file is a file'),
    ('file/in/it', 'file is a file'), ('x'*300, 'cannot be made'), ('', '--out is empty'), ('/', '--out / '),
    ('a\x1b[2Jb', r"--out .*\\x1b\[2Jb' holds a control"), ('lost/in/it', 'link to|cannot be made|is a file')])
def test_places_where_no_folder_can_be(own, tmp_path, out, says, monkeypatch):
    (tmp_path/'lost').symlink_to(tmp_path/'nowhere')
    (tmp_path/'file').write_text('mine')
    monkeypatch.chdir(tmp_path)
    said = ended([*own[:-1], out, '--epochs', '1'])
    assert re.search(says, said) and (tmp_path/'file').read_text() == 'mine' and not (tmp_path/'nowhere').exists()

def test_a_place_that_is_not_ours(own, tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    monkeypatch.setattr(cmd, 'check_masks', lambda *a, **kw: pytest.fail('said before the folder is looked at'))
    assert re.search('--out .*out: you may not write to .*; name another folder', ended([*own, '--epochs', '1']))

def test_an_empty_folder_is_taken_and_a_full_one_is_not(tmp_path):
    (tmp_path/'mine').mkdir()
    assert new_folder(tmp_path/'mine') == tmp_path/'mine'
    (tmp_path/'other').mkdir(), (tmp_path/'other/thesis.txt').touch()
    assert new_folder(tmp_path/'other') == tmp_path/'other_1' and Path(tmp_path/'other/thesis.txt').exists()
