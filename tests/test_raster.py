"spade-raster: the same picture by any tile, in parts, after a kill; a valid COG of any depth; memory stays flat"
import gc, json, os, signal, subprocess, sys, time
from functools import partial
from types import SimpleNamespace
import numpy as np, pytest, torch
from conftest import ROOT

rasterio = pytest.importorskip('rasterio')
from spade_fastai.apps.marks import read_mark
from spade_fastai.apps.raster import RasterForm, RasterJob, as_stored, cog_options, draw_raster, noise_of, parts_of
from spade_fastai.core import OneHot
from spade_fastai.data.grids import same_grid, write_tiff
from spade_fastai.data.raster import Raster, Scale
from spade_fastai.nets.clade import CLADE, CLADEICPE
from spade_fastai.nets.inade import INADE
from spade_fastai.nets.oasis import NoisySPADE
from spade_fastai.nets.sean import SEAN
from spade_fastai.nets.starts import MapFieldStart, MapNoiseStart, MapStart, NoiseStart
from spade_fastai.nets.generator import SPADEGenerator
from spade_fastai.nets.norms import SPADE, AdaIN
from spade_fastai.fast.ways import plain_math

def network(cls=SPADEGenerator, norm=partial(SPADE, hidden=16), start=partial(MapFieldStart, nz=4), **kw):
    torch.manual_seed(0)
    gen = cls(13, 16, (4, 4, 2), (1, 1), norm, start=start, **kw).eval()
    gen.conv_img.weight.data.mul_(100)                                   # else it draws nearly grey
    for m in gen.modules():
        if isinstance(m, torch.nn.BatchNorm2d): m.running_mean.normal_(0, .3), m.running_var.uniform_(.5, 2)
    return gen

def a_mask(fn, h=300, w=240, **kw):
    blocks = np.random.default_rng(1).integers(0, 13, (h//20, w//20))
    return write_tiff(fn, np.kron(blocks, np.ones((20, 20))).astype(np.uint8), rasterio.Affine(2, 0, 0, 0, -2, 0),
                      'EPSG:32633', **kw)

def pixels(fn): return Raster(fn).read()[0]

def at_once(gen, mask, h, w, seed=3):
    "What the network, as it is written, draws for the whole mask: [H,W,3] uint8"
    job = RasterJob(gen, mask, mask.with_suffix('.x.tif'), seed=seed)
    ids = torch.from_numpy(pixels(mask)[..., 0].astype(np.int64))
    with torch.no_grad(), plain_math(): pic = gen(ids[None], noise_of(job, (0, h), (0, w)))[0]
    return ((pic.double() + 1)/2*255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()

def test_any_window_gives_what_the_network_draws_at_once(tmp_path):
    gen, mask = network(), a_mask(tmp_path/'mask.tif', 280, 240)
    whole = at_once(gen, mask, 280, 240)
    for window in (64, 256, 1024):
        with plain_math(): out = draw_raster(gen, mask, tmp_path/f'{window}.tif', seed=3, window=window)
        assert np.array_equal(pixels(out), whole), window
    assert same_grid(out, mask) and whole.std() > 5
    assert [read_mark(out)[k] for k in ('SYNTHETIC', 'SEED')] == ['YES', '3']

def test_any_tile_and_any_parts_give_the_same_picture(tmp_path):
    gen, mask = network(), a_mask(tmp_path/'mask.tif', 280, 240)
    draw = partial(draw_raster, gen, mask, seed=3, window=64)
    a, b = (pixels(draw(tmp_path/f'{tile}.tif', tile=tile)) for tile in (256, 1024))
    for part in ((3, 3), (1, 3), (2, 3), 'join'): draw(tmp_path/'parts.tif', part=part)
    jobs = [RasterJob(gen, mask, tmp_path/'x.tif', window=64, tile=tile) for tile in (256, 1024)]
    assert jobs[0].boxes == jobs[1].boxes and len(jobs[0].boxes) == 20               # the same is computed
    off = np.abs(a.astype(int) - at_once(gen, mask, 280, 240))
    assert np.array_equal(a, b) and np.array_equal(a, pixels(tmp_path/'parts.tif'))
    assert off.max() <= 1 and (off > 0).mean() < 1e-3 and a.std() > 5
    with rasterio.open(tmp_path/'256.tif') as ds: assert ds.block_shapes[0] == (256, 256)

def test_a_killed_run_goes_on_and_equals_one_that_was_not(tmp_path):
    gen, mask = network(), a_mask(tmp_path/'mask.tif')
    code = ('import torch, test_raster as t; from spade_fastai.apps.raster import draw_raster; g = t.network(); '
            'draw_raster(g, "mask.tif", "killed.tif", window=64)')
    env = {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT/"tests"}'}
    run = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code], cwd=tmp_path, env=env)
    parts, start = parts_of(RasterJob(gen, mask, tmp_path/'killed.tif')), time.time()
    while len(list(parts.glob('0*.npz'))) < 3 and run.poll() is None and time.time() - start < 200: time.sleep(.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = {o: o.stat().st_mtime_ns for o in parts.glob('0*.npz')}
    assert 3 <= len(done) < 20 and not (tmp_path/'killed.tif').exists()
    for other in (dict(seed=9, window=64), dict(window=128)):
        with pytest.raises(ValueError, match='another picture'): draw_raster(gen, mask, tmp_path/'killed.tif', **other)
    draw_raster(gen, mask, tmp_path/'killed.tif', part=(1, 1), window=64)
    assert all(o.stat().st_mtime_ns == t for o, t in done.items())                # not drawn again
    draw_raster(gen, mask, tmp_path/'killed.tif', part='join', window=64)
    whole = draw_raster(gen, mask, tmp_path/'one.tif', window=64)
    assert (tmp_path/'killed.tif').read_bytes() == whole.read_bytes() and not parts.exists()

@pytest.mark.parametrize('compress', ['deflate', 'zstd', 'none'])
def test_it_is_a_valid_cog(tmp_path, compress):
    cogeo = pytest.importorskip('rio_cogeo')
    mask = a_mask(tmp_path/'mask.tif', 640, 640)
    out = draw_raster(network(), mask, tmp_path/'out.tif', compress=compress, tile=256)
    good, errors, warnings = cogeo.cog_validate(out)
    assert good and not errors and not warnings
    with rasterio.open(out) as ds:
        assert ds.overviews(1) and ds.descriptions[0] == 'red (synthetic)' and ds.crs.to_epsg() == 32633
        assert [o.name for o in ds.colorinterp] == ['red', 'green', 'blue'] and ds.nodata is None
        assert (ds.compression.value if ds.compression else 'none').lower() == compress
    assert cog_options(RasterJob(network(), mask, tmp_path/'x.tif').form)['BIGTIFF'] == 'IF_SAFER'

def test_join_names_what_is_missing(tmp_path):
    gen, mask = network(), a_mask(tmp_path/'mask.tif', 160, 160)
    draw_raster(gen, mask, tmp_path/'o.tif', part=(2, 2), window=80)
    with pytest.raises(ValueError, match='2 of 4 pieces'):
        draw_raster(gen, mask, tmp_path/'o.tif', part='join', window=80)

class FourBands(SPADEGenerator): n_out = 4

SCALES = {'uint16': Scale([100, 200, 300, 0], [4000, 3000, 2000, 9000]), 'int16': Scale([-500]*4, [4000]*4),
          'float32': Scale([0]*4, [.4, .3, .2, .9])}

@pytest.mark.parametrize('kind', SCALES)
def test_numbers_are_written_as_the_reader_reads_them(tmp_path, kind):
    "What was drawn, stored by the scale and read by it, is what was drawn, to half a step of 8 bits"
    gen, scale, bands = network(FourBands), SCALES[kind], ('red', 'green', 'blue', 'near infrared')
    mask = a_mask(tmp_path/'mask.tif', 160, 160, nodata=7)
    plain = Raster(draw_raster(gen, mask, tmp_path/'8.tif', seed=3, names=bands)).read()
    out = draw_raster(gen, mask, tmp_path/f'{kind}.tif', seed=3, names=bands, scale=scale)
    data, valid = Raster(out).read()
    there = pixels(mask)[..., 0] != 7
    assert data.dtype == kind and data.shape == (160, 160, 4) and (valid == there).all() and (plain[1] == there).all()
    off = scale.uint8(data)[there].astype(int) - plain[0][there]
    assert np.abs(off).max() <= 1 and plain[0][there].std() > 5
    with rasterio.open(out) as ds:
        assert ds.descriptions == tuple(f'{o} (synthetic)' for o in bands) and ds.nodata == 7
        assert [o.name for o in ds.colorinterp] == ['red', 'green', 'blue', 'undefined']
    for bad, says in ((dict(scale=Scale([0]*2, [1]*2)), '2 bands'), (dict(names=('a', 'b')), 'draws 4 bands')):
        with pytest.raises(ValueError, match=says): draw_raster(gen, mask, tmp_path/'x.tif', **bad)

@pytest.mark.parametrize('nodata, scale, drawn, stored', [(0, None, -1, 1), (255, None, 1, 254), (9, None, 0, 128),
                                                          (0, Scale([0], [.4]), -1, np.float32(1e-45))])
def test_a_drawn_number_is_never_that_of_nodata(nodata, scale, drawn, stored):
    form = RasterForm(scale=scale)
    job = SimpleNamespace(form=form, dtype=form.dtype(), nodata=nodata)
    a = as_stored(job, np.full((1, 1, 2), drawn, np.float32), np.array([[True, False]]))
    assert a[0, 0].tolist() == [stored, nodata]

def test_what_is_missing_in_the_mask_is_missing_in_the_picture(tmp_path):
    mask = a_mask(tmp_path/'mask.tif', 80, 80, dtype='int16', nodata=-9999)        # does not fit into 8 bits
    with rasterio.open(mask, 'r+') as ds: ds.write(np.full((1, 20, 20), -9999, np.int16), window=((0, 20), (0, 20)))
    data, valid = Raster(out := draw_raster(network(), mask, tmp_path/'o.tif')).read()
    assert (data[:20, :20] == 0).all() and valid[20:].all() and valid[:, 20:].all() and not valid[:20, :20].any()
    with rasterio.open(out) as ds: assert ds.nodata == 0

EXACT = {'CLADE': dict(norm=CLADE), 'OASIS': dict(norm=partial(NoisySPADE, nz=4, hidden=16)),
         'a style': dict(norm=partial(AdaIN, nz=4, base='batch'), start=partial(MapNoiseStart, nz=4)),
         'one block each': dict(norm=[CLADE, partial(SPADE, hidden=16)])}

@pytest.mark.parametrize('name', EXACT)
def test_other_networks_that_look_no_further_are_exact(tmp_path, name):
    gen, mask = network(**EXACT[name]), a_mask(tmp_path/'mask.tif', 160, 160)
    whole = at_once(gen, mask, 160, 160)
    with plain_math(): assert np.array_equal(pixels(draw_raster(gen, mask, tmp_path/'c.tif', seed=3, window=80)), whole)
    a = pixels(draw_raster(gen, mask, tmp_path/'a.tif', seed=3, window=80)).astype(int)
    assert np.abs(a - whole).max() <= 1 and (a != whole).mean() < 1e-3 and whole.std() > 5

REFUSED = {'instance norm': (dict(norm=partial(SPADE, hidden=8, base='instance')), 'by windows'),
           'group norm': (dict(norm=partial(SPADE, hidden=8, base='group')), 'by windows'),
           'SEAN': (dict(norm=partial(SEAN, hidden=8, nz=4)), 'by windows'),
           'INADE': (dict(norm=partial(INADE, nz=4)), 'by windows'),
           'place in the region': (dict(norm=CLADEICPE), 'by windows'),
           'fixed start': (dict(start=partial(MapStart, size=(8, 8))), 'draws one size'),
           'noise alone': (dict(start=partial(NoiseStart, nz=4)), 'draws one size'),
           'edges': (dict(encode=partial(OneHot, edges=True)), 'edges of instances')}

@pytest.mark.parametrize('name', REFUSED)
def test_what_looks_at_the_whole_is_refused_by_name(tmp_path, name):
    kw, says = REFUSED[name]
    with pytest.raises(ValueError, match=says): draw_raster(network(**kw), a_mask(tmp_path/'m.tif'), tmp_path/'o.tif')
    assert not list(tmp_path.glob('o.tif*'))

def test_a_style_is_a_vector_and_other_generators_are_named(tmp_path):
    mask, z = a_mask(tmp_path/'m.tif', 80, 80), torch.randn(1, 4, generator=torch.Generator().manual_seed(1))
    a, b = (pixels(draw_raster(network(), mask, tmp_path/f'{i}.tif', z=o)) for i, o in enumerate((z, -z)))
    assert (a != b).any()
    for bad in (torch.randn(1, 4, 20, 20), torch.randn(2, 4)):
        with pytest.raises(ValueError, match='must be a style'): draw_raster(network(), mask, tmp_path/'o.tif', z=bad)
    other = torch.nn.Conv2d(1, 1, 1)
    with pytest.raises(ValueError, match='how far it looks'): draw_raster(other, mask, tmp_path/'o.tif')

def test_a_window_leaves_nothing_behind(tmp_path):
    gen, mask, kept = network(), a_mask(tmp_path/'mask.tif', 160, 160), []
    gc.collect()
    gc.disable()
    try:
        for i in range(1, 5):
            draw_raster(gen, mask, tmp_path/'o.tif', part=(i, 4), window=80)
            kept.append(sum(o.numel() for o in gc.get_objects() if type(o) is torch.Tensor))
    finally: gc.enable()
    assert kept[-1] <= kept[0]

GROWS = """import json, resource, sys; sys.path.insert(0, 'tools')
import raster, torch, tempfile
from pathlib import Path
torch.set_num_threads(1)
gen, tmp, peaks = raster.network(1), Path(tempfile.mkdtemp()), []
for side in (256, 1024):
    raster.draw_raster(gen, raster.a_mask(tmp/f'{side}.tif', side), tmp/f'o{side}.tif', window=128)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(json.dumps(peaks))"""

def test_memory_does_not_grow_with_the_map():
    pytest.importorskip('resource')
    run = subprocess.run([sys.executable, '-W', 'ignore', '-c', GROWS], cwd=ROOT, capture_output=True, text=True,
                         env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert run.returncode == 0, run.stderr
    small, large = json.loads(run.stdout.splitlines()[-1])
    assert large < 1.2*small
