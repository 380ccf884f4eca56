"`check_masks` sees what the reader sees: what `from_folder` reads is clean, and one bad file is one finding"
import hashlib, io, os, re, warnings
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from spade_fastai.palette import *
from spade_fastai.palette import printable
from spade_fastai.commands.check import main
from spade_fastai.data.check.cures import guess_values
from spade_fastai.data.check.doubts import Seen, doubts
from spade_fastai.data.check.findings import unnamed
from spade_fastai.data.check.look import Look, look_at, tally
from spade_fastai.data.check.report import *
from spade_fastai.data.errors import *
from spade_fastai.data.images import *
from spade_fastai.data.items import *
from spade_fastai.data.readers import *
from spade_fastai.data.show import show_tiles

ids = np.kron(np.array([[0, 1, 1, 0], [1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]]), np.ones((8, 8), dtype=int))   # 32x32
THREE = np.kron(np.array([[0, 1, 2, 0], [2, 0, 1, 1], [0, 2, 1, 0], [1, 1, 0, 2]]), np.ones((8, 8), dtype=int))
ROAD = 'name,r,g,b\nroad,255,255,255\nbackground,0,0,0\n'

def save(fn, a, **kw):
    fn.parent.mkdir(parents=True, exist_ok=True)
    np.save(fn, a) if fn.suffix == '.npy' else (a if isinstance(a, Image.Image) else Image.fromarray(a)).save(fn, **kw)

def folder(path, mask, n=3, ext='.png', photos='.png', at='', **files):
    "A data set of `n` pairs with the same mask, and text files `files`, a dot in their names written as __"
    rng = np.random.default_rng([*at.encode()])
    for i in range(n):
        save(path/at/f'labels/{i}{ext}', mask)
        save(path/at/f'images/{i}{photos}', rng.integers(0, 256, (32, 32, 3)).astype(np.uint8))
    for k, v in files.items(): (path/k.replace('__', '.')).write_text(v)
    return path

def check(path, **kw): return check_masks(path, progress=False, **kw)
def text(report): return ' '.join(str(report).split())
def readings(dls): return [np.array(dls.reader(m)) for dl in dls.loaders[:2] for m, *_ in dl.items]
def grey(*values): return np.array(values, dtype=np.uint8)
def paletted(a, *colors):
    im = Image.fromarray(a.astype(np.uint8)).convert('P')
    im.putpalette(np.array(colors, dtype=np.uint8).ravel().tolist())
    return im
def with_alpha(a, hidden): return np.dstack([a, a, a, np.where(hidden, 0, 255)]).astype(np.uint8)

# A. The check and the reader read alike

ABC = 'name,r,g,b\na,128,128,128\nb,0,0,0\nc,255,255,255\n'
JSON = '{"Classes": [{"Value": 10, "Name": "x"}, {"Value": 30, "Name": "y"}]}'
road, abc = grey(255, 0)[ids], grey(128, 0, 255)[THREE]
AS_READ = dict(                                    # (mask, file ending, class files, options, the ids)
    three_equal_channels=(np.dstack([road]*3), '.png', dict(class_dict__csv=ROAD), {}, ids),
    one_channel=(road, '.png', dict(class_dict__csv=ROAD), {}, ids),
    one_bit=(Image.fromarray(road > 0), '.png', dict(class_dict__csv=ROAD), {}, ids),
    numpy=(road, '.npy', dict(class_dict__csv=ROAD), {}, ids),
    tiff=(road, '.tif', dict(class_dict__csv=ROAD), {}, ids),
    rgba=(np.dstack([road]*3 + [road*0 + 255]), '.png', dict(class_dict__csv=ROAD), {}, ids),
    grey_and_alpha=(Image.fromarray(road).convert('LA'), '.png', dict(class_dict__csv=ROAD), {}, ids),
    grey_palette=(paletted(1 - ids, (0, 0, 0), (255, 255, 255)), '.png', dict(class_dict__csv=ROAD), {}, ids),
    palette_turned=(paletted(ids, (0, 0, 0), (255, 255, 255)), '.png', dict(class_dict__csv=ROAD), {}, 1 - ids),
    palette_of_other_colours=(paletted(ids, (9, 0, 0), (0, 9, 0)), '.png', dict(class_dict__csv=ROAD), {}, ids),
    permuted=(abc, '.png', dict(class_dict__csv=ABC), {}, THREE),
    permuted_rgb=(np.dstack([abc]*3), '.png', dict(class_dict__csv=ABC), {}, THREE),
    zero_and_one=(grey(1, 0)[ids], '.png', dict(class_dict__csv=ROAD.replace('255', '1')), {}, ids),
    emd=(grey(10, 30)[ids], '.png', dict(esri_model_definition__emd=JSON), dict(masks='labels', images='images'), ids),
    index_column=(grey(7, 9)[ids], '.png', dict(class_dict__csv='index,name\n9,y\n7,x\n'), {}, ids),
    cvat=(np.dstack([road]*3), '.png', dict(labelmap__txt='road:255,255,255::\nno:0,0,0::\n'), {}, ids),
    a_class_is_ignored=(abc, '.png', dict(class_dict__csv=ABC), dict(ignore=1), np.where(THREE == 1, 3, THREE)),
    tolerance=(grey(250, 3)[ids], '.png', dict(class_dict__csv=ROAD), dict(tolerance=8), ids),
    ignored_value_in_table=(road, '.png', {}, dict(codes=['road', 'no'], ignore=255,
                            table={(255,)*3: 0, (0,)*3: 1, (9,)*3: 255}), ids),
    hidden_colours=(with_alpha(road, ids == 3), '.png', dict(class_dict__csv=ROAD), {}, ids),
)

@pytest.mark.parametrize('name', AS_READ)
def test_what_is_read_is_clean_and_read_alike(name, tmp_path):
    mask, ext, files, kw, truth = AS_READ[name]
    p = folder(tmp_path/'d', mask, ext=ext, **files)
    where = {'masks': 'labels', 'images': 'images', **kw}
    dls = SpadeDataLoaders.from_folder(p, **where, size=32, bs=1)
    report = check(p, **kw)
    assert report.clean, report
    if 'ids' not in kw: assert 'ids=' not in str(report)
    again = report.sentence.run()
    assert again.codes == dls.codes == report.reader.codes
    for a, b in zip(readings(again), readings(dls), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, truth)
    shown = dict(zip(report.classes['id'], report.classes['pixels'], strict=True))
    assert shown == {i: 3*int((truth == i).sum()) for i in range(dls.n_classes + (truth == dls.n_classes).any())}

def test_chips_are_read_by_a_table_of_greys_too(tmp_path):
    pytest.importorskip('rasterio', reason='needs rasterio: pip install "spade-fastai[geo]"')
    table = ROAD.replace('255', '1')                                          # whose greys are ids the other way round
    p = folder(tmp_path/'d', grey(1, 0)[ids], ext='.tif', photos='.tif', class_dict__csv=table)
    chips = SpadeDataLoaders.from_scenes(p/'images', p/'labels', p/'class_dict.csv', size=32, bs=1)
    masks = [np.array(chips.train_ds[i][0]) for i in range(len(chips.train_ds))]
    assert check(p).clean and masks and np.mean(masks) == ids.mean()

WRONG = dict(
    ids=(dict(class_dict__csv=ROAD), dict(ids={0: 'road', 255: 'background'}), "'background' and are 'road'"),
    table=(dict(class_dict__csv=ROAD), dict(table={(0, 0, 0): 0, (255, 255, 255): 1}), "'background' and are 'road'"),
    file_said_again=(dict(class_dict__csv=ROAD), dict(codes='class_dict.csv', table={(0,)*3: 0, (255,)*3: 1}), 'road'),
    values=(dict(class_dict__csv='index,name\n0,road\n255,background\n'), dict(ids={255: 'road', 0: 'background'}),
            "'road' and are 'background'"),
)

@pytest.mark.parametrize('name', WRONG)
def test_code_that_contradicts_the_class_file_is_not_shown(name, tmp_path):
    files, kw, says = WRONG[name]
    p = folder(tmp_path/'d', road, **files)
    if 'codes' in kw: kw = {**kw, 'codes': p/kw['codes']}
    report = check(p, **kw)
    assert report.code is None and not report.clean and isinstance(report.checked, MaskError)
    assert 'no code is shown' in text(report) and says in text(report) and 'labels/0.png' in text(report)
    assert 'dls =' not in str(report) and 'class_dict.csv' in str(report.checked)

def test_names_in_another_order_are_no_contradiction(tmp_path):
    p = folder(tmp_path/'d', road, class_dict__csv=ROAD)
    report = check(p, ids={0: 'background', 255: 'road'})
    assert report.clean
    for a in readings(report.sentence.run()): np.testing.assert_array_equal(a, 1 - ids)

def test_a_cure_does_not_turn_values_that_a_file_names(tmp_path):
    "Values 1 and 2 look as if they counted from one, but the file says what 1 is"
    p = folder(tmp_path/'a', (ids + 1).astype(np.uint8), class_dict__csv='index,name\n0,road\n1,background\n')
    report = check(p)
    assert report.code is None and "'road' and are 'background'" in text(report)
    names = folder(tmp_path/'b', (ids + 1).astype(np.uint8), codes__txt='road\nbackground')    # says only names
    assert 'ids={1: ' in check(names).code

def test_black_and_white_beside_a_coloured_table(tmp_path):
    p = folder(tmp_path/'d', grey(255, 0)[ids], class_dict__csv='name,r,g,b\nroad,255,0,0\nbackground,0,0,0\n')
    report = check(p)
    assert not report.clean and "ids={0: 'background', 255: 'road'}" in text(report)
    for a in readings(report.sentence.run()): np.testing.assert_array_equal(a, ids)

def test_an_error_behind_an_error_is_found_too(tmp_path):
    "Transparent pixels are refused first; then there is a value without a name"
    a = with_alpha(THREE, THREE == 1)
    report = check(folder(tmp_path/'d', a), codes=['x', 'y'])
    assert 'transparent' in text(report) and 'value 2 is in 3 files' in text(report) and 'it was run' in report.checked
    for o in readings(report.sentence.run()): np.testing.assert_array_equal(o, np.where(THREE == 1, 3, THREE))

def test_colours_without_a_table_are_an_error(tmp_path):
    report = check(folder(tmp_path/'d', np.dstack([ids*9, ids, ids]).astype(np.uint8)), codes=['x', 'y'])
    assert not report.clean and 'say which colour is which class' in report.errors[0].text

# Bands

def photos_of(path, *bands):
    pytest.importorskip('rasterio', reason='needs rasterio: pip install "spade-fastai[geo]"')
    import rasterio
    warnings.simplefilter('ignore', rasterio.errors.NotGeoreferencedWarning)
    (path/'images').mkdir(parents=True)
    for i, n in enumerate(bands):
        save(path/f'labels/{i}.png', grey(0, 1)[ids])
        kind = dict(driver='GTiff', width=32, height=32, count=n, dtype='uint8')
        with rasterio.open(path/f'images/{i}.tif', 'w', **kind) as f:
            f.write(np.random.default_rng(i).integers(0, 256, (n, 32, 32)).astype(np.uint8))
    return path

@pytest.mark.parametrize('photos', ['.png', '.jpg', '.tif'])
def test_bands_beyond_three_are_said_and_not_exchanged(photos, tmp_path):
    p = folder(tmp_path/'d', grey(0, 1)[ids], photos=photos, codes__txt='a\nb')
    report = check(p, image_reader=ImageReader(bands=(4, 3, 2)))
    assert not report.clean and 'bands' in report.errors[0].text and 'ImageReader' not in report.code
    x = report.sentence.run(shuffle=False).train_ds
    np.testing.assert_array_equal(np.array(x[0][1]), np.array(ImageReader().encodes(x.items[0][1])))

def test_images_of_other_bands_than_the_rest_are_left_out(tmp_path):
    p = photos_of(tmp_path/'d', 4, 4, 4, 3)
    (p/'codes.txt').write_text('a\nb')
    report = check(p, image_reader=ImageReader(bands=(4, 3, 2)))
    assert "skip=['labels/3.png']" in report.code and 'bands=(4, 3, 2)' in report.code
    mixed = photos_of(tmp_path/'e', 3, 3, 3, 6)
    (mixed/'codes.txt').write_text('a\nb')
    report = check(mixed)                                   # bands for six would exchange red and blue of the others
    assert "skip=['labels/3.png']" in report.code and 'ImageReader' not in report.code

# To the last pixel

def cut(fn, tail=b''):
    old = fn.read_bytes()
    fn.write_bytes(old[:len(old)//2] + tail)

CUTS = dict(jpeg=('.jpg', b''), png=('.png', b''), png_that_ends=('.png', b'\0\0\0\0IEND\xaeB`\x82'),
            tiff=('.tif', b''), bmp=('.bmp', b''), npy=('.npy', b''))

@pytest.mark.parametrize('kind', CUTS)
def test_files_that_were_cut_are_found(kind, tmp_path):
    ext, tail = CUTS[kind]
    p = folder(tmp_path/'d', grey(0, 1)[ids], photos=ext, codes__txt='a\nb', n=4)
    assert check(p).clean
    cut(p/f'images/1{ext}', tail)
    report = check(p)
    assert [f'images/1{ext}' in o.text for o in report.errors] == [True]
    assert report.errors[0].files == [p/f'images/1{ext}']
    assert "skip=['labels/1.png']" in report.code and 'it was run' in report.checked

@pytest.mark.parametrize('ext', ['.png', '.tif', '.npy'])
def test_masks_that_were_cut_are_found(ext, tmp_path):
    noise = np.random.default_rng(0).integers(0, 2, (32, 32)).astype(np.uint8)
    p = folder(tmp_path/'d', noise, ext=ext, codes__txt='a\nb', n=4)
    cut(p/f'labels/1{ext}')
    report = check(p)
    assert len(report.errors) == 1 and f'labels/1{ext}' in report.errors[0].text
    assert f"skip=['labels/1{ext}']" in report.code

def test_a_raster_is_read_to_its_end(tmp_path):
    p = photos_of(tmp_path/'d', 6, 6, 6)
    (p/'codes.txt').write_text('a\nb')
    eye = ImageReader(bands=(3, 2, 1), percentiles=(2, 98))
    assert check(p, image_reader=eye).clean
    cut(p/'images/1.tif')
    report = check(p, image_reader=eye)
    assert len(report.errors) == 1 and 'images/1.tif' in report.errors[0].text

def test_instance_maps_are_looked_at(tmp_path):
    p = folder(tmp_path/'d', grey(0, 1)[ids], codes__txt='a\nb', n=4)
    for i in range(4): save(p/f'instances/{i}.png', ids.astype(np.uint16))
    report = check(p)
    assert report.clean and "instances='instances'" in report.code
    save(p/'instances/2.png', ids[:16].astype(np.uint16))
    (p/'instances/3.png').write_bytes(b'')
    report = check(p)
    assert ['instances/2.png' in o.text for o in report.errors] == [True, False]
    assert 'instances/3.png' in report.errors[1].text and "skip=['labels/2.png', 'labels/3.png']" in report.code

def test_clean_means_that_it_loads(tmp_path, monkeypatch):
    p = folder(tmp_path/'d', grey(0, 1)[ids], codes__txt='a\nb')
    assert check(p).clean
    def broken(*args, **kwargs): raise RuntimeError('no batch today')
    monkeypatch.setattr('spade_fastai.data.block.SpadeDL.one_batch', broken)
    report = check(p)
    assert not report.clean and not report.errors and 'no batch today' in text(report)

# B. One bad file is one finding

def spoil_mask(p): (p/'labels/1.png').write_bytes(b'')
def spoil_image(p): (p/'images/1.png').write_bytes(b'<html>')
def lead_nowhere(p): (p/'labels/1.png').unlink(), (p/'labels/1.png').symlink_to('gone.png')
def lead_round(p): (p/'images/1.png').unlink(), (p/'images/1.png').symlink_to('1.png')
def make_pipe(p): (p/'labels/1.png').unlink(), os.mkfifo(p/'labels/1.png')
def make_image_pipe(p): (p/'images/1.png').unlink(), os.mkfifo(p/'images/1.png')
BAD = dict(spoil_mask='labels/1.png', spoil_image='images/1.png', lead_nowhere='labels/1.png',
           lead_round='images/1.png', make_pipe='labels/1.png', make_image_pipe='images/1.png')

@pytest.mark.parametrize('how', BAD)
def test_one_bad_file_is_one_finding(how, tmp_path):
    p = folder(tmp_path/'d', grey(0, 1)[ids], n=4, codes__txt='a\nb')
    globals()[how](p)
    report = check(p)
    assert [BAD[how] in o.text for o in report.errors] == [True], report
    assert ('image ' in report.errors[0].text) == ('images' in BAD[how])
    assert len(report.looks) == 4 and "skip=['labels/1.png']" in report.code and 'it was run' in report.checked

def test_folders_and_odd_files_beside_are_no_trouble(tmp_path):
    p = folder(tmp_path/'d', grey(0, 1)[ids], n=4, codes__txt='a\nb')
    (p/'results.csv').mkdir(), (p/'labels/x.png').mkdir(), os.mkfifo(p/'pipe.csv')
    (p/'class_dict.csv').mkdir()
    assert check(p).clean

def denied(monkeypatch, *names):
    "Files of these names cannot be opened (rights do not bind root); gives those that were tried"
    import builtins
    tried, real = [], io.open
    def opening(file, *args, **kwargs):
        if isinstance(file, (str, os.PathLike)) and any(str(file).endswith(o) for o in names):
            tried.append(str(file))
            raise PermissionError(13, 'Permission denied', str(file))
        return real(file, *args, **kwargs)
    monkeypatch.setattr(builtins, 'open', opening), monkeypatch.setattr(io, 'open', opening)
    return tried

@pytest.mark.parametrize('name', ['labels/1.png', 'images/1.png', 'images/1.jpg', 'images/1.tif', 'images/1.npy'])
def test_a_file_that_may_not_be_read(name, tmp_path, monkeypatch):
    photos = Path(name).suffix if name.startswith('images') else '.png'
    p = folder(tmp_path/'d', grey(0, 1)[ids], n=4, photos=photos, codes__txt='a\nb')
    tried = denied(monkeypatch, name)
    report = check(p)
    assert tried and [name in o.text and 'Permission denied' in o.text for o in report.errors] == [True], report
    assert len(report.looks) == 4 and "skip=['labels/1.png']" in report.code

@pytest.mark.parametrize('name', ['pairs.csv', 'codes.txt', 'class_dict.csv'])
def test_a_table_or_class_file_that_may_not_be_read(name, tmp_path, monkeypatch):
    p = folder(tmp_path/'d', grey(0, 1)[ids], n=4)
    (p/name).write_text('name,r,g,b\na,0,0,0\nb,1,1,1\n')
    tried = denied(monkeypatch, name)
    report = check(p)
    assert tried and not report.clean and 'it was run' in report.checked
    assert [name in o.text and 'Permission denied' in o.text for o in report.errors] == [True], report

@pytest.mark.parametrize('closed', ['', 'labels', 'images', 'more'])
def test_a_folder_that_may_not_be_read(closed, tmp_path, monkeypatch):
    p = folder(tmp_path/'d', grey(0, 1)[ids], n=4, codes__txt='a\nb')
    save(p/'more/9.png', ids.astype(np.uint8))
    tried, real = [], os.scandir
    def scandir(path='.'):
        if Path(path) == p/closed:
            tried.append(path)
            raise PermissionError(13, 'Permission denied', str(path))
        return real(path)
    monkeypatch.setattr(os, 'scandir', scandir)
    if closed == 'more':
        report = check(p)
        assert 'folder' in report.errors[0].text and 'Permission denied' in report.errors[0].text
        assert 'it was run' in report.checked
    else:
        for kw in ({}, dict(masks='labels', images='images')):
            with pytest.raises(MaskError, match='cannot look into folder .*Permission denied'): check(p, **kw)
    if closed in ('labels', 'images'):
        with pytest.raises(MaskError, match='Permission denied'): SpadeDataLoaders.from_folder(p, bs=1)
    assert tried

def test_whatever_a_library_raises_is_noted(tmp_path, monkeypatch):
    p = folder(tmp_path/'d', grey(0, 1)[ids], n=4, codes__txt='a\nb')
    real = ImageReader.encodes
    for kind in (MemoryError, RecursionError, OverflowError, KeyError, ZeroDivisionError, OSError):
        def opening(self, o, kind=kind):
            if Path(o).name == '2.png': raise kind('odd')
            return real(self, o)
        with monkeypatch.context() as m:
            m.setattr(ImageReader, 'encodes', opening)
            report = check(p)
        assert [str(p/'images/2.png') in o.text for o in report.errors] == [True], kind
        assert "skip=['labels/2.png']" in report.code

def test_a_file_that_disappears(tmp_path, monkeypatch):
    import spade_fastai.data.check.report as room
    p = folder(tmp_path/'d', grey(0, 1)[ids], n=4, codes__txt='a\nb')
    def gone(pair, **kwargs):
        if '1' in pair[0].stem: [o.unlink(missing_ok=True) for o in pair]
        return look_at(pair, **kwargs)
    monkeypatch.setattr(room, 'look_at', gone)
    report = check(p)
    assert 'there is no mask' in report.errors[0].text and len(report.looks) == 4 and 'it was run' in report.checked

def test_a_broken_table_is_one_finding(tmp_path):
    p = folder(tmp_path/'d', grey(0, 1)[ids], codes__txt='a\nb')
    (p/'pairs.csv').write_text('mask,image\n"labels/0.png,images/0.png\n')
    report = check(p)
    assert 'pairs.csv' in report.errors[0].text and 'it was run' in report.checked

# C. Names are text

EVIL = 'a\x1b[2J\u202e\n$x^$'

def test_printable():
    assert printable(EVIL) == r'a\x1b[2J\u202e\n$x^$' and printable('Straße $5') == 'Straße $5'
    assert printable('\udcff\x9b\u2066\u200f\x7f\t\r\u2028') == r'\udcff\x9b\u2066\u200f\x7f\t\r\u2028'
    assert printable(printable(EVIL)) == printable(EVIL)
    assert str(MaskError(f'mask {EVIL} is empty', 'unreadable')) == rf'mask {printable(EVIL)} is empty'
    assert str(MissingFile(f'there is no {EVIL}')) == rf'there is no {printable(EVIL)}'

def test_nothing_in_a_name_reaches_the_terminal(tmp_path, capsys):
    name = 'a\x1b[2J\u202e\n'
    p = folder(tmp_path/'d', grey(0, 1)[ids], n=4)
    for i, o in enumerate(('labels', 'images')):
        (p/o/'0.png').rename(p/o/f'{name}0.png')
        save(p/o/f'{name}{i}lonely.png', ids.astype(np.uint8))
    save(p/f'labels/{name}0.png', (ids*9).astype(np.uint8))
    (p/'class_dict.csv').write_text('name,index\nx\x1b[31m\u2066,0\nunknown,1\n')
    with pytest.raises(SystemExit): main([str(p)])
    out, err = capsys.readouterr()
    bad = [o for o in out + err if not o.isprintable() and o != '\n']
    assert not bad and r'\x1b[2J\u202e' in out and r'x\x1b[31m' in out
    with pytest.raises(SystemExit): main([str(p/'nowhere')])
    with pytest.raises(SystemExit) as e: main([str(p), '--masks', f'no{name}'])
    assert str(e.value).isprintable()

def test_figures_show_names_and_do_no_mathematics(tmp_path):
    "Between dollars matplotlib does mathematics, and `$\\frac$` is none"
    import matplotlib.pyplot as plt
    codes = ['$\\frac$', 'b$$', 'c\x1b']
    p = folder(tmp_path/'d', THREE.astype(np.uint8), n=2)
    for o in ('labels', 'images'): (p/o/'0.png').rename(p/o/'$\\frac$.png')
    fig = check(p, codes=codes).show()
    fig.canvas.draw()
    drawn = [t._preprocess_math(t.get_text()) for ax in fig.axes for t in (ax.title, *ax.get_yticklabels())]
    assert ('$\\frac$', False) in drawn and ('b$$', False) in drawn and (r'c\x1b', False) in drawn
    assert not [o for o in drawn if o[1]]
    ax, = show_tiles([(THREE,)], Palette(codes), titles=['$\\alpha$'])[:1]
    ax.figure.canvas.draw()
    shown = [t._preprocess_math(t.get_text()) for t in [ax.title, *ax.figure.legends[0].get_texts()]]
    assert shown == [('$\\alpha$', False), ('$\\frac$', False), ('b$$', False), (r'c\x1b', False)]
    plt.close('all')

def test_a_report_is_text_in_a_notebook(tmp_path):
    report = check(folder(tmp_path/'d', grey(0, 1)[ids]), codes=['<b>x</b>', 'y'])
    assert not hasattr(report, '_repr_html_') and not hasattr(report, '_repr_markdown_')
    assert '<b>x' not in report.classes._repr_html_() and '<b>x</b>' in repr(report)

# D. Many ids, values and colours

MANY = 65535

class Counted(str):
    "A name that counts how often it is compared"
    n = 0
    __hash__ = str.__hash__
    def __eq__(self, o): Counted.n += 1; return str.__eq__(self, o)

def test_ids_by_name_are_looked_up():
    codes = [Counted(f'class {i}') for i in range(4000)]
    Counted.n = 0
    r = MaskReader(codes, ids={i + 5: Counted(f'class {i}') for i in range(4000)})
    assert r.ids == {i + 5: i for i in range(4000)} and Counted.n < 10*4000

def test_findings_about_many_values_are_linear():
    "A quarter of a million values without a name, and as many classes: no pair of both is looked at"
    vals = list(range(2*MANY, 6*MANY))
    look = Look(Path('a.png'), None, (512, 512), values=dict.fromkeys(vals, 1))
    look.errors = [MaskError('', 'id', value=vals)]
    reader = MaskReader([f'class {i}' for i in range(MANY)], ids={i: i for i in range(MANY)})
    found, kw = unnamed([look], reader)
    assert len(kw['ids']) == 5*MANY and 'and 262134 more values without a name' in found[-1].text
    assert len(guess_values(dict.fromkeys(vals, 1))['ids']) == 4*MANY

def test_doubts_about_many_colours_are_linear():
    n = 3000
    colors = [(i // 256, i % 256, 7) for i in range(2*n)]
    reader = MaskReader([f'c{i}' for i in range(n)], table={c: i % n for i, c in enumerate(colors)})
    looks = [Look(Path('a.png'), None, (100, 100), colors=dict.fromkeys(colors, 1), ids=dict.fromkeys(range(n), 2))]
    assert sum('a second one of class' in o.text for o in doubts(Seen(looks, reader))) == n

def test_masks_of_65535_ids(tmp_path):
    a = np.arange(256*256).reshape(256, 256).clip(max=MANY - 1).astype(np.uint16)
    p = tmp_path/'d'
    for i in range(2):
        save(p/f'labels/{i}.png', Image.fromarray(a))
        save(p/f'images/{i}.png', np.random.default_rng(i).integers(0, 256, (256, 256, 3)).astype(np.uint8))
    (p/'codes.txt').write_text('\n'.join(f'c{i}' for i in range(MANY)))
    report = check(p, size=32)
    assert report.clean and len(report.classes) == MANY and len(str(report).splitlines()) < 100

def test_tally_needs_little_room():
    import tracemalloc
    a = np.random.default_rng(0).integers(0, 5, 2**23).astype(np.uint8)
    tracemalloc.start()
    got = tally(a, 2**16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got == dict(enumerate(np.bincount(a).tolist())) and peak < a.nbytes/2
    wild = np.array([-2**31, 2**31 - 1, 5, 5], dtype=np.int32)
    assert tally(wild) == tally(wild, 1) == {-2**31: 1, 5: 2, 2**31 - 1: 1}

def test_files_are_not_read_whole_for_their_digest(tmp_path, monkeypatch):
    p = folder(tmp_path/'d', grey(0, 1)[ids], n=1)
    monkeypatch.setattr(Path, 'read_bytes', None)
    seen = look_at((p/'labels/0.png', p/'images/0.png'), MaskReader(['a', 'b']))
    with open(p/'images/0.png', 'rb') as f: want = hashlib.md5(f.read()).hexdigest()
    assert not seen.errors and seen.digest == want

def test_colours_of_a_photo_are_counted_in_strips():
    from spade_fastai.data.check.look import _colors
    a = np.random.default_rng(0).integers(0, 256, (90, 90, 4)).astype(np.uint8)
    a[..., 3] = np.where(a[..., 0] < 99, 0, 255)
    for im in (Image.fromarray(a[..., :3]), Image.fromarray(a)):
        px = a[a[..., 3] > 0] if im.mode == 'RGBA' else a.reshape(-1, 4)
        cols, n = np.unique(px[:, :3], axis=0, return_counts=True)
        assert _colors(im) == dict(zip(map(tuple, cols.tolist()), n.tolist(), strict=True))

# E. Files by their path

def twins(path, n=3):
    for o in ('north', 'south'): folder(path, grey(0, 1)[ids], n=n, at=o)
    (path/'codes.txt').write_text('a\nb')
    return path

def test_files_of_one_name_are_told_apart(tmp_path):
    p = twins(tmp_path/'d')
    where = dict(masks='*/labels/*.png', images='*/images/*.png')
    save(p/'south/labels/1.png', (ids*7).astype(np.uint8))
    (p/'south/images/2.png').write_bytes(b'')
    report = check(p, **where)
    assert 'most in south/labels/1.png' in text(report) and 'south/images/2.png' in report.errors[0].text
    assert "skip=['south/labels/2.png']" in report.code
    left = [o for dl in report.sentence.run().loaders[:2] for o in dl.items]
    assert len(left) == 5 and p/'north/labels/2.png' in [m for m, _ in left]

SKIPS = {'south/labels/1.png': 5, 'south/images/1.png': 5, 'south/images/1': 5, 'south/labels/1': 5}

@pytest.mark.parametrize('skip', SKIPS)
def test_skip_takes_the_path_below_the_data_set(skip, tmp_path):
    p = twins(tmp_path/'d')
    one = dict(masks='*/labels/*.png', images='*/images/*.png')
    two = dict(masks=('north/labels', 'south/labels'), images=('north/images', 'south/images'))
    for where in (one, two):
        dls = SpadeDataLoaders.from_folder(p, **where, skip=skip, size=32, bs=1)
        assert len(dls.train_ds) + len(dls.valid_ds) == SKIPS[skip]
        report = check(p, **where, skip=skip)
        assert report.clean and report.n_pairs == 5
    pairs = [(p/f'{o}/labels/{i}.png', p/f'{o}/images/{i}.png') for o in ('north', 'south') for i in range(3)]
    left = SpadeItemList.from_pairs(pairs, path=p).leave_out(skip)
    assert len(left) == 5 and p/'north/labels/1.png' in left.masks

@pytest.mark.parametrize('skip', ['1.png', '1'])
def test_a_name_that_two_pairs_have_is_no_name(skip, tmp_path):
    p = twins(tmp_path/'d')
    one = dict(masks='*/labels/*.png', images='*/images/*.png')
    two = dict(masks=('north/labels', 'south/labels'), images=('north/images', 'south/images'))
    says = f'`skip=` names {skip}, but 2 pairs have a file of that name: north/.*write the path below'
    for where in (one, two):
        with pytest.raises(MaskError, match=says): SpadeDataLoaders.from_folder(p, **where, skip=skip, bs=1)
        with pytest.raises(MaskError, match=says): check(p, **where, skip=skip)
    pairs = [(p/f'{o}/labels/1.png', p/f'{o}/images/1.png') for o in ('north', 'south')]
    with pytest.raises(MaskError, match=says): SpadeItemList.from_pairs(pairs, path=p).leave_out(skip)
    save(p/'north/labels/alone.png', ids.astype(np.uint8)), save(p/'north/images/alone.png', ids.astype(np.uint8))
    assert check(p, **one, skip='alone').n_pairs == 6                              # one pair has that name

@pytest.mark.odd
@pytest.mark.parametrize('skip', ['9.png', 'south/labels/1.tif', 'south', ['south/labels/1.png', '\x1b[1m']])
def test_a_name_that_leaves_nothing_out_is_named(skip, tmp_path):
    p = twins(tmp_path/'d')
    one = dict(masks='*/labels/*.png', images='*/images/*.png')
    two = dict(masks=('north/labels', 'south/labels'), images=('north/images', 'south/images'))
    pairs = [(p/f'{o}/labels/{i}.png', p/f'{o}/images/{i}.png') for o in ('north', 'south') for i in range(3)]
    said = f"`skip=` names {[skip, skip[-1]][isinstance(skip, list)]!r}, but no mask or image is called so"
    for where in (one, two):
        with pytest.warns(UserWarning, match=re.escape(said)):
            dls = SpadeDataLoaders.from_folder(p, **where, skip=skip, size=32, bs=1)
        report = check(p, **where, skip=skip)
        assert said in [o.text for o in report.findings if o.level == 'warning'][0]
        assert report.loads and not report.clean
        assert len(dls.train_ds) + len(dls.valid_ds) == report.n_pairs == 6 - isinstance(skip, list)
    with pytest.warns(UserWarning, match=re.escape(said)): SpadeItemList.from_pairs(pairs, path=p).leave_out(skip)

def test_a_name_with_umlauts_in_two_spellings(tmp_path):
    p = folder(tmp_path/'d', grey(0, 1)[ids], n=3, codes__txt='a\nb')
    for o in ('labels', 'images'): (p/f'{o}/1.png').rename(p/f'{o}/Ko\u0308ln.png')            # as macOS writes it
    assert len(check(p, skip='K\u00f6ln.png').sentence.run().train_ds) == 1

def test_a_finding_about_images_names_images(tmp_path):
    p = folder(tmp_path/'d', grey(0, 1)[ids], n=5, codes__txt='a\nb')
    for i in (1, 3): (p/f'images/{i}.png').write_bytes(b'')
    error, = check(p).errors
    assert 'cannot read image' in error.text and '(and 1 more files: images/3.png)' in error.text
    assert 'labels' not in error.text and error.files == [p/'images/1.png', p/'images/3.png']

def test_tables_leave_out_what_was_skipped(tmp_path):
    p = twins(tmp_path/'d')
    rows = [f'{o}/labels/{i}.png,{o}/images/{i}.png' for o in ('north', 'south') for i in range(3)]
    (p/'pairs.csv').write_text('\n'.join(['mask,image', *rows]))
    (p/'south/labels/1.png').write_bytes(b'')
    assert not check(p).clean and check(p, skip='south/labels/1.png').clean

def test_dont_care_that_a_table_names_is_told(tmp_path):
    "255 is the value of white, which is a class by its colour: reader and report agree, and the report says so"
    p = folder(tmp_path/'d', road, class_dict__csv=ROAD)
    report = check(p, ignore=255)
    assert report.clean and '`ignore=255` has no effect on 3 masks' in text(report)
    for a in readings(report.sentence.run()): np.testing.assert_array_equal(a, ids)
