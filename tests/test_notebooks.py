"Every notebook runs. Cells flagged slow or cuda run when SPADE_TEST_FLAGS lists the flag."
import multiprocessing, os
from concurrent.futures import ProcessPoolExecutor
import pytest
from nbdev.config import get_config
from nbdev.test import test_nb as run_nb
from conftest import ROOT

cfg = get_config(ROOT)
nbs = sorted(o for o in cfg.nbs_path.rglob('*.ipynb') if not any(p[0] in '._' for p in o.relative_to(ROOT).parts))

def run_alone(nb, **kwargs):
    "In a new process, as a reader opens it: no other notebook's import helps. Processes that it starts start as usual"
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    return run_nb(nb, **kwargs)

@pytest.mark.parametrize('nb', nbs, ids=[o.relative_to(cfg.nbs_path).as_posix() for o in nbs])
def test_notebook(nb):
    flags = os.environ.get('SPADE_TEST_FLAGS', '').split()
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as alone:
        passed, _ = alone.submit(run_alone, nb, skip_flags=cfg.tst_flags, force_flags=flags, basepath=ROOT).result()
    assert passed, f'{nb.name}: the failing cell is under "Captured stderr"'
