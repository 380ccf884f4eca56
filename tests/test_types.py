"A type checker, as an editor runs one, finds every name that a user types: methods stand in their classes"
import subprocess, sys
import pytest
from conftest import ROOT

USER = ROOT/'tests/user_lines.py'
KINDS = ('[attr-defined]', '[name-defined]', '[import-not-found]', '[syntax]')

@pytest.fixture(scope='module')
def missing(tmp_path_factory):
    "Names that mypy does not find in the user's lines, and in two wrong ones; one run, as most of it is reading torch"
    pytest.importorskip('mypy', reason='needs mypy: pip install "spade-fastai[dev]"')
    wrong = tmp_path_factory.mktemp('wrong')/'lines.py'
    wrong.write_text('from spade_fastai.all import *\nSpadeDataLoaders.from_nowhere()\nnot_there(3)\n')
    run = [sys.executable, '-m', 'mypy', '--no-error-summary', '--check-untyped-defs', USER, wrong]
    out = subprocess.run(run, capture_output=True, text=True, cwd=ROOT)
    assert not out.stderr, out.stderr
    found = [o for o in out.stdout.splitlines() if o.endswith(KINDS)]
    return {k: [o for o in found if f"/{k}:" in f"/{o}"] for k in (USER.name, wrong.name)}

def test_a_missing_name_is_seen(missing):
    first, second = missing['lines.py'][-2:]
    assert 'from_nowhere' in first and 'not_there' in second

def test_every_name_of_twenty_user_lines_is_found(missing):
    lines = [o for o in USER.read_text().splitlines() if o.strip() and not o.startswith('"')]
    assert len(lines) >= 20
    assert not missing[USER.name], '\n'.join(missing[USER.name])
