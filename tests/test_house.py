"Rules of the repository that no single notebook can check"
import ast, configparser, json, os, re, shutil, subprocess, sys, tomllib
from pathlib import Path
import pytest, yaml
from fastcore.xtras import working_directory
from nbdev.clean import nbdev_clean
from nbdev.doclinks import nbdev_export
from conftest import ROOT

LIB, NBS = ROOT/'spade_fastai', ROOT/'nbs'
BY_HAND = ['__init__.py', 'all.py']

def read(*names): return ROOT.joinpath(*names).read_text(encoding='utf-8')
def notebooks(path=NBS): return sorted(o for o in path.rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts)
def cells(nb, kind): return [''.join(o['source']) for o in json.loads(nb.read_text(encoding='utf-8'))['cells'] if o['cell_type'] == kind]
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
    old = {o.relative_to(ROOT) for o in [*notebooks(), *LIB.glob('*.py'), *NBS.glob('llms.txt'), ROOT/'pyproject.toml']}
    assert new == old, f'run nbdev-export and commit what it writes: {sorted(map(str, new ^ old))}'
    changed = [str(o) for o in new if (house/o).read_bytes() != (ROOT/o).read_bytes()]
    assert not changed, f'run nbdev-export: {changed} differ'

def test_notebooks_are_clean(house):
    nbdev_clean()
    dirty = [str(o.relative_to(house)) for o in notebooks(house) if o.read_bytes() != (ROOT/o.relative_to(house)).read_bytes()]
    assert not dirty, f'run nbdev-clean: it changes {dirty}'

def test_files_are_small():
    git = subprocess.run(['git', '-c', 'safe.directory=*', 'ls-files', '-zco', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True)
    if git.returncode: pytest.skip('needs a git checkout')
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
    data, nets = [(0, 'a'), (1, '')], range(2, 7)
    if b is None: return 'only chapters may be imported'
    if b >= a: return 'the number is not smaller'
    if b in data and a[0] in nets or a in data and b[0] in nets: return 'data and networks do not know each other'
    if b[0] >= 20: return 'nothing imports a command'
    if b[0] in range(9, 20) and a[0] < 20: return 'nothing below a command imports a leaf'

@pytest.mark.parametrize('a,b,ok', [
    ((1, ''), (0, ''), 1), ((0, 'a'), (0, ''), 1), ((3, ''), (2, ''), 1), ((8, ''), (1, ''), 1), ((8, ''), (7, ''), 1), ((10, ''), (8, ''), 1),
    ((20, ''), (9, ''), 1), ((20, ''), (0, 'a'), 1), ((0, ''), (0, 'a'), 0), ((2, ''), (3, ''), 0), ((2, ''), (2, ''), 0), ((3, ''), (1, ''), 0),
    ((6, ''), (0, 'a'), 0), ((1, ''), (2, ''), 0), ((8, ''), (9, ''), 0), ((10, ''), (9, ''), 0), ((21, ''), (20, ''), 0), ((7, ''), None, 0)])
def test_the_import_rule_itself(a, b, ok): assert (broken(a, b) is None) == bool(ok)

def test_imports_seen():
    src = f'import os, {LIB.name}.a\nfrom .b import *\nfrom {LIB.name}.c import x\nfrom {LIB.name} import d, __version__\ndef f():\n    from . import e'
    assert sorted(imports(src)) == list('abcde')

def test_modules_import_one_way():
    srcs = {o.stem: o.read_text(encoding='utf-8') for o in LIB.glob('*.py') if not o.name.startswith('_')}
    nums = {k: chapter(v) for k, v in srcs.items()}
    assert [k for k, v in nums.items() if v is None] == ['all'], 'a module other than all.py comes from no numbered notebook'
    faults = [f'{k} imports {m}: {why}' for k, v in srcs.items() if k != 'all' for m in imports(v) if (why := broken(nums[k], nums.get(m)))]
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
    code, = [o for o in cells(NBS/'index.ipynb', 'code') if 'spade_learner' in o]
    for big, small in [('make_landcover()', 'make_landcover(n=40)'), ('fit(20)', 'fit(1)'), ('size=64', 'size=32')]:
        assert big in code
        code = code.replace(big, small)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, 'README.md', 'exec'), names := {})
    assert tuple(names['picture'].shape[-2:]) == (64, 64) and 0 <= names['picture'].min() < names['picture'].max() <= 1

# Each fact in one file

def test_project_fields_are_given_once():
    proj, ini = tomllib.loads(read('pyproject.toml'))['project'], settings()
    call, = [o for o in ast.walk(ast.parse(read('setup.py'))) if isinstance(o, ast.Call) and getattr(o.func, 'id', '') == 'setup']
    field = dict(author='authors', author_email='authors', license_expression='license', python_requires='requires-python',
                 install_requires='dependencies', extras_require='optional-dependencies')
    assert {field.get(k.arg, k.arg) for k in call.keywords} == set(proj['dynamic'])  # setuptools ignores others silently
    assert not set(proj) & set(proj['dynamic'])
    assert not set(ini) & {*set(proj) - {'dynamic'}, 'version', 'lib_name', 'user', 'repo', 'git_url', 'doc_host'}

def test_version_and_requirements_are_given_once():
    version = re.compile(r'^\s*(__version__|version)\s*[:=]', re.M)
    assert [o for o in ['pyproject.toml', 'settings.ini', 'CITATION.cff', 'nbs/_quarto.yml', 'spade_fastai/__init__.py'] if version.search(read(*o.split('/')))] \
        == ['spade_fastai/__init__.py']
    others = [o for pat in ['*requirements*.txt', 'environment*.y*ml', 'setup.cfg', 'Pipfile', 'tox.ini', 'pytest.ini', '.python-version'] for o in ROOT.glob(pat)]
    assert not others, f'settings.ini and pyproject.toml have what {others} say'

def test_copies_that_other_formats_need_agree():
    cff, urls, ini = yaml.safe_load(read('CITATION.cff')), tomllib.loads(read('pyproject.toml'))['project']['urls'], settings()
    assert (cff['license'], cff['repository-code'], cff['authors'][0]['name']) == (ini['license'], urls['Repository'], ini['author'])
    assert 'Apache License' in read('LICENSE') and ini['license'] == 'Apache-2.0'
    assert f'"{ini["min_python"]}"' in read('.github', 'workflows', 'test.yaml'), 'the oldest Python is tested'
    home = urls['Repository'].partition('github.com/')[2].split('/')
    for name in ['README.md', 'CONTRIBUTING.md']:
        assert {(o[0].lower(), o[1]) for o in re.findall(r'github\.com/([\w-]+)/(\w+)', read(name))} <= {tuple(home)}, name

def test_changelog_has_the_version():
    version = re.search(r'__version__ = "(.+)"', read('spade_fastai', '__init__.py'))[1]
    assert read('CHANGELOG.md').startswith('# Release notes\n\n<!-- do not remove -->\n')
    assert f'\n## {version}\n' in read('CHANGELOG.md'), f'CHANGELOG.md says nothing about {version}'

# Nothing of one machine

def test_no_device_and_no_machine_path():
    code = {o.name: o.read_text(encoding='utf-8') for o in LIB.glob('*.py')} | {o.name: '\n'.join(cells(o, 'code')) for o in notebooks()}
    cuda = [k for k, v in code.items() if re.search(r'\.cuda\(\)', v)]
    assert not cuda, f'.cuda() in {cuda}: take the device from an input'
    text = code | {o.name: o.read_text(encoding='utf-8') for o in notebooks()}  # with outputs
    local = re.compile(r'(?<![\w.:/~-])/(?:home|root|Users|work|tmp|mnt|media|opt|var|private|workspace)/[^\s"\']*|\b[A-Z]:\\+Users')
    found = {k: m[0] for k, v in text.items() if (m := local.search(v))}
    assert not found, f'paths of one machine: {found}'
