"What the tests of the repository look at: its files, and their text"
import tomllib
from conftest import ROOT
from rules import cells_of

LIB, NBS = ROOT/'spade_fastai', ROOT/'nbs'

def text_of(path): return path.read_text(encoding='utf-8')
def read(name): return text_of(ROOT/name)
def project(): return tomllib.loads(read('pyproject.toml'))['project']

def notebooks(path=NBS): return sorted(o for o in path.rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts)
def module_files(path=LIB): return sorted(path.rglob('*.py'))
def python_files():
    "Modules, tests and tools, without what nbdev writes for itself"
    return [o for o in module_files() + sorted(ROOT.glob('t*/*.py')) if o.name != '_modidx.py']

def modules():
    "Source by name ('nets.norms') of every module that is a chapter, and of all.py"
    files = [o for o in module_files() if not o.name.startswith('_')]
    return {'.'.join(o.relative_to(LIB).with_suffix('').parts): text_of(o) for o in files}

def code_cells(nb): return [o.src for o in cells_of(nb) if o.kind == 'code']
def prose(nb): return '\n\n'.join(o.src for o in cells_of(nb) if o.kind == 'markdown')

def none(paths, faults, cure):
    "No file of `paths` may have a fault; the message has a line for each, after the cure"
    found = [f'{o.relative_to(ROOT).as_posix()}: {f}' for o in paths for f in faults(o)]
    assert not found, '\n'.join([cure, *found])
