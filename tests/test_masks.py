"One table of bad and odd inputs: each is read as it is meant, or refused before the first batch: file, value and cure"
import io, json, pickle, struct, zlib
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from spade_fastai.data.errors import KINDS, MaskError
from spade_fastai.data.images import ImageReader
from spade_fastai.data.pairs import bare_stem
from spade_fastai.data.items import SpadeDataLoaders
from spade_fastai.core import plain

ids = np.array([[0, 1, 2, 0], [2, 1, 0, 1], [0, 0, 2, 2]])
CODES = ['water', 'land', 'road']
TABLE = {(0, 0, 200): 0, (0, 128, 0): 1, (200, 200, 200): 2}
COLORS = np.array(list(TABLE))
rgb = COLORS[ids].astype(np.uint8)
many = ids*150 + 7

# Writing files that programs in the wild write

def pil(a): return Image.fromarray(np.ascontiguousarray(a))

def save(name, a, **kw):
    "A maker that saves `a` (array or picture) as labels/`name`"
    def make(p): (a if isinstance(a, Image.Image) else pil(a)).save(p/'labels'/name, **kw)
    make.name = name
    return make

def data(name, b):
    def make(p): (p/'labels'/name).write_bytes(b() if callable(b) else b)
    make.name = name
    return make

def npy(name, a, **kw):
    def make(p): np.save(p/'labels'/name, a, **kw) if name.endswith('.npy') else np.savez(p/'labels'/name, **a)
    make.name = name
    return make

def png(depth, color, rows, w):
    "A PNG of any bit depth, by hand; `rows` are bytes"
    chunk = lambda kind, d: struct.pack('>I', len(d)) + kind + d + struct.pack('>I', zlib.crc32(kind + d))
    head = struct.pack('>IIBBBBB', w, len(rows), depth, color, 0, 0, 0)
    body = chunk(b'IDAT', zlib.compress(b''.join(b'\0' + r for r in rows)))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + body + chunk(b'IEND', b'')

def tiff(a, tags=None, kind=1):
    "An uncompressed grey TIFF with any sample format and further tags, by hand; what Pillow does not write"
    h, w = a.shape
    ent = {256: (3, w), 257: (3, h), 258: (3, 8*a.dtype.itemsize), 259: (3, 1), 262: (3, 1), 273: (4, 8), 277: (3, 1),
           278: (3, h), 279: (4, a.nbytes), 339: (3, kind)}
    body, extra = a.astype(a.dtype.newbyteorder('<')).tobytes(), b''
    for k, v in (tags or {}).items():
        if isinstance(v, str):
            v = v.encode() + b'\0'
            ent[k] = (2, v)
        else: ent[k] = (3, v)
    at, out = 8 + len(body), struct.pack('<H', len(ent))
    end = at + 2 + 12*len(ent) + 4
    for k, (t, v) in sorted(ent.items()):
        if t == 2 and len(v) > 4: out += struct.pack('<HHII', k, t, len(v), end + len(extra)); extra += v
        elif t == 2: out += struct.pack('<HHI', k, t, len(v)) + v.ljust(4, b'\0')
        else: out += struct.pack('<HHI', k, t, 1) + (struct.pack('<I', v) if t == 4 else struct.pack('<HH', v, 0))
    return b'II*\0' + struct.pack('<I', at) + body + out + b'\0\0\0\0' + extra

def chunks(b):
    "The pieces of a PNG: (kind, bytes), its first eight bytes included"
    res, i = [(b'', b[:8])], 8
    while i < len(b):
        n = 12 + struct.unpack('>I', b[i:i+4])[0]
        res.append((b[i+4:i+8], b[i:i+n]))
        i += n
    return res

def late_exif(b):
    "A PNG with its EXIF data after the pixels"
    c = chunks(b)
    return b''.join([*(o for k, o in c[:-1] if k != b'eXIf'), *(o for k, o in c if k == b'eXIf'), c[-1][1]])

def palette(a, colors):
    im = pil(a.astype(np.uint8)).convert('P')
    im.putpalette(np.asarray(colors, dtype=np.uint8).ravel().tolist())
    return im

def packed(a, bits):
    "The rows of `a` as bytes, each number in so many bits"
    n = -(-a.shape[1]*bits//8)
    return [int(''.join(f'{v:0{bits}b}' for v in r).ljust(n*8, '0'), 2).to_bytes(n, 'big') for r in a.tolist()]

shuffled = palette(2 - ids, COLORS[::-1])                      # the same colours, indices the other way round
half_known = palette(ids, [*COLORS[:2], (9, 9, 9)])
rgba = lambda alpha: np.dstack([rgb, np.broadcast_to(alpha, ids.shape)]).astype(np.uint8)
hole = np.where(ids == 2, 0, 255)
big, huge = [np.kron(ids, np.ones((n, n), dtype=int)) for n in (8, 16)]
smooth = pil(COLORS[big].astype(np.uint8)).resize((29, 21), Image.BILINEAR)
two = (ids == 1)*1
bw = np.kron(two*255, np.ones((8, 8), dtype=int)).astype(np.uint8)
dont = np.where(ids == 2, 3, ids)
def nearest(c): return min(range(3), key=lambda k: (np.abs(COLORS[k] - c).max(), ((COLORS[k] - c)**2).sum()))
bytes16 = lambda a: [struct.pack(f'>{r.size}H', *r.ravel().tolist()) for r in a]
def frames(name):
    one, other = pil(ids.astype(np.uint8)), pil(ids.astype(np.uint8)[::-1])
    return save(name, one, save_all=True, append_images=[other])


def overview(p):
    "A TIFF with a smaller copy of itself inside, as GDAL adds them: the second directory says so (tag 254)"
    a = np.ascontiguousarray(ids.astype(np.uint8))
    small = pil(a[::2, ::2]); small.encoderinfo = dict(tiffinfo={254: 1})
    pil(a).save(p/'labels/a.tif', save_all=True, append_images=[small])
overview.name = 'a.tif'

def photo(name, im, **kw):
    "A maker of a good mask and an odd image"
    def make(p):
        (p/'images/a.png').unlink()
        if callable(im): im(p/'images'/name)
        else: im.save(p/'images'/name, **kw)
        pil(ids.astype(np.uint8)).save(p/'labels/a.png')
    make.name = name
    return make

def files(*fs, name='a.png', **good):
    "A maker of several files: path to array; a mask `a` is added unless it is among them"
    def make(p):
        if not any(f.startswith('labels/a.') and a is not None for f, a in fs): pil(grey8).save(p/'labels/a.png')
        for f, a in fs:
            (p/f).parent.mkdir(parents=True, exist_ok=True)
            if a is None: (p/f).unlink(missing_ok=True)
            elif isinstance(a, (bytes, str)): (p/f).write_bytes(a if isinstance(a, bytes) else a.encode())
            else: pil(a).save(p/f)
    make.name = name
    return make

def late(name, a):
    "A maker of a PNG mask that says after its pixels that it is to be turned"
    b = io.BytesIO()
    pil(a).save(b, 'PNG', exif=exif)
    return data(name, late_exif(b.getvalue()))

def npz(a=None, kind='npz'):
    b = io.BytesIO()
    np.save(b, a) if kind == 'npy' else np.savez(b, **({} if a is None else dict(m=a)))
    return b.getvalue()

def cut_photo(f):
    Image.effect_noise((4, 3), 90).resize((400, 300)).save(f, quality=95)
    f.write_bytes(f.read_bytes()[:2000])

exif = Image.Exif(); exif[274] = 6
turned = photo('a.jpg', pil(rgb[:3, :3].repeat(2, 0)[:3].repeat(2, 1)[:, :4]), exif=exif)
random_ids = np.random.default_rng(0).integers(0, 3, (60, 60)).astype(np.uint8)
lfs = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n'
grey8, u16 = ids.astype(np.uint8), ids.astype(np.uint16)
deep = (np.arange(12).reshape(3, 4)*1000).astype(np.uint16)

# name: (maker, keyword arguments beside codes=CODES, expected ids, or texts in the refusal beside the file's name)
READ, REFUSED = {}, {}
def read(name, make, want=ids, **kw): assert name not in READ; READ[name] = make, kw, want
def refused(name, make, *says, **kw): assert name not in REFUSED; REFUSED[name] = make, kw, says

# grey files
read('grey png', save('a.png', grey8))
read('grey tif', save('a.tif', grey8))
read('grey bmp', save('a.bmp', grey8))
read('grey gif', save('a.gif', grey8))
read('ending in capitals', save('a.PNG', grey8, format='PNG'))
read('compressed tif', save('a.tif', grey8, compression='tiff_lzw'))
read('1 bit', save('a.png', two == 1), two)
read('2 bit grey, which Pillow stretches by 85', data('a.png', png(2, 0, packed(ids, 2), 4)))
read('4 bit grey, which Pillow stretches by 17', data('a.png', png(4, 0, packed(ids, 4), 4)))
read('16 bit png, ids beyond 255', save('a.png', many.astype(np.uint16)), many, codes=list(range(400)))
read('16 bit tif, big endian', save('a.tif', many.astype('>u2')), many, codes=list(range(400)))
read('32 bit tif', save('a.tif', many.astype(np.int32)), many, codes=list(range(400)))
read('float tif of whole numbers', save('a.tif', ids.astype(np.float32)))
read('signed 8 bit tif with -1, which Pillow reads as 255',
     data('a.tif', tiff((dont - 4*(dont == 3)).astype(np.int8), kind=2)), dont, ignore=-1)
read('signed 16 bit tif with -1', data('a.tif', tiff(np.where(ids == 2, -1, ids).astype(np.int16), kind=2)), dont,
     ignore=-1)
read('grey with alpha, opaque', save('a.png', np.dstack([ids, ids*0 + 255]).astype(np.uint8)))
read('tif with overviews', overview)
refused('signed 16 bit tif with -1, undeclared',
        data('a.tif', tiff(np.where(ids == 2, -1, ids).astype(np.int16), kind=2)), 'has id -1', 'classes are 0..2',
        'pass `ignore=-1`', '4 pixels')
refused('unsigned 32 bit beyond an int', data('a.tif', tiff(np.where(ids == 2, 2**32 - 1, ids).astype(np.uint32))),
        '4294967295', 'save ids as whole numbers (8 or 16 bit)')
refused('stored with 0 as white', data('a.tif', tiff(grey8, {262: 0})), 'with 0 as white', 'save it as PNG')
refused('fractions', save('a.tif', (ids + .5).astype(np.float32)), 'fractions', '0.5', 'save ids as whole numbers')
refused('probabilities', save('a.tif', (ids/2).astype(np.float32)), 'fractions', '0.5')
refused('infinity', save('a.tif', np.where(ids == 2, np.inf, ids).astype(np.float32)), 'fractions')
refused('NaN, undeclared', save('a.tif', np.where(ids == 2, np.nan, ids).astype(np.float32)), 'NaN',
        'no value in 4 pixels', 'pass `ignore=255`')
read('NaN as don’t-care', save('a.tif', np.where(ids == 2, np.nan, ids).astype(np.float32)), dont, ignore=255)
refused('several pages', frames('a.tif'), '2 frames', 'save the one that holds the ids')
refused('animated gif', frames('a.gif'), '2 frames', 'save the one that holds the ids')
refused('jpeg', save('a.jpg', grey8), 'is a JPEG', 'changes ids', 'save masks as PNG')
refused('jpeg inside a tif', save('a.tif', big.astype(np.uint8), compression='jpeg'), 'is a JPEG',
        'save masks as PNG', size=(32, 24))
refused('CMYK', save('a.tif', Image.new('CMYK', (4, 3))), 'mode CMYK', 'save it as grey')
refused('colours of Lab', save('a.tif', Image.new('LAB', (4, 3))), 'mode LAB', 'save it as grey')

# palettes and colours
read('palette: indices', save('a.png', palette(ids, COLORS)))
read('palette gif', save('a.gif', palette(ids, COLORS)))
read('palette: colours in another order of the indices', save('a.png', shuffled), table=TABLE)
read('palette: no colour in the table, so indices', save('a.png', palette(ids, [(1, 1, 1), (2, 2, 2), (3, 3, 3)])),
     table=TABLE)
refused('palette: half of the colours in the table', save('a.png', half_known), '(9, 9, 9) in 4 of 12 pixels',
        'is a palette file; if its indices are the ids', table=TABLE)
read('colours', save('a.png', rgb), table=TABLE)
read('colours in a table that is not sorted', save('a.png', rgb), (ids + 1)%3,
     table={c: (i + 1)%3 for c, i in reversed(TABLE.items())})
read('colours in a bmp', save('a.bmp', rgb), table=TABLE)
read('colours in a tif', save('a.tif', rgb), table=TABLE)
read('colours with alpha, opaque', save('a.png', rgba(255)), table=TABLE)
read('greys in a table of greys', save('a.png', np.array([0, 128, 255], dtype=np.uint8)[ids]),
     table={(0, 0, 0): 0, (128, 128, 128): 1, (255, 255, 255): 2})
read('two colours for one class', save('a.png', rgb), np.where(ids == 2, 1, ids), table={**TABLE, (200, 200, 200): 1})
read('a colour that means don’t-care', save('a.png', rgb), dont, table={**TABLE, (200, 200, 200): 255}, ignore=255)
read('transparent pixels as don’t-care', save('a.png', rgba(hole)), dont, table=TABLE, ignore=255)
refused('colours without a table', save('a.png', rgb), 'is an RGB picture',
        'pass a class_dict.csv as `codes`, or `table={(r,g,b): id}`')
refused('a colour that is not in the table', save('a.png', rgb), '(200, 200, 200) in 4 of 12 pixels',
        'add a row with r,g,b = 200,200,200', table={(0, 0, 200): 0, (0, 128, 0): 1})
refused('transparent pixels, undeclared', save('a.png', rgba(hole)), 'no value in 4 pixels (transparent',
        'pass `ignore=255`', table=TABLE)
refused('half transparent pixels', save('a.png', rgba(128)), 'half transparent in 12 pixels',
        'without an alpha channel', table=TABLE)
refused('smoothed colours', save('a.png', smooth), 'more unknown colours', 'antialiased or saved as JPEG',
        '`tolerance=', table=TABLE, size=(29, 21))
read('smoothed colours, nearest', save('a.png', smooth),
     np.apply_along_axis(nearest, -1, np.array(smooth).astype(int)),
     table=TABLE, tolerance=100, size=(29, 21))
refused('16 bit colours, which Pillow cuts', data('a.png', png(16, 2, bytes16(rgb.astype(np.uint16)*256 + 5), 4)),
        '16 bits a channel', 'save it as 8 bit PNG', table=TABLE)
refused('a table with an id that has no name', save('a.png', rgb), 'has the ids [0, 1, 7]', '3 codes',
        table={**TABLE, (200, 200, 200): 7}, nameless=True)

# numbers that need a word
refused('255, undeclared', save('a.png', np.where(ids == 2, 255, ids).astype(np.uint8)), 'has id 255',
        'classes are 0..2', 'pass `ignore=255`', '4 pixels')
read('255 as don’t-care', save('a.png', np.where(ids == 2, 255, ids).astype(np.uint8)), dont, ignore=255)
three = np.array([[0, 1, 2, 255], [-1, 32767, 0, 1], [0, 1, 2, 0]], dtype=np.int16)
read('three values as don’t-care', data('a.tif', tiff(three, kind=2)),
     np.array([[0, 1, 2, 3], [3, 3, 0, 1], [0, 1, 2, 0]]), ignore=[255, -1, 32767])
refused('the file’s NoData value, undeclared',
        data('a.tif', tiff(np.where(ids == 2, 32767, ids).astype(np.int16), {42113: '32767'}, 2)), 'has id 32767',
        'calls 32767', 'NoData', 'pass `ignore=32767`')
read('the file’s NoData value joins the declared one',
     data('a.tif', tiff(np.where(ids == 2, 32767, ids).astype(np.int16), {42113: '32767'}, 2)), dont, ignore=255)
refused('an id beyond the codes', save('a.png', (ids + 5*(ids == 2)).astype(np.uint8)), 'has id 7',
        'classes are 0..2', 'add its name to the codes')
refused('hundreds of ids', save('a.png', np.arange(12).reshape(3, 4).astype(np.uint8)*20), 'ids 20, 40',
        '`spade-check` lists them')
refused('counted from 1', save('a.png', (ids + 1).astype(np.uint8)), 'has id 3', 'count from 1',
        '`ids=dict(enumerate(codes, 1))`')
read('counted from 1, declared', save('a.png', (ids + 1).astype(np.uint8)), ids=dict(enumerate(CODES, 1)), b=1)
refused('multiplied by 100', save('a.png', (ids*100).astype(np.uint8)), 'ids 100, 200', 'multiples of 100',
        '`ids={0: …, 100: …}`')
refused('black and white', save('a.png', (two*255).astype(np.uint8)), 'has id 255', 'black and white',
        '`ids={0: …, 255: …}`', codes=['no', 'yes'])
read('black and white, declared', save('a.png', (two*255).astype(np.uint8)), two, codes=None, ids={0: 'no', 255: 'yes'})
read('ids with gaps', save('a.png', np.array([10, 30, 40], dtype=np.uint8)[ids]), codes=None,
     ids={10: 'water', 30: 'land', 40: 'road'}, b=10)
read('negative ids with names', data('a.tif', tiff((ids - 1).astype(np.int16), kind=2)), codes=None,
     ids={-1: 'water', 0: 'land', 1: 'road'}, b=0)
read('two values of one class', save('a.png', grey8), np.where(ids == 2, 1, ids), codes=None,
     ids={0: 'water', 1: 'land', 2: 'land'})
refused('a value without a name', save('a.png', np.array([10, 30, 40], dtype=np.uint8)[ids]), 'has id 40',
        '`ids` names 10, 30', 'add it to `ids`, or pass `ignore=40`', codes=None, ids={10: 'water', 30: 'land'},
        b=10)
read('black and white jpeg, nearest value', save('a.jpg', pil(bw)), np.kron(two, np.ones((8, 8), dtype=int)),
     codes=None, ids={0: 'no', 255: 'yes'}, tolerance=127, size=(32, 24))
read('coloured jpeg, nearest colour',
     save('a.jpg', pil(COLORS[huge].astype(np.uint8)), quality=95, subsampling=0),
     np.kron(ids, np.ones((16, 16), dtype=int)), table=TABLE, tolerance=90, size=(64, 48))
refused('coloured jpeg, no tolerance', save('a.jpg', pil(COLORS[big].astype(np.uint8))), 'is a JPEG',
        '`tolerance=40`', table=TABLE, size=(32, 24))

# NumPy
read('npy', npy('a.npy', ids))
read('npy, one channel', npy('a.npy', ids[..., None].astype(float)))
read('npy, bool', npy('a.npy', two == 1), two)
read('npy, colours', npy('a.npy', rgb), table=TABLE)
read('npz', npy('a.npz', dict(labels=ids)))
refused('npz of two arrays', npy('a.npz', dict(x=ids, y=ids)), '2 arrays (x, y)', 'np.save')
refused('npy, one-hot', npy('a.npy', np.eye(5)[np.kron(ids, np.ones((2, 2), dtype=int))]), 'shape [6, 8, 5]',
        '`argmax`', size=(8, 6))
refused('npy of objects', npy('a.npy', np.array([[None]]), allow_pickle=True), 'cannot read', 'np.save')
refused('npy, complex', npy('a.npy', ids.astype(complex)), 'complex128', 'save ids as whole numbers')
refused('npy of one dimension', npy('a.npy', ids.ravel()), 'shape [12]', 'a mask is [H,W]')

# files that are none
refused('an empty file', data('a.png', b''), 'it is empty', 'replace the file or take it out')
refused('a cut png',
        data('a.png', lambda: png(8, 0, [bytes(r) for r in random_ids], 60)[:300]),
        'cannot read', 'replace the file or take it out')
refused('a text file', data('a.png', b'<html>404</html>'), 'cannot read', 'replace the file or take it out')
refused('a pointer of Git LFS', data('a.png', lfs), 'git lfs pull')
refused('a broken tif', data('a.tif', tiff(grey8)[:30]), 'cannot read', 'replace the file or take it out')
refused('a broken bmp', data('a.bmp', b'BM' + bytes(20)), 'cannot read', 'replace the file or take it out')

# images
read('grey photo', photo('a.png', pil(grey8*80)))
read('palette photo', photo('a.png', palette(ids, COLORS)))
read('CMYK photo', photo('a.jpg', Image.new('CMYK', (4, 3))))
read('16 bit photo, scaled', photo('a.png', pil(deep)), image_reader=ImageReader(percentiles=(0, 100)))
refused('16 bit photo', photo('a.png', pil(deep)), 'more than 8 bits',
        'pass `image_reader=ImageReader(percentiles=(2, 98))`')
refused('float photo', photo('a.tif', pil(deep.astype(np.float32))), 'more than 8 bits', 'ImageReader(percentiles')
refused('photo of six bands', photo('a.npy', lambda f: np.save(f, np.zeros((3, 4, 6), np.uint8))), '6 bands',
        'ImageReader(bands=')
refused('a photo to be turned', turned, 'EXIF orientation 6', 'exif_transpose')
refused('a png mask to be turned', save('a.png', grey8, exif=exif), 'EXIF orientation 6', 'exif_transpose')
refused('a png mask to be turned, said after its pixels', late('a.png', grey8), 'EXIF orientation 6', 'exif_transpose')
refused('a tif mask to be turned', save('a.tif', grey8, tiffinfo={274: 6}), 'EXIF orientation 6', 'exif_transpose')
refused('a tif photo to be turned', photo('a.tif', pil(rgb), tiffinfo={274: 8}), 'EXIF orientation 8', 'exif_transpose')
refused('a tif photo to be turned, bands chosen', photo('a.tif', pil(rgb), tiffinfo={274: 3}), 'EXIF orientation 3',
        'exif_transpose', image_reader=ImageReader(bands=(1, 2, 3)))
refused('a webp mask to be turned', save('a.webp', rgb, lossless=True, exif=exif), 'EXIF orientation 6', table=TABLE)
refused('animated png photo', photo('a.png', pil(rgb), save_all=True, append_images=[pil(rgb[::-1])]), '2 frames',
        'save the one that is meant')
refused('animated gif photo', photo('a.gif', pil(rgb), save_all=True, append_images=[pil(rgb[::-1])]), '2 frames')
refused('photo of two pages', photo('a.tif', pil(rgb), save_all=True, append_images=[pil(rgb[::-1])]), '2 frames')
refused('lossy webp', save('a.webp', pil(COLORS[big].astype(np.uint8)), quality=50), 'is a WebP', 'save masks as PNG',
        table=TABLE, size=(32, 24))
read('lossless webp', save('a.webp', rgb, lossless=True), table=TABLE)
refused('PostScript', data('a.png', b'%!PS-Adobe-3.0 EPSF-3.0'), 'it is PostScript', 'replace the file or take it out')
refused('a VRT', data('a.tif', b'<VRTDataset rasterXSize="4" rasterYSize="3"/>'), 'it is XML', 'other files',
        'replace the file or take it out')
refused('a damaged npz', data('a.npz', lambda: npz(grey8)[:-30]), 'cannot read', 'np.save')
refused('npz of no array', data('a.npz', lambda: npz()), '0 arrays', 'np.save')
refused('npy that claims too much', data('a.npy', lambda: npz(grey8, 'npy')[:-1]), 'but holds 11', 'np.save')
refused('a cut photo',
        photo('a.jpg', cut_photo),
        'cannot read', 'replace the file or take it out')
refused('a photo of another size', photo('a.png', pil(rgb[:2])), 'is 4x3 but image', '4x2', 'crop or resize')
refused('two sizes and no size=', files(('labels/a.png', grey8[:2]), ('images/a.png', rgb[:2])),
        '2 different sizes', 'pass `size=`', item_tfms=None)

# rasters, for which rasterio is needed
here = (10., 0., 500_000., 0., -10., 4_000_000.)
def tif(a, at=None, image=None, image_at=here, name='a.tif', say='', **kw):
    "A maker of a GeoTIFF mask, and perhaps of a GeoTIFF image, each at a place given by six numbers"
    def write(fn, a, at, **kw):
        rasterio = pytest.importorskip('rasterio', reason='needs rasterio: pip install "spade-fastai[geo]"')
        a = a[None] if a.ndim == 2 else np.moveaxis(a, -1, 0)
        place = {} if at is None else dict(transform=rasterio.Affine(*at), crs='EPSG:32618')
        shape = dict(count=a.shape[0], height=a.shape[1], width=a.shape[2], dtype=a.dtype)
        with rasterio.open(fn, 'w', driver='GTiff', **shape, **place, **kw) as f: f.write(a)
    def make(p):
        write(p/'labels/a.tif', a, at, **(kw if image is None else {}))
        if image is not None:
            (p/'images/a.png').unlink()
            write(p/'images/a.tif', image, image_at, **kw)
            if image.shape[-1] > 3 and 'bands' in say:
                (p/'images/b.png').unlink()
                write(p/'images/b.tif', image, None)
    make.name = name
    return make

moved = lambda x, y=0: (10., 0., 500_000. + x, 0., -10., 4_000_000. + y)
rgbn = np.dstack([rgb, grey8*100])
read('float64 tif', tif(ids.astype(np.float64)))
read('int64 tif', tif(ids.astype(np.int64)))
read('lerc tif', tif(grey8, compress='lerc'))
read('tiled bigtiff',
     tif(huge.astype(np.uint8), tiled=True, blockxsize=16, blockysize=16, BIGTIFF='YES', compress='zstd'),
     np.kron(ids, np.ones((16, 16), dtype=int)), size=(64, 48))
refused('mask of four bands', tif(np.dstack([u16]*4)), '4 bands', 'file of its own')
refused('mask of two bands', tif(np.dstack([grey8]*2)), '2 bands', 'file of its own')
read('the same place', tif(grey8, here, rgb))
read('mask without a place', tif(grey8, None, rgb))
refused('half a pixel beside', tif(grey8, moved(5), rgb), 'different grids', '(500005, 4000000)',
        '(500000, 4000000)', '`align=True`')
read('half a pixel beside, aligned', tif(grey8, moved(-5), rgb), np.array([[*r[1:], 3] for r in ids]), align=True,
     ignore=255)
refused('one pixel beside, aligned, nothing declared', tif(grey8, moved(10), rgb), 'no value in 3 pixels',
        '`ignore=255`', align=True)
read('coarser mask, aligned',
     tif(grey8[::2, ::2], (20., 0., 500_000., 0., -20., 4_000_000.), np.dstack([rgb[..., 0]]*3)),
     np.kron(ids[::2, ::2], np.ones((2, 2), dtype=int))[:3], align=True)
refused('another place, aligned', tif(grey8, moved(1000), rgb), 'do not overlap', 'same place', align=True, ignore=255)
read('photo of four bands, three chosen', tif(grey8, here, rgbn, say='bands'),
     image_reader=ImageReader(bands=(4, 1, 2)))
refused('a band that is not there', photo('a.png', pil(rgb)), 'b.png has 3 bands, but `bands=(4, 1, 2)`',
        image_reader=ImageReader(bands=(4, 1, 2)), nameless=True)
refused('photo of five bands', tif(grey8, here, np.dstack([rgb, rgb[..., :2]]).astype(np.uint8)), '5 bands',
        'bands=(4,3,2)')
refused('photo of three bands of 16 bits', tif(grey8, here, rgb.astype(np.uint16)*30), 'more than 8 bits',
        'ImageReader(percentiles=(2, 98))')
read('photo of three bands of 16 bits, scaled', tif(grey8, here, rgb.astype(np.uint16)*30),
     image_reader=ImageReader(percentiles=(2, 98)))

# pairs
def class_dict(head, index=False):
    rows = [(i, o, *c) if index else (o, *c) for i, (o, c) in enumerate(zip(CODES, TABLE, strict=False), 1)]
    return '\n'.join([head, *(','.join(map(str, o)) for o in rows), ''])
in_colors = ('labels/a.png', rgb), ('labels/b.png', rgb*0 + COLORS[0].astype(np.uint8))
esri = [dict(Value=10*i, Name=o, Color=[i, i, i]) for i, o in enumerate(CODES)]
refused('a mask without image', files(('images/a.png', None)), '1 of 2 masks have no image', 'add the missing files')
refused('an image without mask', files(('images/c.png', rgb), name='c.png'), '1 of 3 images have no mask',
        'take these out')
refused('two masks of one name', files(('labels/a.tif', grey8), ('labels/a.png', grey8)), 'two masks are called',
        'keep one of them')
read('a_mask.png and a.png', files(('labels/a_mask.png', grey8), ('labels/a.png', None), name='a_mask.png'))
read('files that are none of ours',
     files(('labels/._a.png', b'mac'), ('labels/Thumbs.db', b'windows'), ('images/notes.txt', 'text')))
refused('an empty line in the codes', files(('codes.txt', 'water\n\nroad\n'), name='codes.txt'), 'empty line 2',
        'remove it or write a name', codes=None)
refused('no codes at all', files(name=''), 'no codes.txt or class_dict.csv', 'pass the class names as `codes=`',
        codes=None)
refused('codes.txt against class_dict.csv',
        files(('codes.txt', 'land\nwater\nroad\n'), ('class_dict.csv', class_dict('name,r,g,b')), name='codes.txt'),
        'name different classes or another order', '`codes=`', codes=None)
read('class_dict.csv of Excel',
     files(*in_colors, ('class_dict.csv', '\ufeff' + class_dict('Name,R,G,B').replace(',', ';').replace('\n', '\r\n'))),
     codes=None)
read('class_dict.csv that counts from 1',
     files(('labels/a.png', grey8 + 1), ('labels/b.png', grey8*0 + 1),
           ('class_dict.csv', class_dict('index,name,r,g,b', index=True))),
     codes=None)
read('class_dict.csv with red, green, blue',
     files(*in_colors, ('class_dict.csv', class_dict('class,red,green,blue'))),
     codes=None)
refused('class_dict.csv that is not UTF-8',
        files(('class_dict.csv', 'name,r,g,b\nStra\xdfe,0,0,0\n'.encode('latin1')), name='class_dict.csv'),
        'is not UTF-8 text', 'save it anew as UTF-8', codes=None)
refused('counted from 1 beside 0 as don’t-care', save('a.png', (ids + 1).astype(np.uint8)), 'has id 3',
        'count from 1', '`ids=dict(enumerate(codes, 1))`', ignore=0)
refused('class_dict.csv with one colour twice',
        files(('class_dict.csv', 'name,r,g,b\nwater,0,0,0\nland,0,0,0\n'), name='class_dict.csv'), 'line 3',
        '(0, 0, 0) already belongs to class 0', codes=None)
read('classes of ArcGIS',
     files(('labels/a.png', grey8*10), ('esri_model_definition.emd', json.dumps(dict(Classes=esri)))),
     codes=None)

@pytest.fixture
def folder(tmp_path):
    for o in ('labels', 'images'): (tmp_path/o).mkdir()
    return tmp_path

def load(folder, make, codes=CODES, b=0, size=(4, 3), nameless=False, **kw):
    "The folder through `SpadeDataLoaders`, with a good pair beside the odd one, whose mask is all `b`"
    good = np.array(list(kw['table'])[0] if kw.get('table') else b, dtype=np.uint8)
    pil(rgb).resize(size).save(folder/'images/a.png')
    pil(rgb).resize(size).save(folder/'images/b.png')
    pil(np.tile(good, (size[1], size[0], 1)).squeeze()).save(folder/'labels/b.png')
    make(folder)
    return SpadeDataLoaders.from_folder(folder, codes=codes, bs=1, shuffle=False, **{'item_tfms': [], **kw})

def ids_of(dls, stem='a'):
    for ds, dl in ((dls.train_ds, dls.train), (dls.valid_ds, dls.valid)):
        for i, b in zip(ds.items, dl, strict=False):
            if bare_stem(Path(str(i[0])).stem) == stem: return plain(b[0])[0].numpy()

@pytest.mark.odd
@pytest.mark.parametrize('name', READ)
def test_is_read(name, folder):
    make, kw, want = READ[name]
    np.testing.assert_array_equal(ids_of(load(folder, make, **kw)), want)

@pytest.mark.odd
@pytest.mark.parametrize('name', REFUSED)
def test_is_refused(name, folder):
    make, kw, says = REFUSED[name]
    with pytest.raises(MaskError) as e: load(folder, make, **kw)
    text = str(e.value)
    for o in [*says, '' if kw.get('nameless') else make.name]: assert o in text, f'{o!r} is not in: {text}'
    assert e.value.kind in KINDS
    again = pickle.loads(pickle.dumps(e.value))                     # as from a process that loads
    assert (type(again), str(again), again.kind) == (type(e.value), text, e.value.kind)

# What a program reads in place of the text: kind, name of the file, and the value as far as it is simple
FACTS = {
    '255, undeclared': ('id', 'a.png', [255]), 'multiplied by 100': ('id', 'a.png', [100, 200]),
    'NaN, undeclared': ('no_value', 'a.tif', 4), 'colours without a table': ('no_table', 'a.png', None),
    'a colour that is not in the table': ('color', 'a.png', [(200, 200, 200)]),
    'fractions': ('number', 'a.tif', .5), 'several pages': ('frames', 'a.tif', 2), 'jpeg': ('lossy', 'a.jpg', 'JPEG'),
    'CMYK': ('mode', 'a.tif', 'CMYK'), 'half transparent pixels': ('alpha', 'a.png', 12),
    '16 bit photo': ('depth', 'a.png', 'I;16B'), 'photo of six bands': ('bands', 'a.npy', 6),
    'a photo to be turned': ('turned', 'a.jpg', 6), 'a photo of another size': ('size', 'a.png', ((4, 3), (4, 2))),
    'npy of one dimension': ('shape', 'a.npy', (12,)), 'an empty file': ('unreadable', 'a.png', None),
    'half a pixel beside': ('grid', 'a.tif', None), 'no codes at all': ('classes', None, None)}

@pytest.mark.parametrize('name', FACTS)
def test_facts_of_an_error(name, folder):
    make, kw, _ = REFUSED[name]
    kind, file, value = FACTS[name]
    with pytest.raises(MaskError) as e: load(folder, make, **kw)
    assert e.value.kind == kind and e.value.value == value
    if file: assert Path(e.value.file).name == file

def test_the_table_is_long_enough(): assert len(READ) + len(REFUSED) >= 145
