"Rasters and large scenes: real georeferenced files against rasterio and numpy by hand; splits, weights, memory"
import csv, os, subprocess, sys, warnings
from functools import partial
from pathlib import Path
import numpy as np, pytest
from fastcore.test import expect_fail
import rasterio
from rasterio.transform import Affine
from rasterio.warp import reproject, transform as warp_points
from rasterio.windows import Window
from PIL import Image
from spade_fastai.core import plain
from spade_fastai.palette import LANDCOVER_CODES
from spade_fastai.data.landcover import landcover_tile
from spade_fastai.data.grids import *
from spade_fastai.data.raster import *
from spade_fastai.data.scenes import *
from spade_fastai.data.areas import *
from spade_fastai.data.areas import gap
from spade_fastai.data.chips import *
from spade_fastai.data.chips import count_classes, one_class, pieces, starts

@pytest.fixture(scope='module')
def geo(shared): return shared/'data/geo'

@pytest.fixture(scope='module')
def dubai(shared): return shared/'data/landcover'

def stored(fn, **kw):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with rasterio.open(fn) as f: return np.moveaxis(f.read(**kw), 0, -1)

def write(fn, a, transform=Affine(1, 0, 350_000, 0, -1, 4_300_000), crs='EPSG:32618', **kw):
    a = a[..., None] if a.ndim == 2 else a
    prof = dict(driver='GTiff', height=a.shape[0], width=a.shape[1], count=a.shape[2], dtype=a.dtype,
                transform=transform, crs=crs) | kw
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with rasterio.open(fn, 'w', **prof) as f: f.write(np.moveaxis(a, -1, 0))
    return fn

def by_hand(src, dst, fill):
    "Nearest pixels of `src` under the pixel centres of `dst`, one at a time, for grids that point north in one CRS"
    with rasterio.open(src) as s, rasterio.open(dst) as d:
        a, ts, td, size = s.read(1), s.transform, d.transform, d.shape
    res = np.full(size, fill, np.int32)
    for r in range(size[0]):
        for c in range(size[1]):
            x, y = td.c + (c + .5)*td.a, td.f + (r + .5)*td.e
            i, j = int(np.floor(round((y - ts.f)/ts.e, 6))), int(np.floor(round((x - ts.c)/ts.a, 6)))
            if 0 <= i < a.shape[0] and 0 <= j < a.shape[1]: res[r, c] = a[i, j]
    return res

# Real files, as stored

def test_pixels_that_are_not_square(geo):
    d = geo/'chesapeake_naip'
    image, nlcd = open_raster(next(d.glob('*naip-new.tif'))), open_raster(next(d.glob('*nlcd.tif')))
    assert same_grid(image, nlcd) and abs(image.grid.transform[0]) != abs(image.grid.transform[4])
    assert '23.5923 x 29.4615' in str(image.grid) and 'EPSG:26917' in str(image.grid)
    assert (nlcd.ids() == stored(nlcd.fns[0])[..., 0]).all() and nlcd.ids().max() == 82
    assert (nlcd.ids((17, 200, 31, 59)) == stored(nlcd.fns[0], window=Window(200, 17, 59, 31))[..., 0]).all()
    assert (image.image() == stored(image.fns[0])[..., :3]).all()                 # the fourth band is not transparency
    assert (open_raster(image.fns[0], bands=(4, 1, 2)).image() == stored(image.fns[0])[..., [3, 0, 1]]).all()

def test_16_bits_scaled_by_percentiles_without_nodata(geo):
    fn = geo/'baguio_landsat/merged-landsat.tif'
    said = 'merged-landsat.tif has 6 bands, not named; say which are red, green and blue'
    with expect_fail(ValueError, said): open_raster(fn).image()
    a = stored(fn)[..., [2, 1, 0]]
    seen = (a != 0).any(-1)                                                       # the slanted border is 0 in all bands
    assert 0 < seen.mean() < 1
    lo, hi = np.percentile(a[seen], (2, 98), axis=0)
    want = np.where(seen[..., None], np.rint(((a - lo)/(hi - lo)).clip(0, 1)*255), 0)
    r = open_raster(fn, bands=(3, 2, 1))
    assert np.abs(r.image().astype(int) - want).max() <= 1 and (r.image() == want).mean() > .999
    assert r.scale.pct == (2, 98) and np.allclose(r.scale.lo, lo) and np.allclose(r.scale.hi, hi)
    assert (r.image((100, 50, 64, 80)) == r.image()[100:164, 50:130]).all()
    one = open_raster(fn, (3, 2, 1), partial(fit_scale, pct=(0, 100)))
    assert np.allclose(one.fitted().hi, a[seen].max(0)) and np.allclose(one.fitted().lo, a[seen].min(0))

@pytest.mark.parametrize('mask', ['landcover-30m.tif', 'landcover.tif'])
def test_masks_on_an_off_by_one_and_on_a_finer_grid(geo, mask):
    d = geo/'baguio_landsat'
    image, mask = open_raster(d/'merged-landsat.tif'), open_raster(d/mask)
    assert not same_grid(mask, image) and check_grids(mask, image) > .99
    want = by_hand(mask.fns[0], image.fns[0], -9)
    got = mask.ids(grid=image.grid, fill=-9)
    assert (np.where(want == 0, -9, want) == got).all()                           # 0 is this file's NoData
    assert (mask.ids((30, 40, 50, 60), image.grid, -9) == got[30:80, 40:100]).all()

def test_a_grid_shifted_by_part_of_a_pixel_with_nodata_32767(geo):
    d = geo/'storm_lake'
    image, evt = open_raster([d/f'sr_b{i}_20200829.tif' for i in (4, 5, 6)]), open_raster(d/'storml_evt.tif')
    assert (image.count, evt.nodata) == (3, 32767)
    assert (image.read()[0] == np.concatenate([stored(o) for o in image.fns], -1)).all()
    got = evt.ids(grid=image.grid, fill=-9)
    want = by_hand(evt.fns[0], image.fns[0], -9)
    assert (np.where(want == 32767, -9, want) == got).all() and (got == -9).any() and got.max() > 7000
    gdal = np.full(image.size, -9, np.int16)                                      # and GDAL's own warper
    with rasterio.open(evt.fns[0]) as s, rasterio.open(image.fns[0]) as t:
        reproject(rasterio.band(s, 1), gdal, dst_transform=t.transform, dst_crs=t.crs, dst_nodata=-9,
                  init_dest_nodata=True)
    assert (gdal == got).all()
    assert (evt.ids()[evt.read()[1]] == stored(evt.fns[0])[..., 0][stored(evt.fns[0])[..., 0] != 32767]).all()

def test_thirteen_bands_and_labels_of_minus_one(geo):
    d = geo/'sen1floods11_spain'
    s2, label = d/'Spain_7370579_S2Hand.tif', open_raster(d/'Spain_7370579_LabelHand.tif')
    with expect_fail(ValueError, 'has 13 bands, not named'): open_raster(s2).image()
    assert (label.ids() == stored(label.fns[0])[..., 0]).all() and set(np.unique(label.ids())) <= {-1, 0, 1}
    r, a = open_raster(s2, (4, 3, 2)), stored(s2)[..., [3, 2, 1]].astype(float)
    seen = (a != 0).any(-1)
    lo, hi = np.percentile(a[seen], (2, 98), axis=0)
    assert np.abs(r.image()[seen] - np.rint(((a[seen] - lo)/(hi - lo)).clip(0, 1)*255)).max() <= 1
    assert same_grid(s2, label)                                                   # they differ by 1e-17 degrees

def test_another_projection_point_by_point(tmp_path):
    ids, _ = landcover_tile(5, (200, 240))
    mask = open_raster(write(tmp_path/'utm.tif', ids, Affine(3, 0, 350_000, 0, -3, 4_300_600)))
    grid = Grid(150, 170, (4e-5, 0, -76.7300, 0, -3e-5, 38.8410), 'EPSG:4326')
    x, y = np.meshgrid(np.arange(170) + .5, np.arange(150) + .5)
    lon, lat = (-76.7300 + 4e-5*x).ravel(), (38.8410 - 3e-5*y).ravel()
    gx, gy = (np.array(o) for o in warp_points('EPSG:4326', 'EPSG:32618', lon, lat))
    c, r = np.floor((gx - 350_000)/3).astype(int), np.floor((4_300_600 - gy)/3).astype(int)
    inside = (c >= 0) & (r >= 0) & (c < 240) & (r < 200)
    want = np.where(inside, ids[r.clip(0, 199), c.clip(0, 239)], 99).reshape(150, 170)
    assert .2 < inside.mean() < 1 and (mask.ids(grid=grid, fill=99) == want).all()
    assert abs(check_grids(mask, grid) - inside.mean()) < .02

def test_rotated_grid(tmp_path):
    ids, _ = landcover_tile(5, 96)
    t = Affine.translation(350_000, 4_300_000)*Affine.rotation(30)*Affine.scale(2, -2)
    r = open_raster(write(tmp_path/'turned.tif', ids, t))
    assert 'of 2 x 2, rotated,' in str(r.grid)
    grid = Grid(40, 40, (3, 0, 350_020, 0, -3, 4_300_040), 'EPSG:32618')
    want = np.full((40, 40), 99)
    for i in range(40):
        for j in range(40):
            c, q = ~t*(350_020 + 3*(j + .5), 4_300_040 - 3*(i + .5))
            if 0 <= c < 96 and 0 <= q < 96: want[i, j] = ids[int(q), int(c)]
    assert (r.ids(grid=grid, fill=99) == want).all() and (want != 99).any()

def tiles(w, h, **kw): return dict(tiled=True, blockxsize=w, blockysize=h, **kw)

@pytest.mark.parametrize('kw', [dict(BIGTIFF='YES'), tiles(32, 16, compress='lzw', predictor=2), dict(compress='zstd'),
                                dict(compress='packbits'), tiles(64, 64, compress='deflate', interleave='band')])
@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'int16', 'int32', 'float32'])
def test_every_kind_of_tiff_keeps_its_ids(tmp_path, kw, dtype):
    rng = np.random.default_rng(0)
    if dtype == 'float32': kw = {k: v for k,v in kw.items() if k != 'predictor'}
    lo, hi = {'uint8': (0, 256), 'uint16': (0, 65536), 'int16': (-300, 32768), 'int32': (-70_000, 2**31),
              'float32': (-100, 5000)}[dtype]
    a = rng.integers(lo, hi, (70, 90)).astype(dtype)
    r = open_raster(write(tmp_path/'a.tif', np.dstack([a, a[::-1]]), **kw), bands=2)
    assert (r.ids() == a[::-1].astype(int)).all() and (r.ids((5, 33, 40, 57)) == a[::-1][5:45, 33:].astype(int)).all()

def test_internal_mask_counts_as_nodata_and_alpha_does_not(tmp_path):
    rgb = landcover_tile(5, 64)[1] + 1
    fn = write(tmp_path/'m.tif', rgb, photometric='rgb')
    there = np.arange(64*64).reshape(64, 64) % 3 > 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(fn, 'r+') as f:
        f.write_mask(there.astype(np.uint8)*255)
    r = open_raster(fn)
    assert r.may_miss and (r.read()[1] == there).all()
    alpha = open_raster(write(tmp_path/'a.tif', np.dstack([rgb, rgb[..., 0]*0]), photometric='rgb', alpha='yes'))
    assert (alpha.image() == rgb).all() and not alpha.may_miss

def test_without_rasterio_the_message_names_the_extra(tmp_path):
    fn = write(tmp_path/'geo.tif', landcover_tile(5, 64)[0])
    code = ("import sys; sys.modules['rasterio'] = None\nfrom spade_fastai.data.grids import *\n"
            f"print(grid_of({str(tmp_path/'p.tif')!r}))\ntry: grid_of({str(fn)!r})\nexcept ImportError as e: print(e)")
    Image.fromarray(landcover_tile(5, 64)[0]).save(tmp_path/'p.tif')
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True,
                         cwd=Path(__file__).parent.parent).stdout
    assert '64x64 pixels (width x height), no georeference' in out
    assert f'{fn} needs rasterio: pip install "spade-fastai[geo]"' in out

# Scenes: real ones

def leak(tp):
    "Smallest distance between a training and a validation chip"
    land, box = tp.scenes.boxes(tp.pool)
    t, v = np.unique(tp.train), np.unique(tp.valid)
    both = [l for l in np.unique(land) if (land[t] == l).any() and (land[v] == l).any()]
    return min(gap(box[t[land[t] == l]], box[v[land[v] == l]]) for l in both)

def test_dubai_one_class_chips_before_and_after(dubai):
    scenes = Scenes(dubai/'images', dubai/'masks', dubai/'class_dict.csv')
    grid = TilePairs(scenes, place=OnGrid(), split=BlockSplit(0))
    whole = (grid.pool[:, 1] % 256 == 0) & (grid.pool[:, 2] % 256 == 0)
    assert whole.sum() == 1305 and (grid.counts[whole].max(1) > .95*256*256).sum() == 307
    for i in (0, 700, 1500):
        c, = grid.chips([i])
        with Image.open(scenes.masks[c.scene]) as im: a = np.array(im.convert('RGB'))[c.y:c.y+256, c.x:c.x+256]
        n = np.zeros(6, int)
        for color,k in scenes.reader.table.items(): n[k] += (a == color).all(-1).sum()
        assert n.tolist() == grid.counts[i].tolist()
    tp = TilePairs(scenes)
    even, weighted = one_class(tp.counts), one_class(tp.counts[tp.train])
    assert even > .2 and weighted < .6*even
    t = tp.table()
    assert (t.training['building'] > t.land['building']) and (t.training['land_unpaved'] < t.land['land_unpaved'])
    assert leak(tp) >= 64
    middle = TilePairs(scenes, split=SceneSplit([f'tile{i}_part005' for i in range(1, 9)]))
    part = lambda which: {scenes.masks[i].stem[-7:] for i in middle.pool[which][:, 0]}
    assert part(middle.valid) == {'part005'}
    assert part(middle.train) == {f'part00{i}' for i in range(1, 10)} - {'part005'}

def test_baguio_from_two_grids_to_batches(geo):
    d = geo/'baguio_landsat'
    names = {1: 'water', 2: 'trees', 5: 'crops', 7: 'built', 8: 'bare', 10: 'clouds', 11: 'range'}
    for mask in ('landcover-30m.tif', 'landcover.tif'):
        tp = tile_pairs(d/'merged-landsat.tif', d/mask, ids=names, bands=(3, 2, 1), size=32, max_nodata=.2)
        r = tp.scenes.reader
        assert (r.ignore, r.codes) == (0, list(names.values()))
        raw, seen = by_hand(d/mask, d/'merged-landsat.tif', 0), (stored(d/'merged-landsat.tif')[..., :3] != 0).any(-1)
        want = np.full(raw.shape, 7)
        for i,v in enumerate(names): want[(raw == v) & seen] = i
        for c in tp.chips(tp.train[:30]):
            chip = want[c.y:c.y+32, c.x:c.x+32]
            assert (tp.scenes.labels(c) == chip).all() and (chip == 7).mean() <= .2
        assert leak(tp) >= 8
    dls = tp.transform(item_tfms=[]).dataloaders(bs=4, shuffle=False, drop_last=False)
    pic = open_raster(d/'merged-landsat.tif', (3, 2, 1)).image()
    m, i = next(iter(dls.valid))
    for c, x, y in zip(tp.chips(tp.valid), m, i, strict=False):
        assert (plain(x).numpy() == want[c.y:c.y+32, c.x:c.x+32]).all()
        assert np.abs(plain(y).permute(1, 2, 0).numpy() - (pic[c.y:c.y+32, c.x:c.x+32]/127.5 - 1)).max() < 1e-5
    assert (dls.ignore, dls.size, dls.n_classes) == (0, (32, 32), 7)

def test_storm_lake_sparse_ids_and_band_files(geo):
    d = geo/'storm_lake'
    with open(d/'LF20_EVT_220.csv', newline='') as f: rows = list(csv.DictReader(f))
    key = next(k for k in rows[0] if k.upper() in ('VALUE', 'EVT_VALUE', 'ID'))
    label = next(k for k in rows[0] if 'NAME' in k.upper())
    used = set(np.unique(stored(d/'storml_evt.tif'))) - {32767}
    names = {int(r[key]): r[label] for r in rows if int(r[key]) in used}
    assert len(names) == len(used)
    bands = [d/f'sr_b{i}_20200829.tif' for i in (6, 5, 4)]
    tp = tile_pairs([bands], [d/'storml_evt.tif'], ids=names, size=32, split=BlockSplit(.2, margin=4))
    raw = by_hand(d/'storml_evt.tif', d/'sr_b4_20200829.tif', 32767)
    to = {v: tp.scenes.reader.codes.index(n) for v,n in names.items()}
    n = tp.scenes.reader.n_classes
    want = np.vectorize(lambda v: to.get(v, n))(raw)
    want[np.stack([stored(d/f'sr_b{i}_20200829.tif')[..., 0] for i in (4, 5, 6)]).max(0) == 0] = n
    assert tp.scenes.reader.ignore == 32767
    assert (tp.scenes.labels(Chip(0, 0, 0, *want.shape)) == want).all()
    assert leak(tp) >= 4

def test_sen1floods_share_of_nodata(geo):
    d = geo/'sen1floods11_spain'
    kw = dict(codes=['land', 'water'], bands=(4, 3, 2), size=64, ignore=-1)
    label, image = stored(d/'Spain_7370579_LabelHand.tif')[..., 0], stored(d/'Spain_7370579_S2Hand.tif')[..., [3, 2, 1]]
    void = (label == -1) | (image == 0).all(-1)
    for most in (0, .1, .5):
        tp = tile_pairs(d/'Spain_7370579_S2Hand.tif', d/'Spain_7370579_LabelHand.tif', max_nodata=most, **kw)
        share = np.array([void[y:y+64, x:x+64].mean() for _,y,x,_,_ in tp.pool])
        n = sum(void[y:y+64, x:x+64].mean() <= most for y in range(0, 449, 16) for x in range(0, 449, 16))
        assert share.max() <= most and len(tp.pool) == n
    with expect_fail(ValueError, 'Spain_7370579_LabelHand.tif has id -1; classes are 0..1'):
        tile_pairs(d/'Spain_7370579_S2Hand.tif', d/'Spain_7370579_LabelHand.tif', **{**kw, 'ignore': None})

# Splits

@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('margin', [0, 10, 40])
def test_no_training_chip_comes_near_a_validation_chip(tmp_path, seed, margin):
    ids, rgb = landcover_tile([1, 0], (288, 288))
    t = Affine(1, 0, 350_000, 0, -1, 4_300_000)
    shift = [(0, 0), (200, 0), (0, 250), (230, 260)]                    # four files of one mosaic that overlap
    files = []
    for k,o in enumerate(t*Affine.translation(*s) for s in shift):
        files.append((write(tmp_path/f'i{k}.tif', rgb, o), write(tmp_path/f'm{k}.tif', ids, o)))
    cut = lambda: tile_pairs(*zip(*files, strict=True), LANDCOVER_CODES, size=(32, 48),
                             split=BlockSplit(.2, margin=margin), seed=seed)
    tp, again = cut(), cut()
    origin = np.array(shift)[tp.pool[:, 0]][:, [1, 0, 1, 0]]
    ground = tp.pool[:, [1, 2, 1, 2]] + np.stack([0*tp.pool[:, 3], 0*tp.pool[:, 3], *tp.pool[:, 3:].T], 1) + origin
    tr, va = ground[tp.train], ground[tp.valid]
    # all pairs, independent of `gap`
    near = np.maximum(tr[:, None, :2] - va[None, :, 2:], va[None, :, :2] - tr[:, None, 2:]).max(-1)
    assert near.min() >= margin and len(tp.valid) > 5 and len(tp.train) > 50
    assert near.min() == pytest.approx(leak(tp))
    assert (again.train == tp.train).all() and (again.valid == tp.valid).all()

def test_files_of_one_place_in_two_projections_share_their_blocks(tmp_path):
    ids, rgb = landcover_tile([1, 1], 256)
    a = write(tmp_path/'ia.tif', rgb), write(tmp_path/'ma.tif', ids)
    w, s, e, n = rasterio.warp.transform_bounds('EPSG:32618', 'EPSG:4326', 350_000, 4_300_000 - 256, 350_256, 4_300_000)
    t = Affine((e - w)/256, 0, w, 0, -(n - s)/256, n)
    b = write(tmp_path/'ib.tif', rgb, t, 'EPSG:4326'), write(tmp_path/'mb.tif', ids, t, 'EPSG:4326')
    tp = tile_pairs([a[0], b[0]], [a[1], b[1]], LANDCOVER_CODES, size=32, split=BlockSplit(.2))
    land, box = tp.scenes.boxes(tp.pool)
    assert set(land) == {0} and {0, 1} == set(tp.pool[tp.train][:, 0])
    assert leak(tp) >= 8
    one = tp.scenes.boxes([Chip(1, 0, 0, 256, 256)])[1][0]
    assert np.abs(one - [0, 0, 256, 256]).max() < 12                              # the same ground, a little turned

def test_what_cannot_be_split_is_said(tmp_path):
    ids, rgb = landcover_tile([1, 1], 128)
    files = write(tmp_path/'i.tif', rgb), write(tmp_path/'m.tif', ids)
    for size, split, said in [(96, BlockSplit(), 'no chip is left for'),
                              (32, SceneSplit(0), 'all 1 scenes are held back'),
                              (32, SceneSplit('x'), 'there is no scene x to hold back; scenes are 0..0, or m.tif')]:
        with expect_fail(ValueError, said): tile_pairs(*files, LANDCOVER_CODES, size=size, split=split)
    tp = tile_pairs(*files, LANDCOVER_CODES, size=32, split=BlockSplit(0))
    assert len(tp.valid) == 0 and len(tp.dataloaders(bs=4).valid) == 0

# Which chips

def test_picks_follow_the_weights(tmp_path):
    ids = np.zeros((256, 1024), np.uint8)
    ids[:, 960:] = 1                                                              # one column of chips in sixteen
    f = write(tmp_path/'i.tif', np.dstack([ids*200]*3)), write(tmp_path/'m.tif', ids)
    tp = lambda **kw: tile_pairs(*f, ['sand', 'road'], size=64, split=BlockSplit(0), **kw)
    land = tp(place=AtRandom(4000, weigh=None)).table()
    assert abs(land.training['road'] - land.land['road']) < .02
    t = tp(place=AtRandom(8000, step=64))
    w = rare_first(t.counts)
    assert np.allclose(w[t.counts[:, 1] == 0], (16/15)**.5) and np.allclose(w[t.counts[:, 1] > 0], 4)
    expect = 4*4/(4*4 + 60*(16/15)**.5)
    assert abs(t.table().training['road'] - expect) < .015
    assert len(tp(place=OnGrid()).train) == 64 and len(tp(place=OnGrid(.5)).train) == 7*31

def test_grid_reaches_the_last_pixel():
    for n, size, step in ((100, 32, 32), (97, 32, 20), (32, 32, 8)):
        s = starts(n, size, step)
        assert s[0] == 0 and s[-1] == n - size and (np.diff(s) <= step).all() and len(set(s)) == len(s)

@pytest.mark.parametrize('kw', [tiles(64, 32), dict(), tiles(256, 256)])
def test_counts_are_those_of_numpy(tmp_path, kw):
    ids, rgb = landcover_tile([1, 2], (200, 333))
    s = Scenes(write(tmp_path/'i.tif', rgb), write(tmp_path/'m.tif', ids, **kw), LANDCOVER_CODES)
    for limit in (5000, 1 << 19):
        ys, xs = starts(200, 48, 7), starts(333, 40, 11)
        n = count_classes(s, 0, ys, xs, (48, 40), limit)
        for i in range(0, len(ys), 3):
            for j in range(len(xs)):
                chip = ids[ys[i]:ys[i]+48, xs[j]:xs[j]+40]
                assert (n[i, j] == np.bincount(chip.ravel(), minlength=14)).all()
    for limit in (3000, 1 << 19):
        seen = np.zeros((200, 333), int)
        for c in pieces(s, 0, limit): seen[c.y:c.y+c.h, c.x:c.x+c.w] += 1
        assert (seen == 1).all()

# Memory

BIG = int(os.environ.get('SPADE_BIG_SCENE', 7000))

def make_big(path, n):
    "Image and mask of n x n pixels, written block by block"
    lands = [landcover_tile([7, i], 512) for i in range(3)]
    kw = dict(driver='GTiff', mode='w', height=n, width=n, dtype='uint8', crs='EPSG:32618',
              **tiles(512, 512, compress='deflate', zlevel=1), transform=Affine(1, 0, 350_000, 0, -1, 4_300_000))
    with (rasterio.open(path/'mask.tif', count=1, **kw) as m,
          rasterio.open(path/'image.tif', count=3, photometric='rgb', **kw) as im):
        for y in range(0, n, 512):
            for x in range(0, n, 512):
                (ids, rgb), w = lands[(x//512*5 + y//512*3) % 3], Window(x, y, min(512, n - x), min(512, n - y))
                m.write(ids[None, :w.height, :w.width], window=w)
                im.write(np.moveaxis(rgb, -1, 0)[:, :w.height, :w.width], window=w)

MEASURE = """
import sys, time
from spade_fastai.data.chips import tile_pairs
from spade_fastai.palette import LANDCOVER_CODES
def rss():                                                    # ru_maxrss would begin with the parent's
    return next(int(o.split()[1]) for o in open('/proc/self/status') if o.startswith('VmHWM'))/1024
before, t = rss(), time.time()
tp = tile_pairs('image.tif', 'mask.tif', LANDCOVER_CODES, size=256)
print(f'tile_pairs {time.time() - t:.1f} s', file=sys.stderr)
t, n = time.time(), 0
for b in tp.dataloaders(bs=4).train:
    n += 4
    if n >= int(sys.argv[1]): break
print(f'{n/(time.time() - t):.0f} chips/s', file=sys.stderr)
print(f'{before:.0f} {rss():.0f}')
"""

def test_memory_does_not_grow_with_the_scene(tmp_path):
    "SPADE_BIG_SCENE=20000 python -m pytest tests/test_scenes.py -k memory -s"
    if not Path('/proc/self/status').exists(): pytest.skip('peak memory is read from /proc')
    make_big(tmp_path, BIG)
    env = {**os.environ, 'PYTHONPATH': str(Path(__file__).parent.parent), 'OMP_NUM_THREADS': '1'}
    p = subprocess.run([sys.executable, '-W', 'ignore', '-c', MEASURE, '200' if BIG < 10_000 else '1000'],
                       capture_output=True, text=True, cwd=tmp_path, env=env)
    assert p.returncode == 0, p.stderr
    before, after = map(int, p.stdout.split())
    print(f'{BIG}x{BIG}, {BIG**2*4 >> 20} MB decoded: {before} MB after the imports, {after} MB at most;', p.stderr)
    assert after < 1024 and after - before < 180

# Into batches and the learner

def test_loaders_begin_with_scenes(tmp_path):
    from spade_fastai.data.items import SpadeDataLoaders
    ids, rgb = landcover_tile([1, 3], (256, 320))
    files = write(tmp_path/'i.tif', rgb), write(tmp_path/'m.tif', ids)
    dls = SpadeDataLoaders.from_scenes(*files, LANDCOVER_CODES, size=64, place=AtRandom(n=12), bs=4)
    mask, image = dls.one_batch()
    assert (mask.shape, image.shape, dls.size, dls.codes) == ((4, 64, 64), (4, 3, 64, 64), (64, 64), LANDCOVER_CODES)

def test_a_learner_trains_on_chips(tmp_path):
    from spade_fastai.learner import presets, spade_learner
    from fastai.learner import load_learner
    ids, rgb = landcover_tile([1, 3], (256, 320))
    Image.fromarray(ids).save(tmp_path/'m.png'); Image.fromarray(rgb).save(tmp_path/'i.png')
    tp = tile_pairs(tmp_path/'i.png', tmp_path/'m.png', LANDCOVER_CODES, size=64, place=AtRandom(n=12))
    dls = tp.dataloaders(bs=4)
    learn = spade_learner(dls, presets.tiny_hinge, path=tmp_path)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert np.isfinite(learn.recorder.values[-1]).all()
    learn.export('l.pkl')
    again = load_learner(tmp_path/'l.pkl')
    assert again.dls.size == (64, 64) and again.dls.codes == LANDCOVER_CODES
    assert again.generate(ids[:64, :64]).size == (64, 64)

def test_large_scenes_are_proposed_as_chips(tmp_path, monkeypatch):
    from spade_fastai.data.check import report as room
    monkeypatch.setattr(room, 'LARGE', 2**14)
    for o in ('labels', 'images'): (tmp_path/o).mkdir()
    ids = np.kron(np.arange(16).reshape(4, 4) % 3, np.ones((128, 128), int)).astype(np.uint8)
    for i in range(2):
        Image.fromarray(np.roll(ids, i*50)).save(tmp_path/f'labels/{i}.png')
        Image.fromarray(np.stack([np.roll(ids, i*50)*80]*3, -1)).save(tmp_path/f'images/{i}.png')
    (tmp_path/'codes.txt').write_text('a\nb\nc\n')
    report = room.check_masks(tmp_path, size=64, progress=False)
    assert 'from_scenes' in report.code and 'it was run' in report.checked, report
    assert {i: n for o in report.looks for i, n in o.ids.items()} == {0: 98304, 1: 81920, 2: 81920}
