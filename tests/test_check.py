"What `check_masks` and `spade-check` say of folders with trouble, and that the code they print loads them as it says"
import re, unicodedata
import numpy as np, pytest
from pathlib import Path
from PIL import Image
from spade_fastai.data.check.report import *
from spade_fastai.commands.check import main
from spade_fastai.data.errors import *
from spade_fastai.data.images import *
from spade_fastai.data.pairs import bare_stem
from spade_fastai.data.items import *

ids = np.kron(np.array([[0, 1, 2], [2, 1, 0], [0, 0, 2]]), np.ones((16, 16), dtype=int))     # 48x48
CODES = ['water', 'land', 'road']
COLORS = np.array([(0, 0, 200), (0, 128, 0), (200, 200, 200)], dtype=np.uint8)

def save(fn, a, **kw):
    fn.parent.mkdir(parents=True, exist_ok=True)
    np.save(fn, a) if fn.suffix == '.npy' else (a if isinstance(a, Image.Image) else Image.fromarray(a)).save(fn, **kw)

def folder(path, masks, images=None, ext='.png', n=4, labels='labels', photos='images', suffix=''):
    "A data set of `n` pairs; `masks` and `images` are arrays, or functions of the number that give one"
    rng = np.random.default_rng(0)
    for i in range(n):
        save(path/labels/f'{i}{suffix}{ext}', masks(i) if callable(masks) else masks)
        save(path/photos/f'{i}.png', rng.integers(0, 256, (48, 48, 3)).astype(np.uint8) if images is None else images)
    return path

def load(report):
    "The DataLoaders of the printed code"
    names = dict(globals())
    exec(report.code, names)
    return names['dls']

def first_ids(dls, stem='0'):
    "The ids of the mask with this stem, as batches have them"
    for dl in (dls.train, dls.valid):
        for m, *_ in dl.dataset.items if hasattr(dl.dataset, 'items') else []:
            if bare_stem(Path(str(m)).stem) == stem: return np.array(dls.reader(m))

grey = ids.astype(np.uint8)
small = Image.fromarray(COLORS[ids].astype(np.uint8)).resize((96, 96), Image.BILINEAR)
smooth = np.array(small.resize((48, 48), Image.BILINEAR))
with_255 = np.where(ids == 2, 255, ids).astype(np.uint8)
see_through = np.dstack([COLORS[ids], np.where(ids == 2, 0, 255)]).astype(np.uint8)
NAMED = dict(codes=CODES)
TABLE = {tuple(c): i for i, c in enumerate(COLORS.tolist())}
AS_TABLE = 'table={(0, 0, 200): 0, (0, 128, 0): 1, (200, 200, 200): 2}'

def third(a): return lambda i: a if i == 2 else grey
def noise(i): return np.random.default_rng(i).integers(0, 256, (48, 48, 3)).astype(np.uint8)
def nine(i): return COLORS[ids] if i else np.where((ids == 1)[..., None], 9, COLORS[ids]).astype(np.uint8)
def own_palette(i):
    "A palette picture whose indices only mean something beside its own palette, as Pillow's `quantize` makes them"
    order = [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)][i]
    im = Image.fromarray(np.argsort(order)[ids].astype(np.uint8)).convert('P')
    im.putpalette(COLORS[list(order)].ravel().tolist())
    return im
def parts(p, *names):
    "Folders train/masks, train/images and so on"
    for o in names: folder(p, grey, labels=f'{o}/masks', photos=f'{o}/images')
    return p

# name: (maker, keyword arguments of check_masks, what it says, the ids that its code gives)
CASES = dict(
    no_names=(lambda p: folder(p, grey), {}, ['names are made up'], ids),
    gaps=(lambda p: folder(p, np.array([10, 30, 40], dtype=np.uint8)[ids]), {}, ["30: 'class 30'"], ids),
    counted_from_one=(lambda p: folder(p, grey + 1), NAMED,
                      ['value 3', 'count from 1', '`ids=dict(enumerate(codes, 1))`'], ids),
    multiplied=(lambda p: folder(p, grey*100), NAMED, ['multiples of 100', "ids={0: 'water', 100: 'land', …}"], ids),
    black_and_white=(lambda p: folder(p, (ids == 1).astype(np.uint8)*255), dict(codes=['no', 'yes']),
                     ['black and white', "ids={0: 'no', 255: 'yes'}"], ids == 1),
    dont_care=(lambda p: folder(p, third(with_255)), NAMED,
               ['value 255 is in 1 file', 'most in labels/2.png (33.3% of it)', 'pass `ignore=255`'], ids),
    dont_care_without_names=(lambda p: folder(p, with_255), {},
                             ['value 255', "taken for don't-care", 'pass `ignore=255`'], np.where(ids == 2, 2, ids)),
    negative=(lambda p: folder(p, ids.astype(np.int32) - 1, ext='.tif'), {}, ['value -1', "don't-care"],
              np.where(ids == 0, 2, ids - 1)),
    an_id_beyond=(lambda p: folder(p, third((ids*3).astype(np.uint8))), NAMED,
                  ['value 6 is in 1 file', 'value 3 is in 1 file', 'add its name to the codes'], ids),
    colours_without_names=(lambda p: folder(p, COLORS[ids]), {}, ['names are made up', AS_TABLE], ids),
    a_colour_too_many=(lambda p: folder(p, nine), dict(codes=CODES, table=TABLE),
                       ['colour (9, 9, 9) is in 1 file', '22.2% of it', 'add a row with r,g,b = 9,9,9'],
                       np.where(ids == 1, 3, ids)),
    smoothed_colours=(lambda p: folder(p, smooth), dict(codes=CODES, table=TABLE),
                      ['antialiased, or once saved as JPEG', '`tolerance='], None),
    coloured_jpeg=(lambda p: folder(p, COLORS[ids], ext='.jpg'), dict(codes=CODES, table=TABLE),
                   ['is a JPEG', 'save masks as PNG', 'and 3 more files'], None),
    suffixes=(lambda p: folder(p, grey, suffix='_mask', labels='x', photos='x'), NAMED,
              ["masks='x/*_mask.png'", "images='x/*.png'"], ids),
    train_and_val=(lambda p: parts(p, 'train', 'val'), NAMED,
                   ["masks=('train/masks', 'val/masks')", '4 pairs for training, 4 held back'], ids),
    npy=(lambda p: folder(p, ids, ext='.npy'), NAMED, ['masks 4 NPY'], ids),
    counted_from_one_beside_zero=(lambda p: folder(p, grey), dict(codes=['land', 'road'], ignore=0),
                                  ['value 2', 'count from 1'], np.where(ids == 0, 2, ids - 1)),
    own_palettes=(lambda p: folder(p, own_palette), {}, [AS_TABLE], ids),
    own_palettes_with_names=(lambda p: folder(p, own_palette), NAMED,
                             ['palettes differ: index 0 is colour (0, 0, 200) in labels/0.png',
                              'pass a class_dict.csv'], None),
    colours_beside_numbers=(lambda p: folder(p, lambda i: grey if i == 2 else COLORS[ids]), {},
                            ['3 masks are in colours (labels/0.png …) and 1 hold numbers (labels/2.png …)',
                             'pass a class_dict.csv'], ids),
    photos_for_masks=(lambda p: folder(p, noise, images=COLORS[ids]), {},
                      ['are masks and images the other way round?'], None),
    see_through=(lambda p: folder(p, see_through), {},
                 ['no value in 768 pixels (transparent', 'pass `ignore=255`',
                  'table={(0, 0, 200): 0, (0, 128, 0): 1}'], ids),
    npy_in_colours=(lambda p: folder(p, COLORS[ids], ext='.npy'), {}, [AS_TABLE], ids),
    one_class_only=(lambda p: folder(p, grey*0 + 1), NAMED, ["all masks hold one class only, 'land'"], ids*0 + 1),
    far_id_among_many_codes=(lambda p: folder(p, with_255), dict(codes=[f'c{i}' for i in range(300)]),
                             ["value 255 is class 'c255' here", 'pass `ignore=255` if so'],
                             np.where(ids == 2, 255, ids)),
    test_set_beside=(lambda p: parts(p, 'train', 'val', 'test'), NAMED,
                     ['other picture files were not looked at: 4 in test/images, 4 in test/masks'], ids),
    deep_images=(lambda p: folder(p, grey, images=(ids*5000).astype(np.uint16)), NAMED,
                 ['more than 8 bits', 'image_reader=ImageReader(percentiles=(2, 98))', 'copies of others'], ids),
)

@pytest.mark.parametrize('name', CASES)
def test_trouble_is_found_and_the_code_cures_it(name, tmp_path):
    make, kw, says, want = CASES[name]
    report = check_masks(make(tmp_path/'d'), progress=False, **kw)
    text = ' '.join(str(report).split())
    for o in says: assert o in text, f'{o!r} is not in {report}'
    assert 'it was run' in report.checked, report
    dls = load(report)
    dls.one_batch()
    if want is not None: np.testing.assert_array_equal(first_ids(dls), want)

def test_smoothed_masks_come_near(tmp_path):
    for masks, ext, least in ((smooth, '.png', .93), (COLORS[ids], '.jpg', .97)):
        p = folder(tmp_path/ext, masks, ext=ext)
        got = first_ids(load(check_masks(p, codes=CODES, table=TABLE, progress=False)))
        assert (got == ids).mean() > least

def test_clean_or_not(tmp_path, capsys):
    p = folder(tmp_path/'d', third(with_255))
    (p/'codes.txt').write_text('\n'.join(CODES))
    def status(*args):
        with pytest.raises(SystemExit) as e: main([str(o) for o in (p, *args)])
        return e.value.code
    assert status() == 1 and "ignore=255" in capsys.readouterr().out
    assert status('--ignore', '255') == 0
    assert status('--ignore', '255', '--masks', 'nowhere') not in (0, None)
    (p/'images/0.png').unlink()
    assert status('--ignore', '255') == 1
    assert '1 mask has no image: labels/0.png' in ' '.join(capsys.readouterr().out.split())

def test_counts_are_those_of_the_files(tmp_path):
    rng = np.random.default_rng(1)
    files = [rng.integers(0, 3, (48, 48)).astype(np.uint8) for _ in range(5)]
    report = check_masks(folder(tmp_path/'d', lambda i: files[i], n=5), codes=CODES, progress=False)
    assert report.classes['pixels'].tolist() == np.bincount(np.concatenate(files).ravel()).tolist() and report.clean
    assert report.show() is not None

def test_forms_of_folders_in_the_wild(tmp_path):
    "As Pascal VOC, Roboflow, CVAT and LoveDA have them; and files that only numbers tell apart"
    photo = np.random.default_rng(0).integers(0, 256, (48, 48, 3)).astype(np.uint8)
    voc = Image.fromarray(np.where(ids == 2, 255, ids).astype(np.uint8)).convert('P')
    voc.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0]*85)
    for i in range(12):
        save(tmp_path/f'voc/JPEGImages/2007_{i:06}.jpg', photo)
        if i < 4: save(tmp_path/f'voc/SegmentationClass/2007_{i:06}.png', voc)
        s, part = ('train', 'Train') if i < 8 else ('valid', 'Val')
        save(tmp_path/f'robo/{s}/a{i}_jpg.rf.{i}ab.jpg', photo)
        save(tmp_path/f'robo/{s}/a{i}_jpg.rf.{i}ab_mask.png', grey)
        save(tmp_path/f'cvat/SegmentationClass/{i}.png', COLORS[ids])
        save(tmp_path/f'cvat/JPEGImages/{i}.jpg', photo)
        for place in ('Rural', 'Urban'):
            save(tmp_path/f'love/{part}/{place}/masks_png/{i}.png', grey)
            save(tmp_path/f'love/{part}/{place}/images_png/{i}.png', photo)
        save(tmp_path/f'flat/mask{i}.png', np.dstack([grey]*3))
        save(tmp_path/f'flat/img{i}.jpg', photo)
    (tmp_path/'robo/train/_classes.csv').write_text('Pixel Value, Class\n0, water\n1, land\n2, road\n')
    rows = [f'{n}:{r},{g},{b}::\n' for n, (r, g, b) in zip(CODES, COLORS.tolist(), strict=True)]
    (tmp_path/'cvat/labelmap.txt').write_text('# label:color_rgb:parts:actions\n' + ''.join(rows))
    want = dict(voc=(4, np.where(ids == 2, 2, ids)), robo=(12, ids), cvat=(12, ids), love=(24, ids), flat=(12, ids))
    for name, (n, truth) in want.items():
        report = check_masks(tmp_path/name, progress=False)
        dls = load(report)
        assert len(dls.train_ds) + len(dls.valid_ds) == n, report
        for m, *_ in dls.train.items: np.testing.assert_array_equal(np.array(dls.reader(m)), truth)
        if name in ('robo', 'cvat'): assert dls.codes == CODES
        if name in ('robo', 'love'): assert len(dls.valid_ds) == n//3
        assert ('only_pairs=True' in report.code) == (name == 'voc')

def test_more_forms_of_folders(tmp_path):
    "As labelme, SpaceNet, ISPRS, WorldCover and spreadsheets have them"
    rng, de = np.random.default_rng(0), 'Stra\u00dfe K\u00f6ln'
    vis = Image.fromarray(grey).convert('P'); vis.putpalette(COLORS.ravel().tolist())
    tables = dict(semicolon=('image;mask;split', 'pics/x{i}.png;lbl/y{i}.png;{s}'),
                  windows=('image_path,label_path', r'pics\x{i}.png,lbl\y{i}.png'),
                  german=('Bild;Maske', 'pics/x{i}.png;lbl/y{i}.png'))
    mac = unicodedata.normalize('NFD', de)
    for i in range(12):
        photo = rng.integers(0, 256, (48, 48, 3)).astype(np.uint8)
        height = photo[..., 0].astype(np.float32)/7
        files = {f'labelme/a{i}_json/img': photo, f'labelme/a{i}_json/label': vis,
                 f'labelme/a{i}_json/label_viz': photo,
                 f'spacenet/PanSharpen/RGB-PanSharpen_AOI_2_img{i}': photo, f'spacenet/masks/mask_AOI_2_img{i}': grey,
                 f'isprs/top/top_area{i}': photo, f'isprs/gts/top_area{i}': grey,
                 f'worldcover/s2/s2_{i}': photo, f'worldcover/worldcover/worldcover_{i}': grey,
                 f'zeros/images/image_{i + 1}': photo, f'zeros/masks/mask_{i + 1:03}': grey,
                 f'mac/images/{mac} {i}': photo, f'mac/masks/{de} {i}': grey}
        for name in tables: files |= {f'{name}/pics/x{i}': photo, f'{name}/lbl/y{i}': grey}
        for name, a in files.items(): save(tmp_path/f'{name}.png', a)
        save(tmp_path/f'isprs/dsm/dsm_area_{i}.tif', height)
    for name, (head, row) in tables.items():
        rows = [row.format(i=i, s='train' if i < 8 else 'val') for i in range(12)]
        (tmp_path/name/'pairs.csv').write_text('\n'.join([head, *rows]))
    for name in ('labelme', 'spacenet', 'isprs', 'worldcover', 'zeros', 'mac', *tables):
        dls = load(check_masks(tmp_path/name, progress=False))
        items = [*dls.train.items, *dls.valid.items]
        assert len(items) == 12, name
        for m, *_, i in items:
            last = [re.findall(r'\d+', str(o.relative_to(tmp_path)))[-1].lstrip('0') for o in (m, i)]
            assert last[0] == last[1], (m, i)
            np.testing.assert_array_equal(np.array(dls.reader(m)), ids)
        if name == 'semicolon': assert len(dls.valid_ds) == 4

def test_ade20k_counted_from_zero(tmp_path):
    for i, s in enumerate(('training', 'training', 'validation')):
        save(tmp_path/f'images/{s}/{i}.jpg', np.zeros((48, 48, 3), np.uint8))
        save(tmp_path/f'annotations/{s}/{i}.png', with_255)
    report = check_masks(tmp_path, progress=False)
    assert 'seem to count from 0 already' in ' '.join(str(report).split())
    np.testing.assert_array_equal(first_ids(load(report)), np.where(ids == 2, 150, ids))

def test_what_cannot_be_guessed_is_asked_for(tmp_path):
    for i in range(3): save(tmp_path/f'a/{i}.png', grey), save(tmp_path/f'b/{i}.png', grey)
    (tmp_path/'c').mkdir()
    says = 'does not tell which files are masks; name folders .*there are the folders: a .3 files., b .3 files.'
    with pytest.raises(MaskError, match=says) as e: check_masks(tmp_path, progress=False)
    assert e.value.kind == 'layout'
    with pytest.raises(ValueError, match='no picture files'): check_masks(tmp_path/'c', progress=False)
    with pytest.raises(FileNotFoundError, match='there is no folder'): check_masks(tmp_path/'d', progress=False)

def test_quick_check_looks_once(tmp_path, monkeypatch):
    import spade_fastai.data.check.report as check
    dls = SpadeDataLoaders.from_folder(folder(tmp_path/'d', grey), CODES, bs=2, item_tfms=[])
    quick_check(dls)
    monkeypatch.setattr(check, 'header_size', None)                   # a second look would fail
    quick_check(dls)
    monkeypatch.undo()
    fn = Path(dls.train.items[0][1])
    fn.write_bytes(fn.read_bytes()[:200])
    with pytest.raises(ValueError, match=fn.name): quick_check(dls)

# Kinds, not texts

def test_a_message_may_be_worded_anew(tmp_path, monkeypatch):
    "Cures come from the kinds of errors, so another text changes no code"
    def codes(p, **kw): return re.sub(r"'/[^']*'", 'PATH', check_masks(p, progress=False, **kw).code)
    made = dict(deep=(folder(tmp_path/'deep', grey, images=(ids*5000).astype(np.uint16)), NAMED),
                broken=(folder(tmp_path/'broken', grey), NAMED), alpha=(folder(tmp_path/'alpha', see_through), {}),
                unknown=(folder(tmp_path/'unknown', third(with_255)), NAMED))
    (tmp_path/'broken/labels/1.png').write_bytes(b'<html>')
    before = {k: codes(p, **kw) for k, (p, kw) in made.items()}
    monkeypatch.setattr(MaskError, '__str__', lambda e: 'es ist etwas faul')
    assert {k: codes(p, **kw) for k, (p, kw) in made.items()} == before
    assert "skip=['labels/1.png']" in before['broken'] and 'percentiles' in before['deep']
    assert 'ignore=255' in before['unknown']

def test_errors_of_one_kind_are_one_finding(tmp_path):
    p = folder(tmp_path/'d', grey, n=6)
    for i in range(3): (p/f'labels/{i}.png').write_bytes(b'<html>')
    (p/'images/4.png').write_bytes(b'')
    errors = check_masks(p, codes=CODES, progress=False).errors
    assert [len(o.files) for o in errors] == [3, 1]
    assert 'and 2 more files: labels/1.png, labels/2.png' in errors[0].text and '4.png' in errors[1].text

# Real folders

def ran(report, *says):
    text = ' '.join(str(report).split())
    for o in says: assert o in text, f'{o!r} is not in {report}'
    assert 'it was run' in report.checked
    dls = load(report)
    mask = dls.one_batch()[0]
    assert 0 <= int(mask.min()) and int(mask.max()) <= dls.n_classes
    return dls

def test_dubai(shared):
    says = ('PNG P', 'PNG RGB', 'the palette files (masks/tile2_', "class 5 is called 'unlabeled'",
            'sizes, from 509x544', '9 of 72 pairs of split.csv are in neither part')
    dls = ran(check_masks(shared/'data/landcover', limit=9, progress=False), *says)
    assert (len(dls.train_ds), len(dls.valid_ds), dls.n_classes) == (55, 8, 6)

def test_dubai_undocumented_black(shared, tmp_path):
    rows = (shared/'data/landcover/class_dict.csv').read_text().splitlines()
    (tmp_path/'class_dict.csv').write_text('\n'.join(o for o in rows if 'black' not in o))
    some = dict(masks='masks/*_part003.png', images='images/*_part003.jpg')
    report = check_masks(shared/'data/landcover', **some, codes=tmp_path/'class_dict.csv', progress=False)
    dls = ran(report, 'colour (0, 0, 0) is in', 'most in masks/tile8_part003.png (1', 'add a row with r,g,b = 0,0,0')
    assert not report.clean and dls.ignore == 255

def test_camvid(shared):
    says = ("class 11 is called 'unlabelled'", 'pass `ignore=11`', "masks=('trainannot', 'valannot')",
            "images=('train', 'val')")
    dls = ran(check_masks(shared/'data/camvid', limit=40, progress=False), *says)
    assert (len(dls.train_ds), len(dls.valid_ds), dls.n_classes) == (367, 101, 12)

def test_coco(shared):
    report = check_masks(shared/'data/extra/coco_stuff_sample', progress=False)
    dls = ran(report, 'from_coco(', "don't-care", 'sizes, from')
    assert (len(dls.train_ds), len(dls.valid_ds), dls.n_classes, dls.n_inp) == (13, 8, 182, 2)

def test_chesapeake_patches(shared):
    report = check_masks(shared/'data/extra/chesapeake_patches', progress=False)
    dls = ran(report, "ids={2: 'class 2', 3: 'class 3', 5: 'class 5', 6: 'class 6'}", 'over 95 % one class')
    m = dls.train.items[0][0]
    np.testing.assert_array_equal(np.array(dls.reader(m)), np.searchsorted([2, 3, 5, 6], np.array(Image.open(m))))

def test_georeferenced(shared):
    pytest.importorskip('rasterio', reason='needs rasterio: pip install "spade-fastai[geo]"')
    geo = shared/'data/geo'
    report = check_masks(geo/'chesapeake_naip', '*_lc.tif', '*_naip-new.tif', progress=False)
    assert report.clean and ran(report, "6: 'class 6'").n_classes == 6
    report = check_masks(geo/'baguio_landsat', 'landcover-30m.tif', 'merged-landsat.tif', progress=False)
    dls = ran(report, 'lie on different grids', '326x277', '325x277', '`align=True`', 'align=True,', '6 bands',
              'value 0, the NoData of the file', 'percentiles=(2, 98)')
    assert not report.clean and dls.ignore == 0
    report = check_masks(geo/'storm_lake', 'storml_evt.tif', 'sr_b4_20200829.tif', progress=False)
    dls = ran(report, 'lie on different grids', '143x107', '149x112', 'value 32767, the NoData of the file',
              'ignore=32767', "7011: 'class 7011'")
    assert dls.n_classes == 23
    report = check_masks(geo/'sen1floods11_spain', progress=False)
    assert ran(report, 'value -1 is in 1 file', 'ignore=-1', '13 bands', 'bands=(4, 3, 2)').n_classes == 2
