"Rules of the repository that no single notebook can check"
import ast, configparser, json, re, shutil, subprocess, sys, tomllib
import pytest, yaml
from fastcore.xtras import working_directory
from nbdev.clean import nbdev_clean
from nbdev.doclinks import nbdev_export
from conftest import ROOT

LIB, NBS = ROOT/'spade_fastai', ROOT/'nbs'
BY_HAND = ['__init__.py', 'all.py']

def read(name): return (ROOT/name).read_text(encoding='utf-8')
def notebooks(path=NBS): return sorted(o for o in path.rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts)
def code_cells(nb):
    return [''.join(o['source']) for o in json.loads(nb.read_text(encoding='utf-8'))['cells'] if o['cell_type'] == 'code']

def settings():
    ini = configparser.ConfigParser(delimiters=['='])
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    return ini['DEFAULT']

@pytest.fixture
def house(tmp_path):
    "A copy of notebooks, modules and settings, which nbdev's commands may change"
    for o in [*notebooks(), *LIB.glob('*.py'), ROOT/'pyproject.toml']:
        new = tmp_path/o.relative_to(ROOT)
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(o, new)
    with working_directory(tmp_path): yield tmp_path

# Exported, clean, small

def test_modules_are_what_the_notebooks_export(house):
    for o in (house/LIB.name).glob('*.py'):
        if o.name not in BY_HAND: o.unlink()
    nbdev_export()
    new = {o.relative_to(house) for o in house.rglob('*') if o.is_file()}
    old = {o.relative_to(ROOT) for o in [*notebooks(), *NBS.glob('llms.txt'), *LIB.glob('*.py'), ROOT/'pyproject.toml']}
    assert new == old, f'run nbdev-export and commit what it writes: {sorted(map(str, new ^ old))}'
    changed = [str(o) for o in new if (house/o).read_bytes() != (ROOT/o).read_bytes()]
    assert not changed, f'run nbdev-export: {changed} differ'

def test_notebooks_are_clean(house):
    nbdev_clean()
    names = [str(o.relative_to(house)) for o in notebooks(house)]
    dirty = [o for o in names if (house/o).read_bytes() != (ROOT/o).read_bytes()]
    assert not dirty, f'run nbdev-clean: it changes {dirty}'

def test_import_cells_hold_only_imports():
    "nbdev runs cells that import when it makes the documentation, and no other cell before them"
    imp, faults = (ast.Import, ast.ImportFrom), []
    for nb, src in [(o, c) for o in notebooks() for c in code_cells(o)]:
        if re.search(r'^#\|\s*(export|exporti|exports|eval:\s*false)\b', src, flags=re.M): continue
        body = ast.parse(re.sub(r'^\s*[%!].*', '', src, flags=re.M)).body
        if any(isinstance(o, imp) for b in body for o in ast.walk(b)) and not all(isinstance(b, imp) for b in body):
            faults.append(f'{nb.name}: {src[:60]!r}')
    assert not faults, 'move the import to a cell of its own:\n' + '\n'.join(faults)

def test_files_are_small():
    ls = ['git', '-c', 'safe.directory=*', 'ls-files', '-zco', '--exclude-standard']  # committed, and what could be
    git = subprocess.run(ls, cwd=ROOT, capture_output=True, text=True)
    if git.returncode: pytest.skip(f'needs a git checkout: {git.stderr}')
    size = {o: (ROOT/o).stat().st_size for o in git.stdout.split('\0') if (ROOT/o).is_file()}
    fat = {o: n for o, n in size.items() if n > (300_000 if o.endswith('.ipynb') else 1_000_000)}
    assert not fat, f'over 300 kB for a notebook or 1 MB for a file: {fat}'

# The import rule

def chapter(src):
    "The (number, letter) of the notebook that a module comes from, None for one written by hand"
    m = re.search(r'File to edit: \.\./nbs/(\d+)([a-z]?)_\w+\.ipynb', src)
    return m and (int(m[1]), m[2])

def imports(src):
    "Our modules that a module's source imports, at the top or inside a function"
    for o in ast.walk(ast.parse(src)):
        if isinstance(o, ast.ImportFrom) and (o.level or o.module.split('.')[0] == LIB.name):
            name = (o.module or '') if o.level else o.module.partition('.')[2]
            yield from [name.split('.')[0]] if name else [a.name for a in o.names if not a.name.startswith('__')]
        elif isinstance(o, ast.Import): yield from [a.name.split('.')[1] for a in o.names if a.name.startswith(LIB.name + '.')]

def broken(a, b):
    "Which rule a module of chapter `a` breaks by importing one of chapter `b`, None if none"
    data, nets = lambda c: c[0] == 1 or c in ((0, 'a'), (0, 'c')), lambda c: c[0] in range(2, 7) or c == (0, 'b')   # 00_core is both sides'
    if b is None: return 'only chapters may be imported'
    if b >= a: return 'the number is not smaller'
    if data(b) and nets(a) or data(a) and nets(b): return 'data and networks do not know each other'
    if b[0] >= 20: return 'nothing imports a command'
    if b[0] in range(9, 20) and a[0] < 20: return 'nothing below a command imports a leaf'

ALLOWED = '01>00 00a>00 02>00b 01>00c 01b>01 01b>00c 03>02 08>01 08>07 10>08 20>09 20>00a 21>08'
FORBIDDEN = '00>00a 01>00b 00c>00b 00c>01 01a>01b 02>00c 02>03 06>01b 02>02 03>01 06>00a 01>02 08>09 10>09 21>20 07>all'

@pytest.mark.parametrize('pair', f'{ALLOWED} {FORBIDDEN}'.split())
def test_the_import_rule_itself(pair):
    a, b = [chapter(f'File to edit: ../nbs/{o}_x.ipynb') for o in pair.split('>')]
    assert (broken(a, b) is None) == (pair in ALLOWED.split())

def test_imports_seen():
    pkg = LIB.name
    src = f'import os, {pkg}.a\nfrom .b import *\nfrom {pkg}.c import x\nfrom {pkg} import d, __version__\ndef f():\n    from . import e'
    assert sorted(imports(src)) == list('abcde')

def test_modules_import_one_way():
    srcs = {o.stem: o.read_text(encoding='utf-8') for o in LIB.glob('*.py') if not o.name.startswith('_')}
    nums = {k: chapter(v) for k, v in srcs.items()}
    assert [k for k, v in nums.items() if v is None] == ['all'], 'a module other than all.py comes from no numbered notebook'
    faults = [(k, m, broken(nums[k], nums.get(m))) for k, v in srcs.items() if k != 'all' for m in imports(v)]
    faults = [f'{k} imports {m}: {why}' for k, m, why in faults if why]
    assert not faults, '\n'.join(faults)
    left_out = {k for k, v in nums.items() if v and v[0] < 10} - set(imports(srcs['all']))
    assert not left_out, f'all.py does not import {left_out}'

# README

def test_readme_in_sync():
    p = subprocess.run([sys.executable, ROOT/'tools/readme.py', '--check'], capture_output=True, text=True)
    assert p.returncode == 0, p.stdout + p.stderr

@pytest.mark.parametrize('name', ['README.md', 'CONTRIBUTING.md'])
def test_text_is_finished_and_its_links_lead_somewhere(name):
    text = read(name)
    assert 'TODO' not in text, re.findall(r'TODO\S*', text)
    links = [o for o in re.findall(r'\]\(([^)#\s]+)', text) if ':' not in o]
    assert not (dead := [o for o in links if not (ROOT/o).exists()]), f'{name} points at what is not there: {dead}'

def test_readme_has_both_commands():
    blocks = re.findall(r'^```sh\n(.*?)\n```$', read('README.md'), flags=re.M | re.S)
    assert blocks[:2] == ['python -m pip install . && spade-train', 'python -m pip install -e ".[dev]" && python -m pytest']

def test_readme_code_runs(tmp_path, monkeypatch):
    code, = [o for o in code_cells(NBS/'index.ipynb') if 'spade_learner' in o]
    for big, small in [('make_landcover()', 'make_landcover(n=40)'), ('fit(20)', 'fit(1)')]:
        assert big in code, f'the test makes {big} small'
        code = code.replace(big, small)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, 'README.md', 'exec'), names := {})
    pic = names['picture']
    assert (pic.size, pic.mode) == ((64, 64), 'RGB') and (tmp_path/'land.png').exists()

# Each fact in one file

def test_project_fields_are_given_once():
    proj, ini = tomllib.loads(read('pyproject.toml'))['project'], settings()
    calls = [o for o in ast.walk(ast.parse(read('setup.py'))) if isinstance(o, ast.Call)]
    call, = [o for o in calls if getattr(o.func, 'id', '') == 'setup']
    field = dict(author='authors', author_email='authors', license_expression='license', python_requires='requires-python',
                 install_requires='dependencies', extras_require='optional-dependencies')
    assert {field.get(k.arg, k.arg) for k in call.keywords} == set(proj['dynamic'])  # setuptools ignores others silently
    assert not set(proj) & set(proj['dynamic'])
    assert not set(ini) & {*set(proj) - {'dynamic'}, 'version', 'lib_name', 'user', 'repo', 'git_url', 'doc_host'}

def test_version_and_requirements_are_given_once():
    version = re.compile(r'^\s*(__version__|version)\s*[:=]', re.M)
    files = ['spade_fastai/__init__.py', 'pyproject.toml', 'settings.ini', 'CITATION.cff', 'nbs/_quarto.yml']
    assert [o for o in files if version.search(read(o))] == files[:1]
    rivals = ['*requirements*.txt', 'environment*.y*ml', '*.cfg', 'Pipfile', 'tox.ini', 'pytest.ini']
    others = [o.name for pat in rivals for o in ROOT.glob(pat)]
    assert not others, f'settings.ini and pyproject.toml have what {others} say'

def test_copies_that_other_formats_need_agree():
    cff, ini = yaml.safe_load(read('CITATION.cff')), settings()
    home = tomllib.loads(read('pyproject.toml'))['project']['urls']['Repository']
    assert (cff['license'], cff['repository-code'], cff['authors'][0]['name']) == (ini['license'], home, ini['author'])
    assert 'Apache License' in read('LICENSE') and ini['license'] == 'Apache-2.0'
    assert f'"{ini["min_python"]}"' in read('.github/workflows/test.yaml'), 'the oldest Python is tested'
    for name in ['README.md', 'CONTRIBUTING.md']:
        assert set(re.findall(r'https://github\.com/[\w-]+/\w+', read(name))) == {home}, name

def test_changelog_has_the_version():
    version = re.search(r'__version__ = "(.+)"', read('spade_fastai/__init__.py'))[1]
    assert read('CHANGELOG.md').startswith('# Release notes\n\n<!-- do not remove -->\n')
    assert f'\n## {version}\n' in read('CHANGELOG.md'), f'CHANGELOG.md says nothing about {version}'

# Nothing of one machine

def test_no_device_and_no_machine_path():
    modules = {o.name: o.read_text(encoding='utf-8') for o in LIB.glob('*.py')}
    code = modules | {o.name: '\n'.join(code_cells(o)) for o in notebooks()}
    cuda = [k for k, v in code.items() if re.search(r'\.cuda\(\)', v)]
    assert not cuda, f'.cuda() in {cuda}: take the device from an input'
    plain = lambda o: re.sub(r'\\n|\\u001b\[[\d;]*m', ' ', o.read_text(encoding='utf-8'))  # outputs too, without line ends and colours
    text = modules | {o.name: plain(o) for o in notebooks()}
    local = re.compile(r'(?<![\w.:/~+-])/(?:home|root|Users|work|tmp|mnt|media|opt|var|private|workspace)/[^\s"\']*|\b[A-Z]:\\+Users')
    found = {k: m[0] for k, v in text.items() if (m := local.search(v))}
    assert not found, f'paths of one machine: {found}'
