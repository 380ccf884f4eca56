"The command spade-train: a run, an interrupted run, a user's folder, real folders, and what it refuses"
import csv, json, os, re, shutil, signal, subprocess, sys, time
import numpy as np, pytest
from PIL import Image
from conftest import ROOT
from fastai.callback.core import Callback
from fastai.test_utils import synth_learner
import spade_fastai.commands.train as cmd
from spade_fastai.apps.marks import read_mark

CMD = [sys.executable, '-W', 'ignore', '-c', 'from spade_fastai.commands.train import main; main()']
SMALL = '--tiles 40 --size 32 --bs 4 --device cpu'.split()
FILES = {'config.json', 'history.csv', 'losses.png', 'model.safetensors', 'report.json', 'samples', 'samples.png'}
ENV = {**os.environ, 'PYTHONPATH': str(ROOT)}

def spade_train(*args, cwd):
    return subprocess.run([*CMD, *map(str, args)], cwd=cwd, env=ENV, capture_output=True, text=True, timeout=300)

def report(out): return json.loads((out/'report.json').read_text())

def test_a_run_and_a_second_one(tmp_path):
    first = spade_train(*SMALL, '--epochs', 2, cwd=tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    out = tmp_path/'spade_run'
    assert {o.name for o in out.iterdir()} == FILES | {'landcover'}
    rep = report(out)
    assert (rep['batches'], rep['epochs'], rep['stopped'], rep['device']) == (18, 2, None, 'cpu')
    assert 0 < rep['colour_accuracy']['fake'] < rep['colour_accuracy']['real'] < 1 and .1 < rep['peak_memory_GB'] < 4
    rows = list(csv.DictReader((out/'history.csv').open()))
    assert len(rows) == 2 and all(float(r['vgg']) > 0 for r in rows)
    assert [o.name for o in sorted((out/'samples').iterdir())] == ['epoch_000.png', 'epoch_001.png']
    assert np.array(Image.open(out/'samples.png')).std() > 20
    for o in ('samples.png', 'samples/epoch_000.png'): assert read_mark(out/o)['SYNTHETIC'] == 'PARTLY', o
    assert 'vgg' in first.stdout and 'samples.png' in first.stdout            # the table of losses, and where to look
    before = {o: o.stat().st_mtime_ns for o in out.rglob('*')}
    second = spade_train(*SMALL, '--epochs', 2, cwd=tmp_path)
    assert second.returncode == 0 and before == {o: o.stat().st_mtime_ns for o in out.rglob('*')}
    again = report(tmp_path/'spade_run_1')                                       # the same seed gives the same network
    assert again['colour_accuracy'] == rep['colour_accuracy']

def test_ctrl_c_saves_what_was_learned(tmp_path):
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    run = subprocess.Popen([*CMD, *SMALL, '--epochs', '5000'], cwd=tmp_path, env=ENV, **pipes)
    out, start = tmp_path/'spade_run', time.time()
    first = out/'samples/epoch_000.png'
    while not first.exists() and run.poll() is None and time.time() - start < 120: time.sleep(.1)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 0, said
    assert FILES <= {o.name for o in out.iterdir()}
    assert report(out)['stopped'] == 'by Ctrl-C' and 'Traceback' not in said
    from spade_fastai.drawing import generate
    from spade_fastai.saving import load_spade
    assert generate(load_spade(out/'model.safetensors'), np.zeros((32, 32), dtype=np.uint8)).size == (32, 32)

@pytest.fixture
def colours(tmp_path):
    "A user's folder: masks in colours, class_dict.csv, split.csv"
    from spade_fastai.palette import LANDCOVER_CODES, Palette
    from spade_fastai.data.landcover import landcover_tile
    path, pal = tmp_path/'mine', Palette(LANDCOVER_CODES)
    for o in ('masks', 'images'): (path/o).mkdir(parents=True)
    rows = ['image,mask,split']
    for i in range(12):
        ids, rgb = landcover_tile(i, (40, 48))
        Image.fromarray(pal.paint(ids)).save(path/f'masks/m{i}.png')
        Image.fromarray(rgb).save(path/f'images/photo{i}.jpg')
        rows.append(f"photo{i}.jpg,m{i}.png,{'train' if i < 8 else 'val' if i < 11 else 'exclude'}")
    (path/'split.csv').write_text('\n'.join(rows))
    classes = [f'{c},{r},{g},{b}' for c, (r, g, b) in zip(pal.codes, pal.colors, strict=True)]
    (path/'class_dict.csv').write_text('\n'.join(['name,r,g,b', *classes]))
    return path

def test_a_folder_of_colour_masks(colours, tmp_path):
    short = '--size 32 --bs 4 --epochs 1 --device cpu --out out'.split()
    run = spade_train('--path', colours, *short, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert '8 pictures to learn from, 3 held back, 13 classes' in run.stdout
    from spade_fastai.saving import load_spade
    reader = load_spade(tmp_path/'out/model.safetensors').reader
    assert reader.codes[1] == 'Water' and reader.table[(0x22, 0x67, 0xa7)] == 1

def test_refusals_are_one_line(colours, tmp_path):
    "One in a process of its own; the others by the same function, which takes no time"
    from spade_fastai.commands.train import main
    last = ['--epochs', '1', '--device', 'cpu', '--out', str(tmp_path/'refused')]
    run = spade_train('--path', 'nowhere', *last, cwd=tmp_path)
    assert run.returncode == 1 and 'there is no folder nowhere' in run.stderr and 'Traceback' not in run.stderr
    mine = ['--path', str(colours)]
    for args, says in [(['--preset', 'huge'], "no preset 'huge'"), (mine + ['--size', '60'], 'multiple of 8'),
                       (mine + ['--bs', '1'], '--bs 1 does not work'), (['--ignore', '255'], '--ignore says how'),
                       (mine + ['--split', 'typo.csv'], 'there is no file typo.csv'),
                       (mine + ['--bs', '9'], 'only 8 masks are for training'),
                       (mine + ['--codes', 'no.txt'], 'no.txt')]:
        with pytest.raises(SystemExit, match=f'^spade-train: .*{says}'): main(args + last)
    assert not (tmp_path/'refused').exists() or not any((tmp_path/'refused').iterdir())

HELP = dict(train='path codes size bs epochs minutes preset device seed out masks images split ignore cure tiles '
                  'workers',
            check='masks images codes table ignore ids tolerance instances bands percentiles align skip size limit '
                  'figure')

@pytest.mark.parametrize('command', HELP)
def test_help_says_what_each_option_is(command, capsys):
    main = __import__(f'spade_fastai.commands.{command}', fromlist=['main']).main
    with pytest.raises(SystemExit) as e: main(['--help'])
    said = ' '.join(capsys.readouterr().out.split())
    assert e.value.code == 0
    shown = said.partition('options:')[2]
    for o in HELP[command].split(): assert re.search(rf'--{o}( \(\w+\))? \w', shown), f'--{o} has no text in {shown}'
    assert "a pattern such as '*_mask.png', or 'train,valid'" in said

# A folder with something wrong in it

def _without(folder, which):
    def f(path): (path/folder/f'00000{which}.png').unlink()
    return f

def _changed(folder, change):
    def f(path):
        fn = path/folder/'000005.png'
        Image.fromarray(change(np.array(Image.open(fn)))).save(fn)
    return f

def _marked(ids): ids[:2, :3] = 77; return ids
def _emptied(path): [o.unlink() for o in path.rglob('*.png')]

WRONG = dict(                                       # what is done to it, what the command says, what Python says
    empty=(_emptied, 'no picture files in', 'no picture files in'),
    no_masks=(lambda p: shutil.rmtree(p/'labels'), 'does not tell which files are masks',
              'there is no folder .*labels; folders in .*: images'),
    no_image=(_without('images', 2), '1 mask has no image: labels/000002.png; add the missing files',
              '1 of 12 masks have no image: 000002.png.* add the'),
    no_mask=(_without('labels', 3), '1 image has no mask: images/000003.png; add the missing files',
             '1 of 12 images have no mask: 000003.png.* add the'),
    id=(_changed('labels', _marked),
        'value 77 is in 1 file.* labels/000005.png.*; classes are 0, 1.* add its name to the codes.*pass `--ignore 77`',
        '000005.png has id 77; classes are 0..12; .*pass `ignore=77`'),
    size=(_changed('labels', lambda a: a[:, :20]),
          *['000005.png is 20x32 but image .*000005.png is 32x32 .*; crop or resize one']*2),
    broken=(lambda p: (p/'labels/000001.png').write_bytes(b'<html>'),
            *['cannot read mask .*000001.png.*replace the file or take it out']*2))

@pytest.mark.parametrize('what', WRONG)
def test_a_folder_with_a_fault(what, tmp_path):
    from spade_fastai.data.items import SpadeDataLoaders
    from spade_fastai.data.landcover import make_landcover
    from spade_fastai.commands.train import main
    path = make_landcover(tmp_path/'land', n=12, size=32)
    spoil, command, python = WRONG[what]
    spoil(path)
    out = tmp_path/'out'
    with pytest.raises(SystemExit, match=f'^spade-train: .*{command}'):
        main(['--path', str(path), '--size', '32', '--out', str(out)])
    assert not out.exists()
    with pytest.raises((ValueError, FileNotFoundError), match=python):
        SpadeDataLoaders.from_folder(path, size=32, bs=4)

def test_a_fault_can_be_cured(tmp_path, capsys):
    from spade_fastai.data.landcover import make_landcover
    from spade_fastai.commands.train import load_data
    path = make_landcover(tmp_path/'land', n=12, size=32)
    for o in ('no_image', 'id', 'broken'): WRONG[o][0](path)
    dls = load_data(path, size=32, bs=4, device='cpu', cure=True)
    assert (len(dls.train_ds) + len(dls.valid_ds), dls.n_classes, dls.reader.codes[-1]) == (10, 14, 'class 77')
    assert capsys.readouterr().out.count('cured: ') == 3

# Real pictures

@pytest.mark.parametrize('folder,args,counts', [
    ('landcover', ['--ignore', 5], (55, 8, 6)),
    ('camvid', ['--masks', 'valannot,testannot', '--images', 'val,test'], (101, 233, 12)),
    ('camvid', ['--ignore', 11], (367, 101, 12)),
    ('extra/coco_stuff_sample', [], (13, 8, 182)),                                    # colour tells little there
    ('extra/chesapeake_patches', [], (15, 1, 4))])
def test_real_pictures(shared, tmp_path, folder, args, counts):
    short = '--size 32 --epochs 1 --minutes .1 --device cpu --out out'.split()
    run = spade_train('--path', shared/'data'/folder, *args, *short, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert '{} pictures to learn from, {} held back, {} classes'.format(*counts) in run.stdout
    acc = report(tmp_path/'out')['colour_accuracy']
    assert (.005 if 'coco' in folder else .15) < acc['real'] < .95 and np.isfinite(acc['fake'])

# The time that a run may take, by a clock of our own

class Clock(Callback):
    "Each batch takes `slow` seconds, and `quick` after `busy` seconds; remembers learning rates of training"
    order = 0
    def __init__(self, slow, quick, busy):
        self.slow, self.quick, self.busy, self.now, self.rates = slow, quick, busy, 0, []
    def perf_counter(self): return self.now
    def after_pred(self):
        if self.training: self.rates.append(self.opt.hypers[-1]['lr'])
        self.now += self.slow if self.now < self.busy else self.quick

def run_by_the_clock(monkeypatch, clock, minutes, epochs, takes=None):
    monkeypatch.setattr(cmd, 'time', clock)
    learn, watch = synth_learner(n_trn=8, n_val=2, lr=1e-3), cmd.StopWatch(minutes, epoch=takes)
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, cbs=[clock, watch])
    return learn, watch

@pytest.mark.parametrize('slow, quick, busy', [(1, 1, 0), (4, 1, 60), (1, 4, 60), (9, .5, 20), (1, 2.3, 100)])
def test_a_run_uses_its_time(monkeypatch, slow, quick, busy):
    "Whether the machine is busy at first, or later; and the rate ends at zero"
    clock = Clock(slow, quick, busy)
    monkeypatch.setattr(cmd, 'seconds_per_epoch', lambda learn: 8*slow)      # by the first batches
    learn, watch = run_by_the_clock(monkeypatch, clock, 200/60, *cmd._plan(None, 200/60))
    assert watch.stopped == 'by time' and abs(clock.now - 200) <= 5*max(slow, quick)
    assert clock.rates[0] == 1e-3 and max(clock.rates[-2:]) < 1e-3*3*5*max(slow, quick)/200
    flat = [r == 1e-3 for r in clock.rates]
    assert .5 < sum(flat)/len(flat) < .8 or busy

def test_what_is_asked_for_in_epochs_does_not_look_at_the_clock(monkeypatch):
    clocks = [Clock(1, 1, 0), Clock(7, 2, 60)]
    watches = [run_by_the_clock(monkeypatch, o, None, 6)[1] for o in clocks]
    assert all(o.stopped is None for o in watches) and clocks[0].rates == clocks[1].rates
    assert len(clocks[0].rates) == 48 and clocks[0].rates[31] == 1e-3 > clocks[0].rates[-1] > 0
