"What all tests share. Set before torch and matplotlib are imported: few threads (the networks are tiny), no window."
import os, random
AT_ONCE = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1))   # processes that share the tests among them
if AT_ONCE > 1: os.environ['OMP_NUM_THREADS'] = str(max(1, os.cpu_count()//AT_ONCE))  # more would wait for each other
os.environ.setdefault('OMP_NUM_THREADS', str(min(2, os.cpu_count())))
os.environ.setdefault('MPLBACKEND', 'Agg')
from importlib.util import find_spec
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Without extras (pip install . pytest) what needs one is left out, and the rest runs
NEEDS = dict(house='nbdev', project='nbdev', notebooks='nbdev', packaging='build', scenes='rasterio', types='mypy')
collect_ignore = [f'test_{k}.py' for k, v in NEEDS.items() if not find_spec(v)]

@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    "The whole suite runs in a process a core, at most four, where pytest-xdist is installed; `-n 0`: in one"
    whole = config.args_source == config.ArgsSource.TESTPATHS and 'PYTEST_XDIST_WORKER' not in os.environ
    if whole and getattr(config.option, 'numprocesses', 0) is None and not config.option.usepdb:
        config.option.numprocesses, config.option.dist = min(4, os.cpu_count()), 'worksteal'

@pytest.fixture(scope='session')
def root(): return ROOT

@pytest.fixture(scope='session')
def shared():
    "Folder of recorded outputs and sample data that are too large for the repository"
    path = Path(os.environ.get('SPADE_SHARED') or ROOT.parent/'shared')
    if path.is_dir(): return path
    msg = f'no folder {path}: set SPADE_SHARED to the folder of recorded outputs and sample data'
    (pytest.fail if os.environ.get('CI') == 'true' else pytest.skip)(msg)

@pytest.fixture
def fixture(request):
    "Recorded numbers by name: from the repository where they are small, else from the folder `shared`"
    from parity import Fixture, folder_of
    return lambda name, **kw: Fixture(folder_of(name, lambda: request.getfixturevalue('shared')), **kw)

@pytest.fixture(autouse=True)
def same_start():
    "Every test draws the same random numbers, whichever ran before it"
    import numpy as np, torch
    random.seed(42), np.random.seed(42), torch.manual_seed(42)
