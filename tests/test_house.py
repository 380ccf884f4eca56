"Rules of the house that no single notebook can check, on the whole repository; test_rules.py tries them on examples"
import ast, re, shutil, subprocess, sys
import pytest
from fastcore.xtras import working_directory
from nbdev.clean import nbdev_clean
from nbdev.doclinks import nbdev_export
from conftest import ROOT
import rules
from rules import FLOOR, cells_of, chapter, imports
from house import LIB, NBS, code_cells, module_files, modules, none, notebooks, prose, python_files, text_of

BY_HAND = [LIB/'__init__.py', LIB/'all.py']

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
    most = {'.ipynb': 300_000, '.safetensors': 2_000_000}                              # the network in the box
    fat = {o: n for o, n in size.items() if n > most.get((ROOT/o).suffix, 1_000_000)}
    assert not fat, f'over 300 kB for a notebook or 1 MB for a file: {fat}'

# Of a size that can be read

def test_exported_cells_fit_a_screen():
    none(notebooks(), lambda o: rules.long_cells(cells_of(o)), 'over 40 lines')

def test_notebooks_can_be_read_in_one_sitting():
    none(notebooks(), lambda o: rules.too_large(cells_of(o)), 'make two of it, or move tests that no reader needs')

def test_lines_are_short():
    def long(o): return rules.long_lines('\n'.join(code_cells(o)) if o.suffix == '.ipynb' else text_of(o))
    none(notebooks() + python_files(), long, 'over 120 characters')

def test_signatures_are_short():
    cure = 'more than ten parameters: make an object of those that travel together'
    none(module_files(), lambda o: rules.long_signatures(text_of(o)), cure)

# Chapters

def test_chapters_have_a_title():
    reference = notebooks(NBS/'lib') + notebooks(NBS/'commands')
    assert len(reference) > 40
    none(reference, lambda o: rules.untitled(cells_of(o)), 'the first text is "# Title" and "> subtitle", a line each')

def test_chapters_are_finished():
    none(notebooks(), lambda o: re.findall(r'TODO[^\n]{0,40}', '\n'.join(c.src for c in cells_of(o))), 'not finished')

def test_chapters_are_linked():
    none(notebooks(), lambda o: rules.loose_chapters(prose(o)), 'link "chapter on …" to its notebook')

def test_links_lead_somewhere():
    texts = [*ROOT.glob('*.md'), *(ROOT/'.github').glob('*.md'), *ROOT.glob('tests/*/*.md')]
    def dead(o): return rules.dead_links(prose(o) if o.suffix == '.ipynb' else text_of(o), o.parent)
    none(notebooks() + texts, dead, 'a link leads nowhere')

def test_the_course_exports_nothing():
    none(notebooks(NBS/'course'), lambda o: [c.src[:60] for c in cells_of(o) if c.exported], 'only the library exports')

# Methods stand in their class

def test_no_patch_on_our_own_classes():
    ours = set().union(*map(rules.classes, modules().values()))
    none(module_files(), lambda o: rules.patched(text_of(o), ours), 'put the method into its class')

def test_networks_do_not_ask_for_exact_types():
    cure = 'a subclass, or a class of a reader, could not join'
    none(module_files(LIB/'nets'), lambda o: rules.exact_types(text_of(o)), cure)

def test_importing_a_module_changes_no_class_of_another():
    "One after the other, the lowest first, so that each import loads one module of ours"
    chapters = [chapter(v) for k, v in modules().items() if k != 'all']
    order = sorted(chapters, key=lambda o: (FLOOR[o.room], o.room if '.' in o.name else '', o.place))
    changed = rules.changes([f'spade_fastai.{o.name}' for o in order], ROOT)
    assert not changed, '\n'.join(['a class is whole when its own module is loaded', *changed])

# One word per thing

def test_one_word_per_thing():
    none(module_files(), lambda o: rules.wrong_words(text_of(o)), 'another word: see the table in CONTRIBUTING.md')

# Who may import whom

def test_a_module_is_where_its_notebook_is():
    home = {k: chapter(v) for k, v in modules().items()}
    assert [k for k, v in home.items() if v is None] == ['all'], 'every other module comes from a numbered notebook'
    moved = {k: v.name for k, v in home.items() if v and v.name != k}
    assert not moved, f'nbs/lib/nets/00_norms.ipynb exports nets.norms, but {moved}'
    homeless = {v.room for v in home.values() if v} - set(FLOOR)
    assert not homeless, f'tests/rules.py and CONTRIBUTING.md know no floor for {homeless}'

def test_modules_import_one_way():
    srcs = modules()
    home = {k: chapter(v) for k, v in srcs.items()}
    pairs = [(k, o) for k, v in srcs.items() if k != 'all' for o in sorted(set(imports(v, k, srcs)))]
    faults = [f'{k} imports {o}: {why}' for k, o in pairs if (why := rules.broken(home[k], home.get(o)))]
    assert not faults, '\n'.join(faults)

def test_nothing_private_crosses_files():
    cure = 'a name that other rooms use has no underscore and stands in an exporti cell'
    none(module_files(), lambda o: rules.private_imports(text_of(o)), cure)

def test_foreign_names_are_imported_one_by_one():
    none([o for o in module_files() if o not in BY_HAND], lambda o: rules.foreign_stars(text_of(o)), 'import by name')

# The one import of a student

THIEVES = '''small gap apart starts coverage plain stays brightness contrast translate cutout dense moments
    draw rng x y n i'''.split()     # names of insides that would take a student's variables away
FACE = '''SpadeDataLoaders SpadeItemList make_landcover check_masks spade_learner tiny generate load_spade load_official
    SPADE SPADEGenerator ConvEncoder Cond GANLearner EMA Checkpoint'''.split()
NAMES = '''import fastai.vision.all as f, spade_fastai.all as a
print(*(k for k, v in vars(a).items() if not k.startswith('_') and vars(f).get(k) is not v))'''

def test_all_imports_every_room_of_a_student():
    srcs = modules()
    told = set(imports(srcs['all'], 'all', srcs))
    assert not [o for o in told if o.split('.')[0] == 'commands'], 'commands'
    whole = re.findall(r'^from \.fast\.(\w+) import \*', srcs['all'], flags=re.M)
    assert set(whole) <= {'switch'}, 'insides of speed'
    rooms = 'core palette nets train learner drawing saving'.split()
    must = {k for k in srcs if k.split('.')[0] in rooms and '__all__ = []' not in srcs[k]}   # else all insides
    assert not must - told, f'all.py does not import {sorted(must - told)}'

def test_all_has_the_words_of_a_student_and_no_insides():
    p = subprocess.run([sys.executable, '-c', NAMES], capture_output=True, text=True, check=True, cwd=ROOT)
    ours = p.stdout.split()
    assert not (missing := sorted(set(FACE) - set(ours))), f'words of a student that are not there: {missing}'
    stolen = sorted(set(THIEVES) & set(ours))
    assert not stolen, f'variables that a student would lose: {stolen}'
    assert len(ours) <= 230, f'{len(ours)} names: {sorted(ours)}'

# Correct Python

def test_ruff():
    pytest.importorskip('ruff', reason='needs ruff: pip install "spade-fastai[dev]"')
    run = [sys.executable, '-m', 'ruff', 'check', '--output-format', 'concise', '--no-cache']
    p = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert p.returncode == 0, p.stdout[-4000:] + p.stderr

# Nothing of one machine

def test_no_device_and_no_machine_path():
    srcs = modules()
    code = srcs | {o.name: '\n'.join(code_cells(o)) for o in notebooks()}
    cuda = [k for k, v in code.items() if re.search(r'\.cuda\(\)', v)]
    assert not cuda, f'.cuda() in {cuda}: take the device from an input'
    def plain(o): return re.sub(r'\\n|\\u001b\[[\d;]*m', ' ', text_of(o))  # outputs too, without line ends and colours
    text = srcs | {o.name: plain(o) for o in notebooks()}
    roots = 'home|root|Users|work|tmp|mnt|media|opt|var|private|workspace'
    local = re.compile(rf'(?<![\w.:/~+-])/(?:{roots})/[^\s"\']*|\b[A-Z]:\\+Users')
    found = {k: m[0] for k, v in text.items() if (m := local.search(v))}
    assert not found, f'paths of one machine: {found}'
