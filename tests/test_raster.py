"spade-raster: the same picture by any window, in parts, after a kill; a valid COG; memory that does not grow"
import os, signal, subprocess, sys, time
from functools import partial
import numpy as np, pytest, torch
from conftest import ROOT

rasterio = pytest.importorskip('rasterio')
from spade_fastai.apps.marks import read_mark
from spade_fastai.apps.raster import RasterJob, draw_raster, noise_of, parts_of
from spade_fastai.data.grids import same_grid, write_tiff
from spade_fastai.data.raster import Raster
from spade_fastai.nets.starts import MapFieldStart
from spade_fastai.nets.generator import SPADEGenerator
from spade_fastai.nets.norms import SPADE
from spade_fastai.fast.ways import plain_math

def network():
    torch.manual_seed(0)
    norm, start = partial(SPADE, hidden=16), partial(MapFieldStart, nz=4)
    gen = SPADEGenerator(13, 16, (4, 4, 2), (1, 1), norm, start=start).eval()
    gen.conv_img.weight.data.mul_(100)                                   # else it draws nearly grey
    for m in gen.modules():
        if isinstance(m, torch.nn.BatchNorm2d): m.running_mean.normal_(0, .3), m.running_var.uniform_(.5, 2)
    return gen

def a_mask(fn, h=300, w=240):
    blocks = np.random.default_rng(1).integers(0, 13, (h//20, w//20))
    return write_tiff(fn, np.kron(blocks, np.ones((20, 20))).astype(np.uint8), rasterio.Affine(2, 0, 0, 0, -2, 0),
                      'EPSG:32633')

def pixels(fn): return Raster(fn).read()[0]

def test_any_window_gives_what_the_network_draws_at_once(tmp_path):
    gen, mask = network(), a_mask(tmp_path/'mask.tif', 280, 240)
    job = RasterJob(gen, mask, tmp_path/'x.tif', seed=3)
    ids = torch.from_numpy(pixels(mask)[..., 0].astype(np.int64))
    with torch.no_grad(), plain_math(): pic = gen(ids[None], noise_of(job, (0, 280), (0, 240)))[0]
    whole = ((pic.double() + 1)/2*255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    for tile in (64, 256, 1024):
        out = draw_raster(gen, mask, tmp_path/f'{tile}.tif', seed=3, tile=tile)
        assert np.array_equal(pixels(out), whole), tile
    assert same_grid(out, mask) and whole.std() > 5
    assert [read_mark(out)[k] for k in ('SYNTHETIC', 'SEED')] == ['YES', '3']

def test_a_killed_run_goes_on_and_equals_one_that_was_not(tmp_path):
    gen, mask = network(), a_mask(tmp_path/'mask.tif')
    code = ('import torch, test_raster as t; from spade_fastai.apps.raster import draw_raster; g = t.network(); '
            'draw_raster(g, "mask.tif", "killed.tif", tile=64)')
    env = {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT/"tests"}'}
    run = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code], cwd=tmp_path, env=env)
    parts, start = parts_of(RasterJob(gen, mask, tmp_path/'killed.tif')), time.time()
    while len(list(parts.glob('0*.npz'))) < 3 and run.poll() is None and time.time() - start < 200: time.sleep(.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = {o: o.stat().st_mtime_ns for o in parts.glob('0*.npz')}
    assert 3 <= len(done) < 20 and not (tmp_path/'killed.tif').exists()
    with pytest.raises(ValueError, match='another picture'):
        draw_raster(gen, mask, tmp_path/'killed.tif', seed=9, tile=64)
    draw_raster(gen, mask, tmp_path/'killed.tif', part=(1, 1), tile=64)
    assert all(o.stat().st_mtime_ns == t for o, t in done.items())                # not drawn again
    draw_raster(gen, mask, tmp_path/'killed.tif', part='join', tile=64)
    whole = draw_raster(gen, mask, tmp_path/'one.tif', tile=64)
    assert (tmp_path/'killed.tif').read_bytes() == whole.read_bytes() and not parts.exists()

def test_it_is_a_valid_cog(tmp_path):
    cogeo = pytest.importorskip('rio_cogeo')
    out = draw_raster(network(), a_mask(tmp_path/'mask.tif', 640, 640), tmp_path/'out.tif')
    good, errors, warnings = cogeo.cog_validate(out)
    assert good and not errors and not warnings
    with rasterio.open(out) as ds:
        assert ds.overviews(1) and ds.descriptions[0] == 'red (synthetic)' and ds.crs.to_epsg() == 32633

def test_join_names_what_is_missing(tmp_path):
    gen, mask = network(), a_mask(tmp_path/'mask.tif', 160, 160)
    draw_raster(gen, mask, tmp_path/'o.tif', part=(2, 2), tile=80)
    with pytest.raises(ValueError, match='2 of 4 pieces'):
        draw_raster(gen, mask, tmp_path/'o.tif', part='join', tile=80)

def test_a_norm_that_looks_at_the_whole_is_refused(tmp_path):
    gen = SPADEGenerator(13, 8, (2, 2), (1,), partial(SPADE, hidden=8, base='instance')).eval()
    with pytest.raises(ValueError, match='by windows'): draw_raster(gen, a_mask(tmp_path/'m.tif'), tmp_path/'o.tif')
