"What pip gets: sdist and wheel are built in a copy and looked into"
import shutil, subprocess, sys, tarfile, zipfile
from importlib.metadata import PathDistribution
import pytest
from conftest import ROOT
from test_house import LIB, settings

@pytest.fixture(scope='module')
def dists(tmp_path_factory):
    "The sdist, and the wheel that is built from it"
    src = tmp_path_factory.mktemp('src')
    for o in [*ROOT.iterdir(), *LIB.glob('*.py'), *ROOT.glob('tests/*.py')]:
        new = src/o.relative_to(ROOT)
        new.parent.mkdir(exist_ok=True)
        if o.is_file(): shutil.copy(o, new)
    p = subprocess.run([sys.executable, '-m', 'build', '--no-isolation', '-o', 'out'], cwd=src, capture_output=True, text=True)
    assert p.returncode == 0, p.stdout[-2000:] + p.stderr
    return next(src.glob('out/*.tar.gz')), next(src.glob('out/*.whl'))

@pytest.fixture(scope='module')
def info(dists): return PathDistribution(next(o for o in zipfile.Path(dists[1]).iterdir() if o.name.endswith('.dist-info')))

def test_sdist_has_what_a_build_needs(dists):
    names = {o.partition('/')[2] for o in tarfile.open(dists[0]).getnames()}
    assert {'settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'PKG-INFO'} <= names
    assert not [o for o in names if o.startswith(('tests', 'nbs', 'tools'))]

def test_wheel_has_all_modules_and_nothing_else(dists):
    names = [o for o in zipfile.ZipFile(dists[1]).namelist() if '.dist-info/' not in o]
    assert sorted(names) == sorted(f'{LIB.name}/{o.name}' for o in LIB.glob('*.py'))

def test_metadata(info):
    ini, meta = settings(), info.metadata
    assert (meta['Name'], meta['License-Expression'], meta['Requires-Python']) == ('spade-fastai', 'Apache-2.0', f">={ini['min_python']}")
    assert f'__version__ = "{meta["Version"]}"' in (LIB/'__init__.py').read_text()
    assert (meta['Author'], meta['Author-email']) == (ini['author'], ini['author_email'])
    assert meta['License-File'] == 'LICENSE' and meta['Summary'] and meta['Description-Content-Type'] == 'text/markdown'
    assert meta.get_payload().startswith((ROOT/'README.md').read_text(encoding='utf-8')[:200])

def test_requirements_and_extras(info):
    ini = settings()
    extras = {k.removesuffix('_requirements'): v.split() for k, v in ini.items() if k.endswith('_requirements')}
    assert set(extras) == set(info.metadata.get_all('Provides-Extra')) == {'dev', 'geo', 'app', 'export', 'metrics'}
    want = ini['requirements'].split() + [f'{r}; extra == "{k}"' for k, v in extras.items() for r in v]
    assert sorted(info.requires) == sorted(want)
    assert {'fastai', 'torch', 'torchvision', 'matplotlib', 'numpy'} <= {o.partition('>')[0] for o in ini['requirements'].split()}

def test_entry_points(info, dists):
    points = {o.name: o for o in info.entry_points}
    assert {k: (o.group, o.value) for k, o in points.items()} == {
        **{f'spade-{k}': ('console_scripts', f'spade_fastai.{v}:main') for k, v in dict(train='train', check='check_command', bench='bench').items()}, 'spade_fastai': ('nbdev', 'spade_fastai._modidx:d')}
    for o in points.values(): o.load()  # both lead to something
