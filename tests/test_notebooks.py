"Every notebook runs. Cells flagged slow or cuda run when SPADE_TEST_FLAGS lists the flag."
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, get_start_method, set_start_method
import pytest
from nbdev.config import get_config
from nbdev.test import test_nb as run_nb
from conftest import ROOT

cfg = get_config(ROOT)
nbs = sorted(o for o in cfg.nbs_path.rglob('*.ipynb') if not any(p[0] in '._' for p in o.relative_to(ROOT).parts))

@pytest.mark.parametrize('nb', nbs, ids=[o.relative_to(cfg.nbs_path).as_posix() for o in nbs])
def test_notebook(nb):
    flags = os.environ.get('SPADE_TEST_FLAGS', '').split()
    spawn, usual = get_context('spawn'), (get_start_method(), True)             # which a notebook's own workers would inherit
    with ProcessPoolExecutor(1, spawn, set_start_method, usual) as alone:        # as a reader opens it: no import of another notebook helps
        passed, _ = alone.submit(run_nb, nb, skip_flags=cfg.tst_flags, force_flags=flags, basepath=ROOT).result()
    assert passed, f'{nb.name}: the failing cell is under "Captured stderr"'
