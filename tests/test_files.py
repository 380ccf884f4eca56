"A file is what its first bytes say, opens nothing else, and says clearly why it is not read"
import http.server, io, json, os, socket, struct, subprocess, sys, threading, warnings, zipfile, zlib
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from fastcore.test import expect_fail
from spade_fastai.data.classes import read_classes
from spade_fastai.data.errors import MaskError
from spade_fastai.data.files import load_array, opened
from spade_fastai.data.grids import Grid, grid_of
from spade_fastai.data.headers import header_size
from spade_fastai.data.images import ImageReader, open_image
from spade_fastai.data.masks import mask_rows, nearest_value, open_mask, tally
from spade_fastai.data.raster import Raster, tiled_copies
from spade_fastai.data.readers import InstanceReader, MapReader, MaskReader
from spade_fastai.data.signatures import look_into
from test_masks import chunks, late_exif, tiff

ids = np.kron([[0, 1], [2, 3]], np.ones((16, 16), int)).astype(np.uint8)
rgb = np.kron(np.arange(12).reshape(2, 2, 3)*20, np.ones((16, 16, 1), int)).astype(np.uint8)
exif = Image.Exif(); exif[274] = 6
READERS = dict(mask=open_mask, image=open_image, raster=lambda f: Raster(f).image(), grid=grid_of,
               instance=InstanceReader(), map=MapReader(), header=lambda f: header_size(f, 'image', ImageReader()),
               bands=lambda f: open_image(f, bands=(1,)))

def all_refuse(fn, says, *but):
    "Each reader refuses `fn` with a MaskError that names it and contains `says`"
    for name, read in READERS.items():
        if name in but or name == 'bands' and fn.suffix not in ('.tif', '.jp2'): continue
        if name == 'raster': have_gdal()
        with pytest.raises(MaskError) as e: read(fn)
        assert says in str(e.value) and fn.name in str(e.value), (name, str(e.value))

def have_gdal(): return pytest.importorskip('rasterio', reason='needs rasterio: pip install "spade-fastai[geo]"')

def write(rio, fn, n=1, **kw):
    "The ids as a GeoTIFF of `n` bands"
    with rio.open(fn, 'w', driver='GTiff', height=32, width=32, count=n, dtype='uint8', **kw) as f:
        f.write(np.stack([ids]*n))
    return fn

# A file is not what its name says

@pytest.fixture
def server():
    "A server on this machine, and what it was asked for"
    asked = []
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self): asked.append(self.path); self.send_error(404)
        do_HEAD = do_GET
        def log_message(self, *args): pass
    s = http.server.HTTPServer(('127.0.0.1', 0), Handler)
    threading.Thread(target=s.serve_forever, args=(.01,), daemon=True).start()
    yield f'http://127.0.0.1:{s.server_port}', asked
    s.shutdown()

def vrt(source):
    return ('<VRTDataset rasterXSize="32" rasterYSize="32"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
            f'<SourceFilename>{source}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>')
def raw(secret):
    return ('<VRTDataset rasterXSize="10" rasterYSize="1"><VRTRasterBand dataType="Byte" band="1" '
            f'subClass="VRTRawRasterBand"><SourceFilename relativetoVRT="0">{secret}</SourceFilename></VRTRasterBand>'
            '</VRTDataset>')
def wms(url):
    corners = dict(UpperLeftX=-1, UpperLeftY=1, LowerRightX=1, LowerRightY=-1, TileLevel=0)
    window = ''.join(f'<{k}>{v}</{k}>' for k, v in corners.items())
    return (f'<GDAL_WMS><Service name="TMS"><ServerUrl>{url}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service>'
            f'<DataWindow>{window}</DataWindow></GDAL_WMS>')

@pytest.mark.parametrize('ending', ['tif', 'png', 'vrt', 'img', 'jp2'])
def test_lists_of_other_files_are_refused(tmp_path, server, ending):
    have_gdal()
    url, asked = server
    (tmp_path/'secret').write_bytes(b'TOP-SECRET'*100)
    Image.fromarray(ids).save(tmp_path/'real.tif')
    texts = vrt(tmp_path/'real.tif'), vrt(f'/vsicurl/{url}/x.tif'), raw(tmp_path/'secret'), wms(url), f'\n {wms(url)}'
    for text in texts:
        fn = tmp_path/f'm.{ending}'
        fn.write_text(text)
        all_refuse(fn, 'it is XML or HTML')
    assert asked == []

OTHERS = {'PostScript': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\nshowpage\n', 'a PDF': b'%PDF-1.4\n',
          'a metafile of Windows': b'\xd7\xcd\xc6\x9a' + bytes(60), 'HDF5': b'\x89HDF\r\n\x1a\n' + bytes(99),
          'an archive': b'PK\3\4' + bytes(60), 'a NumPy file': b'\x93NUMPY\1\0' + bytes(60),
          'a GRIB file': b'GRIB' + bytes(60),
          "it begins with b'ncols 2": b'ncols 2\nnrows 2\nxllcorner 0\nyllcorner 0\ncellsize 1\n1 2\n3 4\n',
          'it is empty': b'',
          'a HEIF photo': b'\0\0\0\x18ftypheic' + bytes(60), 'an icon': b'\0\0\1\0\1\0' + bytes(60)}

@pytest.mark.parametrize('name', OTHERS)
def test_others_are_named_and_start_no_program(tmp_path, monkeypatch, name):
    (tmp_path/'bin').mkdir()
    for prog in ('gs', 'gswin64c'):
        (tmp_path/'bin'/prog).write_text(f'#!/bin/sh\ntouch {tmp_path}/RAN\nexit 1\n')
        (tmp_path/'bin'/prog).chmod(0o755)
    monkeypatch.setenv('PATH', f"{tmp_path/'bin'}:{os.environ['PATH']}")
    for ending in ('png', 'tif'):
        fn = tmp_path/f'p.{ending}'
        fn.write_bytes(OTHERS[name])
        all_refuse(fn, name)
        with expect_fail(MaskError, name): opened(OTHERS[name], 'mask')
    assert not (tmp_path/'RAN').exists()

def test_pictures_are_read_under_any_name(tmp_path):
    for kind in ('png', 'bmp', 'gif', 'tiff', 'webp'):
        b = io.BytesIO()
        if kind == 'webp': Image.fromarray(rgb).save(b, kind, lossless=True)
        else: Image.fromarray(ids).save(b, kind)
        for ending in ('png', 'tif', 'bmp'):
            fn = tmp_path/f'{kind}.{ending}'
            fn.write_bytes(b.getvalue())
            want = rgb if kind == 'webp' else np.dstack([ids]*3)
            assert (np.asarray(open_image(fn)) == want).all()
            if ending == 'tif' and kind != 'webp' and have_gdal(): assert (Raster(fn).image() == want).all()
    Image.fromarray(ids).convert('RGB').save(tmp_path/'real.jpg')
    (tmp_path/'m.png').write_bytes((tmp_path/'real.jpg').read_bytes())
    with expect_fail(MaskError, 'm.png is a JPEG'): open_mask(tmp_path/'m.png')

def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path/'pipe.png'); os.mkfifo(tmp_path/'pipe.tif'); os.mkfifo(tmp_path/'pipe.npy')
    (tmp_path/'folder.png').mkdir(); (tmp_path/'folder.tif').mkdir()
    s = socket.socket(socket.AF_UNIX); s.bind(str(tmp_path/'s.png'))
    (tmp_path/'zero.tif').symlink_to('/dev/zero')
    for f in ('pipe.png', 'pipe.tif', 'pipe.npy', 's.png', 'zero.tif'):
        all_refuse(tmp_path/f, 'a pipe, a socket or a device')
    for f in ('folder.png', 'folder.tif'): all_refuse(tmp_path/f, 'it is a folder')
    s.close()

def test_names_that_look_like_addresses_are_names(tmp_path, monkeypatch, server):
    have_gdal()
    url, asked = server
    monkeypatch.chdir(tmp_path)
    for name in ('http:/x/m.tif', 'vsicurl/m.tif', 'GTIFF_DIR:1:m.tif', 'a?b#c!d.tif', 'zip+s3:m.tif', 'm m.tif'):
        fn = Path(name)
        fn.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids).save(fn, 'TIFF')
        assert (Raster(fn).ids() == ids).all() and (np.asarray(open_mask(name)) == ids).all()
    for name in (f'{url}/m.tif', f'/vsicurl/{url}/m.tif', '/vsizip/a.zip/m.tif', 'zip://a.zip!m.tif'):
        for read in (open_mask, open_image, Raster, grid_of):
            with expect_fail(FileNotFoundError, 'there is no'): read(name)
    with expect_fail(MaskError, 'cannot read'): open_mask('a\0b.png')
    assert asked == []

# Files beside a raster

@pytest.mark.parametrize('side', ['.msk', '.ovr', '.aux.xml'])
def test_side_files_reach_nothing(tmp_path, server, side):
    have_gdal()
    url, asked = server
    Image.fromarray(ids).save(tmp_path/'m.tif')
    aux = (f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">/vsicurl/{url}/o.ovr</MDI></Metadata>'
           '<PAMRasterBand band="1"><NoDataValue>2</NoDataValue></PAMRasterBand></PAMDataset>')
    (tmp_path/f'm.tif{side}').write_text(aux if side == '.aux.xml' else vrt(f'/vsicurl/{url}/x.tif'))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        r = Raster(tmp_path/'m.tif')
    assert (r.ids() == ids).all() and r.nodata is None and not r.may_miss and asked == []
    assert any('aux.xml has NoDataValue, which is not read' in str(o.message) for o in said) == (side == '.aux.xml')

def test_world_files_say_where_a_raster_lies(tmp_path):
    have_gdal()
    for name in ('a.tfw', 'b.TFW', 'c.wld', 'd.tifw'):
        fn = (tmp_path/name).with_suffix('.tif')
        Image.fromarray(ids).save(fn)
        (tmp_path/name).write_text('10\n0\n0\n-10\n500005\n3999995\n')
        assert grid_of(fn) == Grid(32, 32, (10, 0, 500_000, 0, -10, 4_000_000))
    (tmp_path/'a.tfw').write_text('http://example.org')
    with expect_fail(MaskError, 'a.tfw is no world file, which has six numbers'): grid_of(tmp_path/'a.tif')

# Turned, several, lossy

def turned(p):
    "Files that say in some place that they are to be turned"
    im, xmp = Image.fromarray(ids), b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
    im.save(p/'a.png', exif=exif); im.save(p/'a.tif', tiffinfo={274: 6}); im.save(p/'a.jpg', exif=exif)
    Image.fromarray(rgb).save(p/'a.webp', lossless=True, exif=exif)
    (p/'late.png').write_bytes(late_exif((p/'a.png').read_bytes()))
    (p/'png_in.tif').write_bytes((p/'a.png').read_bytes())
    (p/'float.tif').write_bytes(tiff(ids.astype(np.float64), {274: 6}, 3))
    im.save(p/'xmp.tif', tiffinfo={700: xmp})
    c = chunks((p/'a.png').read_bytes())
    text = b'iTXtXML:com.adobe.xmp\0\0\0\0\0' + xmp
    text = struct.pack('>I', len(text) - 4) + text + struct.pack('>I', zlib.crc32(text))
    (p/'xmp.png').write_bytes(b''.join([c[0][1], c[1][1], text, *(b for k, b in c[2:] if k != b'eXIf')]))
    return sorted(o for o in p.iterdir())

def test_turned_files_are_refused_by_every_reader(tmp_path):
    for fn in turned(tmp_path):
        all_refuse(fn, 'says that it is to be turned (EXIF orientation 6)', *([] if fn.suffix == '.tif' else ['bands']))
        if fn.suffix != '.webp' and fn.stem != 'float':
            with expect_fail(MaskError, 'is to be turned'): open_mask(fn.read_bytes())

def test_upright_and_senseless_orientations_are_read(tmp_path):
    for v in (0, 1, 9, 4711):
        Image.fromarray(ids).save(tmp_path/'a.tif', tiffinfo={274: v})
        e = Image.Exif(); e[274] = v
        Image.fromarray(ids).save(tmp_path/'a.png', exif=e)
        for f in ('a.tif', 'a.png'): assert (np.asarray(open_mask(tmp_path/f)) == ids).all()
        if have_gdal(): assert (Raster(tmp_path/'a.tif').ids() == ids).all()

@pytest.mark.parametrize('ending', ['png', 'gif', 'tif', 'webp', 'mpo'])
def test_several_frames_are_refused_by_every_reader(tmp_path, ending):
    ims, fn = [Image.fromarray(np.roll(rgb, k, 0)) for k in (0, 7, 9)], tmp_path/f'a.{ending}'
    ims[0].save(fn, save_all=True, append_images=ims[1:], **({'lossless': True} if ending == 'webp' else {}))
    all_refuse(fn, 'has 3 frames; save the one that')
    if ending in ('png', 'gif', 'webp'):
        with expect_fail(MaskError, 'has 3 frames'): open_image(Image.open(fn))

def test_smaller_copies_and_masks_are_no_frames(tmp_path):
    rio = have_gdal()
    write(rio, tmp_path/'a.tif')
    with rio.Env(GDAL_TIFF_INTERNAL_MASK=True), rio.open(tmp_path/'a.tif', 'r+') as f:
        f.write_mask(np.full((32, 32), 255, np.uint8)); f.build_overviews([2, 4], rio.enums.Resampling.nearest)
    assert look_into(tmp_path/'a.tif').frames == 1 and (np.asarray(open_mask(tmp_path/'a.tif')) == ids).all()
    small = Image.fromarray(rgb[::2, ::2])
    Image.fromarray(rgb).save(tmp_path/'a.mpo', save_all=True, append_images=[small])
    assert open_image(tmp_path/'a.mpo').size == (32, 32)
    Image.fromarray(ids).save(tmp_path/'b.tif', tiffinfo={254: 1})
    all_refuse(tmp_path/'b.tif', 'is a preview; export the picture that is meant')
    Image.fromarray(ids).save(tmp_path/'c.tif', tiffinfo={50706: b'\1\4\0\0'})
    all_refuse(tmp_path/'c.tif', 'a raw photo of a camera (DNG)')

def test_big_endian_and_bigtiff(tmp_path):
    rio = have_gdal()
    big, other = dict(BIGTIFF='YES'), dict(ENDIANNESS='BIG')
    for name, kw in dict(a={}, b=other, c=big, d=big | other).items():
        fn = write(rio, tmp_path/f'{name}.tif', **kw)
        assert look_into(fn)[:4] == ('TIFF', (32, 32), 1, 1) and grid_of(fn).size == (32, 32)
        assert (np.asarray(open_mask(fn)) == ids).all()

LOSSY = {'jpeg.tif': dict(compress='jpeg'), 'lerc.tif': dict(compress='lerc', max_z_error=1), 'zstd.tif': dict(
         compress='lerc_zstd', max_z_error=2), 'webp.tif': dict(compress='webp')}

@pytest.mark.parametrize('name', LOSSY)
def test_lossy_tiffs_are_no_masks(tmp_path, name):
    rio, fn = have_gdal(), tmp_path/name
    write(rio, fn, 3 if 'webp' in name else 1, **LOSSY[name])
    kinds = []
    for read in (open_mask, lambda f: Raster(f, 1).ids(), InstanceReader()):
        with pytest.raises(MaskError) as e: read(fn)
        kinds.append(e.value.kind)
    assert set(kinds) == {'lossy'}
    assert np.asarray(open_image(fn)).shape == (32, 32, 3)

@pytest.mark.parametrize('ending', ['jpg', 'webp', 'jp2', 'avif', 'mpo'])
def test_lossy_pictures_are_no_masks(tmp_path, ending):
    fn = tmp_path/f'a.{ending}'
    try: Image.fromarray(rgb).save(fn)
    except (OSError, KeyError, ValueError): pytest.skip(f'this Pillow does not write {ending}')
    for read in (open_mask, InstanceReader(), lambda f: open_mask(f, table={(0, 0, 0): 0})):
        with pytest.raises(MaskError) as e: read(fn)
        assert e.value.kind == 'lossy' and 'save' in str(e.value)
    assert open_image(fn).size == (32, 32)

def test_lossless_kinds_are_masks(tmp_path):
    rio = have_gdal()
    for kind in ('lerc', 'lzw', 'zstd'):
        assert (np.asarray(open_mask(write(rio, tmp_path/f'{kind}.tif', compress=kind))) == ids).all()
    Image.fromarray(np.dstack([ids]*3)).save(tmp_path/'a.webp', lossless=True)
    assert (np.asarray(open_mask(tmp_path/'a.webp')) == ids).all()

# NumPy files

def bad_arrays(p):
    "Damaged and odd arrays, and what is said of each"
    np.savez_compressed(p/'good.npz', m=ids); np.savez(p/'plain.npz', m=ids); np.save(p/'good.npy', ids)
    b, plain, npy = ((p/f).read_bytes() for f in ('good.npz', 'plain.npz', 'good.npy'))
    at = b.find(b'm.npy') + 40
    yield 'flipped.npz', b[:at] + bytes([b[at] ^ 255]) + b[at+1:], 'cannot read'
    yield 'crc.npz', plain.replace(ids.tobytes(), ids[::-1].tobytes()), 'cannot read'
    yield 'cut.npz', b[:-30], 'cannot read'
    def archive(**members):
        s = io.BytesIO()
        with zipfile.ZipFile(s, 'w', 8) as z:
            for k, v in members.items(): z.writestr(f'{k}.npy', v)
        return s.getvalue()
    yield 'text.npz', archive(m=b'no array'), 'cannot read'
    yield 'empty.npz', archive(), 'holds 0 arrays'
    yield 'two.npz', archive(x=npy, y=npy), 'holds 2 arrays (x, y)'
    yield 'short.npz', archive(m=npy[:-5]), 'but holds'
    s = io.BytesIO(); np.save(s, np.array([[None]]), allow_pickle=True)
    yield 'pickle.npz', archive(m=s.getvalue()), 'Python objects'
    yield 'pickle.npy', s.getvalue(), 'Python objects'
    def header(descr, *shape):
        s = io.BytesIO()
        np.lib.format.write_array_header_1_0(s, dict(descr=descr, fortran_order=False, shape=shape))
        return s.getvalue()
    yield 'claims.npy', header('|u1', 2**15, 2**16) + b'12', 'but holds 2'
    yield 'bomb.npz', archive(m=header('|u1', 2**15, 2**16) + bytes(2**20)), 'million pixels'
    yield 'absurd.npy', header('<i8', 2**40, 2**40), 'but holds 0'
    yield 'absurd.npz', archive(m=header('<i8', 2**40, 2**40)), 'million pixels'
    s = io.BytesIO(); np.save(s, np.zeros(4, [('a', 'u1')]))
    yield 'records.npy', s.getvalue(), 'records'
    yield 'nothing.npy', b'', 'cannot read'
    yield 'picture.npy', b'\x89PNG\r\n\x1a\n' + bytes(40), 'cannot read'

def test_damaged_arrays_are_named(tmp_path):
    n = 0
    for name, b, says in bad_arrays(tmp_path):
        (tmp_path/name).write_bytes(b)
        for read in (open_mask, open_image, MapReader(), InstanceReader(), lambda f: header_size(f, 'mask')):
            if read in (open_mask,) or name not in ('crc.npz', 'flipped.npz'):
                with pytest.raises(MaskError) as e: read(tmp_path/name)
                assert says in str(e.value) and name in str(e.value), str(e.value)
        n += 1
    assert n >= 16
    for f in ('good.npz', 'plain.npz', 'good.npy'):
        assert (np.asarray(open_mask(tmp_path/f)) == ids).all() and grid_of(tmp_path/f).size == (32, 32)
        assert (load_array((tmp_path/f).read_bytes(), 'mask') == ids).all()

# Size and memory

def header_only_png(w, h):
    piece = lambda kind, d: struct.pack('>I', len(d)) + kind + d + struct.pack('>I', zlib.crc32(kind + d))
    return (b'\x89PNG\r\n\x1a\n' + piece(b'IHDR', struct.pack('>IIBBBBB', w, h, 8, 0, 0, 0, 0))
            + piece(b'IDAT', zlib.compress(b'')) + piece(b'IEND', b''))

@pytest.mark.parametrize('size', [(20_000, 20_000), (2**31 - 1, 1), (1, 200_000_000), (60_000, 60_000)])
def test_bombs_are_refused_before_they_are_decoded(tmp_path, size):
    (tmp_path/'a.png').write_bytes(header_only_png(*size))
    for read in (open_mask, open_image, grid_of, InstanceReader(), lambda f: header_size(f, 'mask')):
        with expect_fail(MaskError, 'is too large to be decoded whole; write a tiled copy'): read(tmp_path/'a.png')

def test_memory_that_does_not_suffice_is_named(tmp_path, monkeypatch):
    Image.fromarray(ids).save(tmp_path/'a.png'); np.save(tmp_path/'a.npy', ids)
    def none(*args, **kwargs): raise MemoryError
    says = 'a.png (32x32 pixels) does not fit into the memory; cut it'
    with monkeypatch.context() as m:
        m.setattr('PIL.ImageFile.ImageFile.load', none)
        for read in (open_mask, open_image, InstanceReader()):
            with expect_fail(MaskError, says): read(tmp_path/'a.png')
    monkeypatch.setattr('numpy.load', none)
    with expect_fail(MaskError, 'a.npy (32x32 pixels) does not fit into the memory'): open_mask(tmp_path/'a.npy')

def test_rows_are_the_whole(tmp_path):
    "Whatever is read a few rows at a time is what is read at once"
    rng = np.random.default_rng(0)
    table = {(i*20, 0, 255 - i): i for i in range(6)}
    colors, a = np.array(list(table), np.uint8), rng.integers(0, 6, (50, 40))
    pal = Image.fromarray(5 - a.astype(np.uint8)).convert('P'); pal.putpalette(colors[::-1].ravel().tolist())
    made = {'a.png': Image.fromarray(a.astype(np.uint8)), 'b.png': pal, 'c.png': Image.fromarray(colors[a]),
            'd.tif': Image.fromarray(a.astype('>u2')), 'e.tif': Image.fromarray(a.astype(np.int32) - 1),
            'f.png': Image.fromarray(a % 2 == 1), 'g.tif': Image.fromarray(a.astype(np.float32))}
    for name, im in made.items():
        im.save(tmp_path/name)
        kw = dict(table=table) if name in ('b.png', 'c.png') else {}
        rows = mask_rows(tmp_path/name, **kw)
        whole, named = rows.read(slice(0, 50))
        parts = [(x, k) for _, x, k in rows.blocks(pixels=7*40)]
        assert len(parts) == 8 and {k for _, k in parts} == {named}
        assert (np.concatenate([x for x, _ in parts]) == whole).all()
        vals, counts = tally(rows)
        assert (vals.tolist(), counts.tolist()) == tuple(o.tolist() for o in np.unique(whole, return_counts=True))
    np.save(tmp_path/'n.npy', a)
    assert (np.concatenate([x for _, x, _ in mask_rows(tmp_path/'n.npy').blocks(100)]) == a).all()

def test_errors_of_rows_speak_of_the_whole(tmp_path, monkeypatch):
    from spade_fastai.data.files import Rows
    a = np.zeros((40, 10), np.uint8); a[5] = 7; a[35] = 9
    blocks = Rows.blocks
    monkeypatch.setattr(Rows, 'blocks', lambda self, pixels=50: blocks(self, pixels))
    with expect_fail(MaskError, 'has ids 7, 9; classes are 0..1') : open_mask(a, n_classes=2)
    with expect_fail(MaskError, '(20 pixels)'): open_mask(a, n_classes=2)
    f = np.zeros((40, 10), np.float32); f[3, 3] = f[30, 3] = np.nan
    for n in (None, 2):
        with expect_fail(MaskError, 'has no value in 2 pixels'): open_mask(f, n_classes=n)
    wide = np.zeros((40, 10), np.int32); wide[30] = 700
    assert (np.asarray(open_mask(wide)) == wide).all() and open_mask(a).mode == 'L'

def test_nearest_value_is_the_nearest():
    rng = np.random.default_rng(1)
    for n in (1, 2, 9, 100):
        keys, vals = rng.permutation(300)[:n] - 100, np.unique(rng.integers(-200, 400, 200))
        far = np.abs(vals[:, None] - keys)
        near, dist = nearest_value(vals, keys)
        assert (near == far.argmin(1)).all() and (dist == far.min(1)).all()

CHILD = """
import resource, sys, numpy as np
from PIL import Image
from spade_fastai.data.masks import open_mask
def peak(): return next(int(o.split()[1]) for o in open('/proc/self/status') if o.startswith('VmHWM'))/1024
big = np.zeros((6000, 6000), np.uint8); big[:, 9] = 1; Image.fromarray(big).save('big.png'); del big
vals, keys = np.arange(2**18, dtype=np.int32).reshape(512, 512), range(0, 2**18, 64)
before = peak()
open_mask('big.png', n_classes=2); png = peak()
open_mask(vals, n_classes=4096, ids={v: i for i, v in enumerate(keys)}, tolerance=64)
print(png - before, peak() - png)
"""

def test_a_large_mask_needs_little_more_than_its_pixels(tmp_path):
    if not Path('/proc/self/status').exists(): pytest.skip('peak memory is read from /proc')
    env = {**os.environ, 'PYTHONPATH': str(Path(__file__).parent.parent)}
    run = [sys.executable, '-W', 'ignore', '-c', CHILD]
    out = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path, env=env).stdout
    png, table = map(float, out.split())
    assert png < 36*2 + 80 and table < 120                     # MB; 36 million pixels, decoded and as ids

# Class files

EMD = lambda **kw: json.dumps(dict(Classes=[dict(Value=0, Name='a', Color=[1, 2, 3]) | kw]))
two = lambda x, y: json.dumps(dict(Classes=[dict(Value=0, Name='a') | x, dict(Value=1, Name='b') | y]))
COLORS = [999, 0, 0], 7, [1], 'red', [0, 0, -1], [0, 0, 1.5], [True]*3, {}, []
VALUES = 1.5, True, -1, None, 'x', [0], 2**40, float('inf'), float('nan')
CLASS_FILES = {
    **{f'color {c}': ('a.emd', EMD(Color=c)) for c in COLORS}, 
    **{f'value {v}': ('a.emd', EMD(Value=v)) for v in VALUES},
    **{f'name {v!r}': ('a.json', EMD(Name=v)) for v in ('', ' ', None, [], True)},
    'values twice': ('a.emd', two({}, dict(Value=0))), 'names twice': ('a.emd', two({}, dict(Name='a'))),
    'no list': ('a.emd', '{"Classes": 5}'), 'a list': ('a.emd', '[]'),
    'names alone': ('a.json', '{"Classes": ["a", "b"]}'),
    'nested': ('a.emd', '['*100_000),
    'nested objects': ('a.json', '{"Classes":'*100_000),
    'many digits': ('a.emd', f'{{"Classes": [{{"Value": {"9"*5000}}}]}}'),
    'empty json': ('a.json', ''), 'a long field': ('a.csv', 'name,r,g,b\n' + 'w'*200_000 + ',0,0,1\n'),
    'an open quote': ('a.csv', 'name,r,g,b\n"a,0,0,1\nb,0,0,2\n'*9000),
    'csv value 1.5': ('a.csv', 'Value,Name\n1.5,a\n'),
    'csv value 1_0': ('a.csv', 'Value,Name\n1_0,a\n'), 'csv value -1': ('a.csv', 'Value,Name\n-1,a\n'),
    'csv value true': ('a.csv', 'Value,Name\nTrue,a\n'), 'csv value none': ('a.csv', 'Value,Name\n,a\n'),
    'csv no name': ('a.csv', 'Value,Name\n1,\n'), 'csv names twice': ('a.csv', 'Value,Name\n1,a\n2,a\n'),
    'csv color 999': ('a.csv', 'name,r,g,b\na,999,0,0\n'), 'csv color half': ('a.csv', 'name,r,g,b\na,1,2\n'),
    'csv color twice': ('a.csv', 'name,r,g,b\na,1,2,3\nb,1,2,3\n'),
    'csv columns twice': ('a.csv', 'name,r,g,b,r\na,1,2,3,4\n'),
    'map color 999': ('labelmap.txt', '# label:color_rgb:parts:actions\na:999,0,0::\n'),
    'map color half': ('labelmap.txt', 'a:1,2,3::\nb:1,2::\n'),
    'map color red': ('labelmap.txt', 'a:1,2,3::\nb:red::\n'),
    'map color twice': ('labelmap.txt', 'a:1,2,3::\nb:1,2,3::\n'),
    'map no name': ('labelmap.txt', 'a:1,2,3::\n:1,2,4::\n'),
    'codes twice': ('codes.txt', 'a\nb\na\n'), 'codes empty': ('codes.txt', ''), 'codes blank': ('codes.txt', '\n\n'),
    'UTF-16': ('codes.txt', 'a\nb'.encode('utf-16')),
    'latin-1': ('a.csv', 'name,r,g,b\nStraße,0,0,0\n'.encode('latin1')),
    'zero bytes': ('codes.txt', b'a\0b\n'), 
    'zero bytes in csv': ('a.csv', b'name,r,g,b\na\0,1,2,3\n'), 'a picture': ('codes.txt', b'\x89PNG\r\n\x1a\n')}

@pytest.mark.parametrize('name', CLASS_FILES)
def test_bad_class_files_are_refused_when_read(tmp_path, name):
    fn, text = CLASS_FILES[name]
    (tmp_path/fn).write_bytes(text if isinstance(text, bytes) else text.encode())
    for read in (read_classes, MaskReader):
        with pytest.raises(MaskError) as e: read(tmp_path/fn)
        assert fn in str(e.value) and len(str(e.value)) < 1000, str(e.value)[:300]

def test_class_files_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path/'codes.txt'); (tmp_path/'a.csv').mkdir()
    for f in ('codes.txt', 'a.csv', 'none.emd'):
        with expect_fail(MaskError, f): read_classes(tmp_path/f)

def test_good_class_files_are_read_as_before(tmp_path):
    (tmp_path/'a.emd').write_text(two(dict(Value=20, Color=[0, 0, 0]), dict(Value='10', Color=[255, 255, 255])))
    assert read_classes(tmp_path/'a.emd') == (['b', 'a'], None, {10: 0, 20: 1}, [[255]*3, [0]*3])
    (tmp_path/'a.csv').write_bytes('\ufeffindex;name;r;g;b\r\n2;a;0;0;0\r\n2;b;1;1;1\r\n5;c;2;2;2\r\n'.encode())
    assert read_classes(tmp_path/'a.csv')[:3] == (['a', 'c'], {(0,)*3: 0, (1,)*3: 0, (2,)*3: 1}, {2: 0, 5: 1})
    (tmp_path/'l.txt').write_text('# label:color_rgb:parts:actions\na:0,0,0::\n\nb:1,1,1:x,y:z\na:2,2,2::\n')
    assert read_classes(tmp_path/'l.txt')[:2] == (['a', 'b'], {(0,)*3: 0, (1,)*3: 1, (2,)*3: 0})
    n = 65_535
    rows = '\n'.join(f'c{i},{i >> 16},{i >> 8 & 255},{i & 255}' for i in range(n))
    (tmp_path/'many.csv').write_text(f'name,r,g,b\n{rows}')
    said = read_classes(tmp_path/'many.csv')
    assert len(said.codes) == n and said.table[(0, 255, 254)] == n - 1

def test_tiled_copies_of_odd_files(tmp_path):
    have_gdal()
    (tmp_path/'x.png').write_text(vrt(tmp_path/'secret'))
    with expect_fail(MaskError, 'it is XML or HTML'): tiled_copies([tmp_path/'x.png'], tmp_path/'new')
    Image.fromarray(ids).save(tmp_path/'y.png', exif=exif)
    with expect_fail(MaskError, 'is to be turned'): tiled_copies([tmp_path/'y.png'], tmp_path/'new')
