"Command lines that nobody could mean: each is one line that names the option, its value and the cure"
import re
import numpy as np, pytest
from PIL import Image
from spade_fastai.commands import check, train
from spade_fastai.commands.terminal import said, shown
from spade_fastai.data.landcover import make_landcover

@pytest.fixture(scope='module')
def land(tmp_path_factory): return make_landcover(tmp_path_factory.mktemp('lines')/'land', n=6, size=16)

def one_line(main, args, capsys) -> str:
    "The line with which a command ends; its exit status is 1, or 2 where argparse cannot read it"
    with pytest.raises(SystemExit) as e: main([str(o) for o in args])
    err = capsys.readouterr().err
    line = e.value.code if isinstance(e.value.code, str) else err.strip()
    assert e.value.code == 2 or isinstance(e.value.code, str), f'exit status {e.value.code}: {err}'
    assert line and '\n' not in line and line.isprintable() and 'Traceback' not in err
    return line

CHECK = {
    '--table': ['{5: 0}', '{(1,2): 0}', '{(999,0,0): 0}', '{(-1,0,0): 0}', '{(0,0,0): None}', '{(0,0,0): 1.5}', '{}',
                '{(True,0,0): 0}', '{(0,0,0): 0, (0,0,0): 1}', '[(0,0,0)]', '{[0,0,0]: 0}', '{(0,0,0): [1]}', '(((',
                '{"a": 0}', '{(0,0,0): 10**9}', '('*3000, 'x\x00y', '5()'],
    '--ids': ['{1: None}', '{1: [2]}', "{'a':'b'}", "{1.5:'a'}", "{1: ''}", '{}', "{1: 'a', 1: 'b'}", '{1: True}',
              "{1: -1}", '{None: 1}', '{1: 1.5}', "__import__('os')", '{1, 2}', "{1: 'a'", '{1: 7}'],
    '--percentiles': ["'a','b'", '5', '98,2', '-1,50', '2,101', '2,2', 'nan,5', '0,1e999', '1,2,3', '', '[2],[98]'],
    '--bands': ['1,2', '0,1,2', '1.5,2,3', 'red', '4,3,2,1', "'a','b','c'", '-1,2,3', 'True,2,3'],
    '--ignore': ['1.5', 'void', '[255]', 'True', '10**3', '99999999999', 'None', ' '],
    '--limit': ['-1', '0', '1.5', 'all', '1e3'], '--tolerance': ['-1', '1.5', 'nan', str(10**400)],
    '--size': ['0', '-8', '800000000', '64x64'], '--skip': ['', '  '],
    '--masks': ['/etc/*', '/*/*.png', 'a,b,c', 'labels,', '', '***', 'a\x1b[2J', 'nowhere', 'no*where'],
    '--images': ['/etc/*', '', ',', 'images\n'],
    '--instances': ['/etc/*', '', 'nowhere', '/', '..'],
    '--codes': ['no.txt', 'a,,b', '', '/'],
    '--figure': ['--', 'fig', 'fig.xyz', 'no/fig.png', '', 'fig.', '/', 'f\x07.png'],
    '--nonsense': ['1', '\x1b[2J']}

@pytest.mark.odd
@pytest.mark.parametrize('option,value', [(k, v) for k, vs in CHECK.items() for v in vs], ids=lambda o: repr(o)[:25])
def test_spade_check(land, capsys, option, value, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    partner = {'--masks': ['--images', 'images'], '--images': ['--masks', 'labels']}.get(option, [])
    line = one_line(check.main, [land, *partner, f'{option}={value}'], capsys)
    assert line.startswith('spade-check: ')
    assert option in line or 'nowhere' in value or value in ('no.txt', '{1: 7}', 'no*where'), line

@pytest.mark.odd
@pytest.mark.parametrize('path', ['', 'nowhere', 'a\x1b[2Jb', '\x00', '~nobody/x', 'x'*5000])
def test_folders_of_spade_check(path, capsys): one_line(check.main, [path], capsys)

TRAIN = {
    '--minutes': ['inf', 'nan', '0', '-1', '1e300', 'soon'],
    '--device': ['meta', 'gpu', '', 'cuda:99', 'cpu\x1b[2J', '0'],
    '--size': ['800000000', '0', '-64', '60', '1.5', str(10**30)], '--bs': ['0', '1', '-4', str(10**9), 'x'],
    '--tiles': ['0', '4', str(10**12), '-1', '1e3'], '--epochs': ['0', '-1', '1.5', str(10**400), str(10**9)],
    '--seed': ['-1', str(2**32), 'x'], '--workers': ['-1', '100000', 'all'], '--preset': ['huge', '', 'TINY'],
    '--out': ['', '\t', 'a\x7fb', '--', '/'],
    '--codes': ['codes.txt'], '--ignore': ['255'], '--masks': ['labels'], '--path': ['']}
OWN = {
    '--ignore': ['1.5', 'void', '', '255,', 'nan', '99999999999'], '--codes': ['no.txt', '', '/'],
    '--masks': ['/etc/*', '', 'a,b,c', 'labels,', '***', 'nowhere'], '--images': ['/etc/*', 'x\n'],
    '--split': ['', 'no.csv', '/'], '--bs': ['1', '99']}

TRAINED = [(k, v, o is OWN) for o in (TRAIN, OWN) for k, vs in o.items() for v in vs]

@pytest.mark.odd
@pytest.mark.parametrize('option,value,own', TRAINED, ids=lambda o: repr(o)[:25])
def test_spade_train(land, capsys, option, value, own, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    partner = {'--masks': ['--images', 'images'], '--images': ['--masks', 'labels']}.get(option, [])
    args = ['--path', land, '--size', 16, *partner] if own else []
    line = one_line(train.main, [*args, '--epochs=1', f'{option}={value}'], capsys)
    assert line.startswith('spade-train: ') and not any(tmp_path.iterdir())
    assert option in line or option == '--preset' or value in ('no.txt', 'nowhere', '99'), line

def test_more_tiles_than_a_disk_holds(capsys, monkeypatch):
    from collections import namedtuple
    from spade_fastai.commands import options
    monkeypatch.setattr(options.shutil, 'disk_usage', lambda path: namedtuple('Usage', 'free')(10**6))
    line = one_line(train.main, ['--device', 'cpu'], capsys)
    assert re.search('--tiles 1000 of --size 64 take some 0.0 GB, and there are 0.0 GB free in .*; make fewer', line)

def test_a_figure_is_refused_before_the_masks_are_looked_at(land, capsys, monkeypatch):
    monkeypatch.setattr(check, 'check_masks', lambda *args, **kw: pytest.fail('looked at'))
    for o in ('fig', 'fig.xyz', 'no/fig.png'): one_line(check.main, [land, '--figure', o], capsys)

@pytest.mark.odd
@pytest.mark.parametrize('name', [f'0{o}.png' for o in ('\x1b[2J', '\r', '\u202egnp', '\x9b2J', '\x07\x08')], ids=repr)
def test_names_that_steer_a_terminal(land, tmp_path, capsys, name):
    import shutil
    shutil.copytree(land, tmp_path/'land')
    Image.fromarray(np.full((16, 16), 77, np.uint8)).save(tmp_path/'land/labels'/name)
    with pytest.raises(SystemExit): check.main([str(tmp_path/'land')])
    with pytest.raises(SystemExit) as e: train.main(['--path', str(tmp_path/'land'), '--size', '16'])
    seen = capsys.readouterr()
    for o in (seen.out, seen.err, e.value.code): assert all(c.isprintable() or c in '\n\t' for c in o)

@pytest.mark.parametrize('text,says', [('a\x1b[2J', r'a\x1b[2J'), ('Straße\xa0道', 'Straße 道'),
                                       ('a\u202eb', r'a\u202eb'), ('\udcff', r'\udcff'), ('x'*4000, 'x'*3000 + ' …')])
def test_shown(text, says): assert shown(text) == says

def test_what_a_process_that_loads_sends():
    text = 'Caught MaskError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n' \
           '  File "x.py", line 1, in f\nspade_fastai.data.errors.MaskError: a.png is cut; replace it'
    assert said(RuntimeError(text)) == 'a.png is cut; replace it'
    assert said(KeyError('x')) == "'x'" and said(ValueError()) == 'ValueError'
