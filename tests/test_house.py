"Rules of the repository that no single notebook can check"
import configparser, hashlib, json, re, shutil, subprocess, sys, tomllib
import pytest, yaml
from fastcore.xtras import working_directory
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from nbdev.doclinks import nbdev_export
from conftest import ROOT
import rules
from rules import Cell, Chapter, FLOOR, cells_of, chapter, imports

LIB, NBS = ROOT/'spade_fastai', ROOT/'nbs'
BY_HAND = [LIB/'__init__.py', LIB/'all.py']

def read(name): return (ROOT/name).read_text(encoding='utf-8')
def text_of(path): return path.read_text(encoding='utf-8')
def notebooks(path=NBS): return sorted(o for o in path.rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts)
def code_cells(nb): return [o.src for o in cells_of(nb) if o.kind == 'code']
def prose(nb): return '\n\n'.join(o.src for o in cells_of(nb) if o.kind == 'markdown')
def module_files(path=LIB): return sorted(path.rglob('*.py'))
def python_files(): return [o for o in module_files() + sorted(ROOT.glob('t*/*.py')) if o.name != '_modidx.py']
def project(): return tomllib.loads(read('pyproject.toml'))['project']
def dotted(path): return '.'.join(path.relative_to(LIB).with_suffix('').parts)

def modules():
    "Source by name ('nets.norms') of every module that is a chapter or all.py"
    return {dotted(o): text_of(o) for o in module_files() if not o.name.startswith('_')}

def where(paths, faults):
    "One line for each fault that `faults` finds in a file"
    return [f'{o.relative_to(ROOT).as_posix()}: {f}' for o in paths for f in faults(o)]

def none_of(faults, cure): assert not faults, f'{cure}\n' + '\n'.join(faults)

@pytest.fixture
def house(tmp_path):
    "A copy of notebooks, modules and settings, which nbdev's commands may change"
    for o in [*notebooks(), *module_files(), ROOT/'pyproject.toml']:
        new = tmp_path/o.relative_to(ROOT)
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(o, new)
    with working_directory(tmp_path): yield tmp_path

# Exported, clean, small

def test_modules_are_what_the_notebooks_export(house):
    for o in module_files(house/LIB.name):
        if ROOT/o.relative_to(house) not in BY_HAND: o.unlink()
    nbdev_export()
    new = {o.relative_to(house) for o in house.rglob('*') if o.is_file()}
    old = {o.relative_to(ROOT) for o in [*notebooks(), *NBS.glob('llms.txt'), *module_files(), ROOT/'pyproject.toml']}
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
    for nb, src in ((o, c) for o in notebooks() for c in code_cells(o)):
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

# Of a size that can be read

def test_the_size_rules_themselves():
    small, big = ('#| export\n' + '\n'.join(['x = 1']*n) for n in (40, 41))
    assert not rules.long_cells([Cell('code', small), Cell('code', big.replace('#| export', '#| hide')), Cell('markdown', big)])
    assert len(rules.long_cells([Cell('code', big)])) == len(rules.long_cells([Cell('code', f'#| exporti\n{big}')])) == 1
    assert not rules.long_lines('a'*120) and rules.long_lines('a\n' + 'b'*121) == [f'line 2 has 121 characters: {"b"*50!r}']
    code = lambda n: Cell('code', '\n\n'.join(['x = 1']*n))
    assert not rules.too_large([code(250)]*2 + [Cell('markdown', 'text\n'*90)]*58)
    assert rules.too_large([code(250)]*2 + [code(1)]*59) == ['61 cells, at most 60', '559 lines of code, at most 500']

def test_exported_cells_fit_a_screen(): none_of(where(notebooks(), lambda o: rules.long_cells(cells_of(o))), 'over 40 lines')

def test_notebooks_can_be_read_in_one_sitting(): none_of(where(notebooks(), lambda o: rules.too_large(cells_of(o))), 'make two of it')

def test_lines_are_short():
    code = lambda nb: rules.long_lines('\n'.join(code_cells(nb)))
    none_of(where(notebooks(), code) + where(python_files(), lambda o: rules.long_lines(text_of(o))), 'over 120 characters')

def test_the_signature_rule_itself():
    args = ', '.join('abcdefghij')
    fine = [f'def f({args}, *args, **kwargs): pass', f'class C:\n    def f(self, {args}): pass\n    @classmethod\n    def g(cls, {args}): pass']
    assert not [o for src in fine for o in rules.long_signatures(src)]
    for src in (f'def f({args}, k): pass', f'def f({args}, *, k=1): pass', f'class C:\n    def f(self, /, k, {args}): pass'):
        assert rules.long_signatures(src) == ['f has 11 parameters']

def test_signatures_are_short():
    none_of(where(module_files(), lambda o: rules.long_signatures(text_of(o))), 'more than ten parameters: make an object of those that travel together')

# Chapters

def test_the_chapter_rules_themselves(tmp_path):
    title = Cell('markdown', '# Norms\n\n> From batch norm to SPADE')
    assert not rules.untitled([Cell('code', '#| default_exp x'), title])
    for bad in ('# Norms', '> text', '# Norms\n\n> one\n> two', '# Norms\n\n> one\n\nThe text.'): assert rules.untitled([Cell('markdown', bad), title])
    fine = 'see [chapter on folding](../fast/05_drawing.ipynb), or the [Chapter on\nlosses](x.ipynb), or the chapter on [norms](y.ipynb); a chapter only'
    assert not rules.loose_chapters(fine)
    assert rules.loose_chapters('A copy (chapter on folding), see chapters on it.') == ['chapter on folding', 'chapters on it']
    (tmp_path/'there.md').touch()
    text = '[a](there.md) [b](there.md#part) [c](gone.md) [d](https://x.org/gone) [e](#part) <img src="lost.png"> `x[0](y)`'
    assert rules.dead_links(text, tmp_path) == ['gone.md', 'y', 'lost.png']

def test_chapters_have_a_title_and_are_finished():
    reference = [o for o in notebooks() if o.parent.parts[len(NBS.parts):][:1] in [('lib',), ('commands',)]]
    assert len(reference) > 40
    none_of(where(reference, lambda o: rules.untitled(cells_of(o))), 'the first text is "# Title", an empty line, "> subtitle"')
    none_of(where(notebooks(), lambda o: re.findall(r'TODO[^\n]{0,40}', '\n'.join(c.src for c in cells_of(o)))), 'not finished')

def test_chapters_are_linked(): none_of(where(notebooks(), lambda o: rules.loose_chapters(prose(o))), 'link "chapter on …" to its notebook')

def test_links_lead_somewhere():
    texts = [ROOT/o for o in ('README.md', 'CONTRIBUTING.md', 'SECURITY.md', 'CHANGELOG.md', '.github/pull_request_template.md', 'tests/parity_data/README.md')]
    dead = lambda o: rules.dead_links(prose(o) if o.suffix == '.ipynb' else text_of(o), o.parent)
    none_of(where(notebooks() + texts, dead), 'a link leads nowhere')

def test_the_course_exports_nothing():
    none_of(where(notebooks(NBS/'course'), lambda o: [c.src[:60] for c in cells_of(o) if c.exported]), 'a course chapter exports nothing')

# Methods stand in their class

def test_the_rules_of_classes_themselves():
    ours = {'Mine', 'Own'}
    bad = ['@patch\ndef f(self:Mine): pass', '@patch(as_prop=True)\ndef f(self:"Mine"): pass', '@patch\ndef f(cls:(L,Mine)): pass', '@patch_to(Mine)\ndef f(self): pass',
           '@patch\ndef f(self:L|Mine, x): pass', 'Mine.f = lambda self: 1', 'def g():\n    m.Mine, Own.f = 1, 2\n    Own.f = 3', 'setattr(Mine, "f", 1)']
    assert [len(list(rules.patched(o, ours))) for o in bad] == [1]*len(bad)
    fine = '@patch\ndef f(self:Learner, m:Mine): pass\n@patch_to(L)\ndef g(self): pass\nx.Mine = 1\nMine.g(1)\nclass Own:\n    f = 1\nsetattr(x, "f", Mine)'
    assert not list(rules.patched(fine, ours))
    assert rules.exact_types('type(x) is SPADE and isinstance(x, int)\nx = type("N", (), {})\ntype(x).f is g') == ['type(x) is SPADE']
    assert len(rules.exact_types('x = [type(a) == B, C is not type(b), type(c) in (D, E)]')) == 3

def test_no_patch_on_our_own_classes():
    ours = set().union(*map(rules.classes, modules().values()))
    none_of(where(module_files(), lambda o: rules.patched(text_of(o), ours)), 'put the method into its class')

def test_networks_do_not_ask_for_exact_types():
    none_of(where(module_files(LIB/'nets'), lambda o: rules.exact_types(text_of(o))), 'a subclass or a class of a user cannot join')

CHANGED = """import importlib, sys
def state(): return {c: {k: id(v) for k, v in vars(c).items() if not k.startswith(('_abc', '__'))}
    for n, m in list(sys.modules.items()) if n.startswith('spade_fastai') for c in vars(m).values() if isinstance(c, type) and c.__module__ == n}
for name in sys.argv[1:]:
    before = state()
    importlib.import_module(name)
    after = state()
    for c in before:
        if before[c] != after[c]: print(name, 'changes', c.__module__, c.__name__, *dict(set(before[c].items()) ^ set(after[c].items())))
"""

def changes(names, path):
    p = subprocess.run([sys.executable, '-c', CHANGED, *names], capture_output=True, text=True, cwd=path)
    assert p.returncode == 0, p.stderr
    return p.stdout.splitlines()

def test_what_changes_a_class_is_seen(tmp_path):
    (tmp_path/'spade_fastai').mkdir()
    srcs = dict(__init__='', a='class A: pass', b='from .a import *\nclass B(A): x = 1', c='from .a import A\nA.y = 2')
    for k, v in srcs.items(): (tmp_path/f'spade_fastai/{k}.py').write_text(v)
    assert changes([f'spade_fastai.{o}' for o in 'abc'], tmp_path) == ['spade_fastai.c changes spade_fastai.a A y']

def test_importing_a_module_changes_no_class_of_another():
    "One after the other, the lowest first, so that each import loads one module of ours"
    chapters = [chapter(v) for k, v in modules().items() if k != 'all']
    order = sorted(chapters, key=lambda o: (FLOOR[o.room], o.room if '.' in o.name else '', o.place))
    none_of(changes([f'spade_fastai.{o.name}' for o in order], ROOT), 'a class is whole when its own module is loaded')

# One word per thing

def test_the_words_themselves():
    bad = ['def draw(n, rng): pass', 'class G:\n    def _draw(self): pass', 'def f(generator:torch.Generator=None): pass', 'def f(a,\n    gen=None, # of random numbers\n    b=1): pass',
           'def f(label_map): pass', 'class C:\n    def f(self): self.gen = torch.Generator("cpu").manual_seed(3)', 'g = torch.Generator()']
    assert [len(list(rules.wrong_words(o))) for o in bad] == [1]*len(bad)
    fine = 'def draw(net, mask): pass\ndef draw_z(n, rng=None): pass\ndef f(generator:nn.Module): pass\nrng = torch.Generator()\nx = torch.rand(3, generator=rng)'
    assert not list(rules.wrong_words(fine))

def test_one_word_per_thing():
    none_of(where(module_files(), lambda o: rules.wrong_words(text_of(o))), 'another word: see the table in CONTRIBUTING.md')

# The import rule

def test_a_module_is_where_its_notebook_is():
    names = {k: chapter(v) for k, v in modules().items()}
    assert [k for k, v in names.items() if v is None] == ['all'], 'every module but all.py comes from a numbered notebook'
    assert [(k, v.name) for k, v in names.items() if v and v.name != k] == [], 'nbs/lib/nets/00_norms.ipynb exports nets/norms.py'
    homeless = {v.room for v in names.values() if v} - set(FLOOR)
    assert not homeless, f'tests/rules.py knows no floor for {homeless}'

ALLOWED = """1palette>0core data.1raster>0core data.9items>data.2files data.9items>1palette data.check.0look>data.12layouts
    data.check.2findings>data.check.1cures nets.3generator>nets.0norms nets.0norms>0core train.4gan>train.0losses train.4gan>nets.4critic train.9resume>0core
    fast.5spade>fast.0windows fast.0windows>0core fast.5spade>nets.0norms 2learner>fast.0switch 2learner>train.9resume 2learner>data.9items 3drawing>2learner
    4saving>3drawing 3drawing>fast.5drawing 5official>4saving 6metrics>2learner 5official>nets.0norms commands.0train>6metrics commands.2check>commands.0train
    commands.2check>data.check.3report commands.1bench>5official"""
FORBIDDEN = """0core>1palette 0core>0core 0core>data.2files data.1raster>nets.0norms nets.0norms>data.1raster data.2files>data.9items data.12layouts>data.check.0look
    data.check.0look>data.check.1cures nets.0norms>nets.3generator nets.0norms>fast.0windows data.9items>fast.0windows train.4gan>fast.0switch 0core>fast.0windows
    train.4gan>data.9items fast.0windows>data.9items fast.5spade>train.0losses nets.0norms>train.0losses train.0losses>2learner 2learner>3drawing 3drawing>5official
    5official>6metrics 6metrics>5official 2learner>commands.0train 6metrics>commands.0train commands.0train>commands.1bench 2learner>0all
    2learner>apps.0paint""" # a room that has no floor yet may not be imported

def example(word):
    "'data.2files' is module data.files from notebook nbs/lib/data/02_files.ipynb"
    folder, number, name = re.fullmatch(r'((?:[a-z]+\.)*)(\d+)([a-z]+)', word).groups()
    nb = f"{'' if folder.startswith('commands') else 'lib/'}{folder.replace('.', '/')}{int(number):02}_{name}"
    return chapter(f'# AUTOGENERATED! DO NOT EDIT! File to edit: ../../nbs/{nb}.ipynb.')

@pytest.mark.parametrize('pair', f'{ALLOWED} {FORBIDDEN}'.split())
def test_the_import_rule_itself(pair):
    a, b = map(example, pair.split('>'))
    assert (rules.broken(a, b) is None) == (pair in ALLOWED.split()), rules.broken(a, b)

def test_chapters_seen():
    assert example('data.check.3report') == Chapter('data.check.report', (3, '')) and example('0core') == Chapter('core', (0, ''))
    assert rules.broken(example('0core'), None) and chapter('"written by hand"') is None

def test_imports_seen():
    known = {'core', 'nets.norms', 'nets.encoder', 'data.check.look', 'learner', 'palette'}
    src = """import os, spade_fastai.core
from .encoder import *
from ..learner import x
from spade_fastai.palette import y
from .. import __version__
from ..data.check.look import z
def f():
    from . import norms"""
    assert sorted(imports(src, 'nets.critic', known)) == sorted(known)
    src = 'from ..core import a, _b, __c__\nfrom . import norms\nimport spade_fastai.palette as p\nimport numpy as np\nx = norms._d, p._e, np._f, x._g, norms.h'
    assert sorted(rules.private_imports(src)) == ['_b', 'norms._d', 'p._e']
    assert rules.foreign_stars('from fastai.vision.all import *\nfrom .core import *\nfrom spade_fastai.all import *\nfrom math import pi') == ['fastai.vision.all']

def test_modules_import_one_way():
    srcs = modules()
    chapters = {k: chapter(v) for k, v in srcs.items()}
    pairs = [(k, m) for k, v in srcs.items() if k != 'all' for m in sorted(set(imports(v, k, srcs)))]
    faults = [f'{k} imports {m}: {why}' for k, m in pairs if (why := rules.broken(chapters[k], chapters.get(m)))]
    none_of(faults, 'a room imports only what lies below it')

def test_nothing_private_crosses_files():
    chapters = [o for o in module_files() if o not in BY_HAND]
    none_of(where(chapters, lambda o: rules.private_imports(text_of(o))), 'a name that others use has no underscore and stands in an exporti cell')
    none_of(where(chapters, lambda o: rules.foreign_stars(text_of(o))), 'import by name')

# The one import of a student

def test_all_is_a_face_without_insides():
    srcs = modules()
    told = set(imports(srcs['all'], 'all', srcs))
    assert not [o for o in told if o.split('.')[0] in ('fast', 'commands')], 'the insides of speed and commands are no words of a student'
    must = {k for k in srcs if k.split('.')[0] in ('nets', 'train') or k in ('core', 'palette', 'data.items', 'learner', 'drawing', 'saving')}
    assert not must - told, f'all.py does not import {sorted(must - told)}'
    code = "import fastai.vision.all as f, spade_fastai.all as a; print(*(k for k, v in vars(a).items() if not k.startswith('_') and vars(f).get(k) is not v))"
    ours = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    thieves = set('small gap apart starts coverage plain stays brightness contrast translate cutout dense moments draw rng x y n i'.split())
    assert not thieves & set(ours), f'variables that a student would lose: {sorted(thieves & set(ours))}'
    assert len(ours) <= 170, f'{len(ours)} names: {sorted(ours)}'

def test_ruff():
    pytest.importorskip('ruff', reason='needs ruff: pip install "spade-fastai[dev]"')
    p = subprocess.run([sys.executable, '-m', 'ruff', 'check', '--output-format', 'concise', '--no-cache'], cwd=ROOT, capture_output=True, text=True)
    assert p.returncode == 0, p.stdout[-4000:] + p.stderr

# README

def test_readme_in_sync():
    p = subprocess.run([sys.executable, ROOT/'tools/readme.py', '--check'], capture_output=True, text=True)
    assert p.returncode == 0, p.stdout + p.stderr

@pytest.mark.parametrize('name', ['README.md', 'CONTRIBUTING.md', 'SECURITY.md'])
def test_text_is_finished(name): assert 'TODO' not in read(name), re.findall(r'TODO\S*', read(name))

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

def test_nbdev_reads_pyproject():
    cfg, proj = get_config(ROOT), project()
    assert (cfg.author, cfg.author_email) == tuple(proj['authors'][0][k] for k in ('name', 'email'))
    assert cfg.min_python == '3.11' and 'nbdev' in cfg.keywords and cfg.description == proj['description']
    assert (cfg.lib_path, cfg.nbs_path, cfg.doc_path) == (LIB, NBS, ROOT/'_docs')
    assert f'{cfg.doc_host}{cfg.doc_baseurl}/' == proj['urls']['Documentation'] and cfg.git_url == proj['urls']['Repository']

def test_settings_and_setup_say_nothing_of_their_own():
    "Both are there for tools that ask for them by name"
    assert len(read('setup.py').splitlines()) == 2
    ini, cfg = configparser.ConfigParser(delimiters=['=']), get_config(ROOT)
    ini.read_string(read('settings.ini'))
    want = {k: cfg[k].relative_to(ROOT).as_posix() for k in ('lib_path', 'nbs_path', 'doc_path')}
    assert dict(ini['DEFAULT']) == {**want, 'lib_name': cfg.lib_name, 'tst_flags': ' '.join(cfg.tst_flags)}

def test_extras_hold_what_is_used():
    "Each package of an extra is imported, is what such a call needs, or is a tool that CONTRIBUTING or a workflow calls"
    extras = project()['optional-dependencies']
    assert set(extras) == {'geo', 'export', 'dev'} and extras['dev'][0] == 'spade-fastai[geo,export]'
    code = [text_of(o) for o in python_files() if o.name != 'test_house.py'] + ['\n'.join(code_cells(o)) for o in notebooks()]
    by_hand = [read('CONTRIBUTING.md'), *map(text_of, (ROOT/'.github/workflows').iterdir())]
    signs = dict(onnx=r'\bonnx\.export\(', onnxscript=r'\bonnx\.export\(', jupyter=r'\bJupyter\b', build="'-m', 'build'", ruff='ruff check')
    for o in (re.match(r'[\w-]+', o)[0] for v in extras.values() for o in v if '[' not in o):
        sign = signs.get(o, rf'(^\s*|; )(import|from) {o}\b|importorskip\(.{o}\b|build-backend = "{o}')
        assert re.search(sign, '\n'.join([*code, *by_hand, read('pyproject.toml')]), re.M), f'nothing needs {o}'

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
    oldest = subprocess.run([sys.executable, ROOT/'tools/oldest.py'], capture_output=True, text=True, check=True).stdout.split()
    assert oldest == [o.replace('>=', '==') for o in project()['dependencies'] if '>=' in o] and len(oldest) >= 2

def test_version_and_requirements_are_given_once():
    version = re.compile(r'^\s*(__version__|version)\s*[:=]\s*["\'\d]', re.M)
    files = ['spade_fastai/__init__.py', 'pyproject.toml', 'settings.ini', 'CITATION.cff', 'nbs/_quarto.yml']
    assert [o for o in files if version.search(read(o))] == files[:1]
    rivals = ['*requirements*.txt', 'environment*.y*ml', '*.cfg', 'Pipfile', 'tox.ini', 'pytest.ini']
    others = [o.name for pat in rivals for o in ROOT.glob(pat)]
    assert not others, f'pyproject.toml has what {others} say'

def test_copies_that_other_formats_need_agree():
    cff, proj = yaml.safe_load(read('CITATION.cff')), project()
    home = proj['urls']['Repository']
    assert (cff['license'], cff['repository-code'], cff['authors'][0]['name']) == (proj['license'], home, proj['authors'][0]['name'])
    assert 'Apache License' in read('LICENSE') and proj['license'] == 'Apache-2.0'
    for name in ['README.md', 'CONTRIBUTING.md', 'SECURITY.md']:
        assert set(re.findall(r'https://github\.com/[\w-]+/\w+', read(name))) == {home}, name

def test_changelog_has_the_version():
    version = re.search(r'__version__ = "(.+)"', read('spade_fastai/__init__.py'))[1]
    assert read('CHANGELOG.md').startswith('# Release notes\n\n<!-- do not remove -->\n')
    assert f'\n## {version}\n' in read('CHANGELOG.md'), f'CHANGELOG.md says nothing about {version}'

# Recorded numbers

def test_recorded_numbers_are_small_listed_and_unchanged(request):
    here, text = ROOT/'tests/parity_data', read('tests/parity_data/README.md')
    ours, theirs = [re.findall(r'\w+', ' '.join(re.findall(r'^\| ([a-z][\w, ]+) \|', o, re.M)).replace('folder', ''))
                    for o in text.split('Too large')]
    assert sorted(ours) == sorted(o.name for o in here.iterdir() if o.is_dir()) and not set(ours) & set(theirs)
    files = [o for o in here.rglob('*') if o.is_file()]
    assert max(o.stat().st_size for o in files) < 1_000_000 and sum(o.stat().st_size for o in files) < 2_000_000
    tests = read('tests/test_parity.py')
    for o in [*ours, *theirs]: assert o in tests or o.partition('_')[2].partition('_')[2] in tests or o.partition('_')[2] in tests, f'no test uses {o}'
    index = json.loads((request.getfixturevalue('shared')/'parity/index.json').read_text())
    assert {*ours, *theirs} <= {k.partition('/')[0] for k in index}
    for o in ours:
        kept = {f'{o}/{f.name}': hashlib.sha256(f.read_bytes()).hexdigest() for f in (here/o).iterdir()}
        assert kept == {k: index[k]['sha256'] for k in kept}, f'{o} was changed'

# Nothing of one machine

def test_no_device_and_no_machine_path():
    srcs = modules()
    code = srcs | {o.name: '\n'.join(code_cells(o)) for o in notebooks()}
    cuda = [k for k, v in code.items() if re.search(r'\.cuda\(\)', v)]
    assert not cuda, f'.cuda() in {cuda}: take the device from an input'
    plain = lambda o: re.sub(r'\\n|\\u001b\[[\d;]*m', ' ', o.read_text(encoding='utf-8'))  # outputs too, without line ends and colours
    text = srcs | {o.name: plain(o) for o in notebooks()}
    local = re.compile(r'(?<![\w.:/~+-])/(?:home|root|Users|work|tmp|mnt|media|opt|var|private|workspace)/[^\s"\']*|\b[A-Z]:\\+Users')
    found = {k: m[0] for k, v in text.items() if (m := local.search(v))}
    assert not found, f'paths of one machine: {found}'
