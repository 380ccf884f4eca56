"Where pairs, splits and classes are found, and what is said where they are not: names propose, contents decide"
import json, os, warnings
from pathlib import Path
import numpy as np, pandas as pd, pytest
from PIL import Image
from spade_fastai.commands.train import load_data
from spade_fastai.data.check.report import check_masks
from spade_fastai.data.classes import find_codes
from spade_fastai.data.errors import *
from spade_fastai.data.files import picture_files
from spade_fastai.data.items import SpadeDataLoaders, SpadeItemList
from spade_fastai.data.layouts import find_layout, official_layout
from spade_fastai.data.lists import read_table
from spade_fastai.data.pairs import pairs_in

CODES = list('abcd')

def ids(n=4, at=0, size=16):
    "A mask of the ids 0 … n-1, or of the values in `n`"
    values = np.arange(n) if isinstance(n, int) else np.array(n)
    return values[(np.arange(size)[:, None]//4*4 + np.arange(size)//4 + at) % len(values)].astype(np.uint8)

def photo(at, size=16): return np.random.default_rng(at).integers(0, 255, (size, size, 3)).astype(np.uint8)

def save(fn, a):
    fn.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(a).save(fn)

def pairs(path, masks='masks/{}.png', images='images/{}.jpg', names=range(4), mask=ids, size=16):
    "A data set of names in two patterns; `mask` gives the mask of a number"
    for n, name in enumerate(names):
        save(path/masks.format(name), ids(at=n, size=size) if mask is ids else mask(n))
        save(path/images.format(name), photo(n, size))
    return path

def three(path, masks='ann_dir/{}.png', images='img_dir/{}.jpg', parts=('train', 'val', 'test'), n=(3, 2, 2)):
    return pairs(path, masks, images, [f'{p}/{p}_{i}' for p, k in zip(parts, n, strict=True) for i in range(k)])

def folders(dls, root):
    "Of training and validation, in which folders their masks lie"
    def of(ds): return sorted({Path(str(o[0])).parent.relative_to(root).as_posix() for o in ds.items})
    return [of(dls.train_ds), of(dls.valid_ds)]

def check_error(says, f, *args, kind=None, **kw):
    with pytest.raises(ValueError) as e: f(*args, **kw)
    for o in [says] if isinstance(says, str) else says: assert o in str(e.value), f'{o!r} is not in {e.value}'
    if kind: assert e.value.kind == kind
    return e.value

# Folders say the split, however they are named

NAMES = [('train', 'val', 'test'), ('training', 'validation', 'testing'), ('Train', 'Dev', 'Test'),
         ('train2017', 'val2017', 'test2017'), ('images_train', 'images_eval', 'images_test')]

@pytest.mark.parametrize('parts', NAMES)
def test_named_folders_and_patterns_split_as_found_ones(tmp_path, parts):
    "In from_folder, by a pattern, in the list, and in a table"
    p = three(tmp_path/'d', 'masks/{}.png', 'images/{}.jpg', parts)
    want = [[f'masks/{parts[0]}'], [f'masks/{parts[1]}']]
    opts = dict(size=16, bs=2)
    names = dict(masks='masks', images='images')
    with pytest.warns(UserWarning, match='2 of 7 masks are in neither part of the split and are left out: '):
        assert folders(SpadeDataLoaders.from_folder(p, CODES, **names, **opts), p) == want
        stars = dict(masks='masks/*/*.png', images='images/*/*.jpg')
        assert folders(SpadeDataLoaders.from_folder(p, CODES, **stars, **opts), p) == want
        il = SpadeItemList.from_folder(p/'masks', CODES).split_by_folder().label_from_folder('images')
        assert folders(il.transform(16).dataloaders(bs=2), p) == want
        rows = [dict(mask=m, image=i) for m, i in pairs_in(p, 'masks', 'images')]
        assert folders(SpadeDataLoaders.from_df(pd.DataFrame(rows), p, codes=CODES, **opts), p) == want
    lay = find_layout(p)
    assert (lay.masks, lay.images) == tuple((f'{k}/{parts[0]}', f'{k}/{parts[1]}') for k in ('masks', 'images'))

def test_check_and_train_keep_named_folders_apart(tmp_path):
    p = three(tmp_path/'d', 'B/{}.png', 'A/{}.jpg')
    for m, i in (('B', 'A'), ('B/*/*', 'A/*/*')):
        report = check_masks(p, m, i, progress=False)
        assert '3 pairs for training, 2 held back' in report.checked
        assert any('2 of 7 pairs of folders are in neither part' in o.text for o in report.findings)
    dls = load_data(p, 'B', 'A', size=16, bs=2, seed=7)
    assert folders(dls, p) == [['B/train'], ['B/val']]

def test_random_among_folders_is_said(tmp_path):
    p = three(tmp_path/'d', 'labels/{}.png', 'images/{}.jpg')
    for f in (lambda: SpadeDataLoaders.from_folder(p, CODES, valid_pct=.5, size=16, bs=2),
              lambda: SpadeItemList.from_folder(p/'labels', CODES).split_by_rand_pct()):
        with pytest.warns(UserWarning, match='test, train, valid, and a random split mixes them'): f()

def test_places_are_no_split(tmp_path):
    p = three(tmp_path/'d', 'labels/{}.png', 'images/{}.jpg', ('train_station', 'test_track', 'beach'))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        dls = SpadeDataLoaders.from_folder(p, CODES, size=16, bs=2)
    assert len(dls.train_ds) + len(dls.valid_ds) == 7
    assert find_layout(p).masks == ('labels',)

def test_test_images_without_masks_and_two_parts(tmp_path):
    p = three(tmp_path/'d', 'labels/{}.png', 'images/{}.jpg', ('train', 'valid', 'test'))
    for o in (p/'labels/test').iterdir(): o.unlink()
    assert folders(SpadeDataLoaders.from_folder(p, CODES, size=16, bs=2), p) == [['labels/train'], ['labels/valid']]
    q = three(tmp_path/'q', 'labels/{}.png', 'images/{}.jpg', ('train', 'test'), (3, 2))
    assert folders(SpadeDataLoaders.from_folder(q, CODES, size=16, bs=2), q) == [['labels/train'], ['labels/test']]

def test_a_table_says_the_split_in_usual_words(tmp_path):
    p = pairs(tmp_path/'d', 'labels/{}.png', 'images/{}.jpg', range(5))
    df = pd.DataFrame(dict(mask=[f'labels/{i}.png' for i in range(5)], image=[f'images/{i}.jpg' for i in range(5)],
                           Split=['Training', 'train', 'validation', 'test', 'exclude']))
    opts = dict(path=p, codes=CODES, size=16, bs=2)
    with pytest.warns(UserWarning, match='2 of 5 masks are in neither part'): dls = SpadeDataLoaders.from_df(df, **opts)
    assert (len(dls.train_ds), len(dls.valid_ds)) == (2, 1)
    df = df.drop(columns='Split').assign(is_valid=[False, False, True, True, False])
    assert len(SpadeDataLoaders.from_df(df, **opts).valid_ds) == 2
    df.assign(split=['train', 'train', 'validation', 'test', 'exclude']).to_csv(p/'split.csv', index=False)
    dls = load_data(p, '.', '.', split=p/'split.csv', codes=CODES, size=16, bs=2)
    assert (len(dls.train_ds), len(dls.valid_ds)) == (2, 1)

# Layouts are held against the masks

def coco(p, values, inst=True):
    pairs(p, 'train_label/{}_labelIds.png', 'train_img/{}_leftImg8bit.png', mask=lambda n: ids(values, n))
    if inst: pairs(p, 'train_inst/{}_instanceIds.png', 'train_img/{}_leftImg8bit.png')
    return p

def city(p, values):
    masks, images = 'gtFine/train/ulm/{}_gtFine_labelIds.png', 'leftImg8bit/train/ulm/{}_leftImg8bit.png'
    return pairs(p, masks, images, mask=lambda n: ids(values, n))

def ade(p, values):
    three(p, 'annotations/{}.png', 'images/{}.jpg', ('training', 'validation'), (3, 2))
    for n, o in enumerate(picture_files(p/'annotations')): save(o, ids(values, n))
    return p

@pytest.mark.parametrize('make, name, good, bad', [
    (coco, 'from_coco', [(3, 160), (0, 91, 255), (7,)], [(0, 1, 33), (0, 200), (0, 1, 2, 255)]),
    (city, 'from_cityscapes', [(7, 8, 26), (1, 23, 33, 255), (7, 8)], [(0, 1, 18, 255), (7, 40), (0, 2)]),
    (ade, 'from_ade20k', [(0, 12, 148), (1, 150), (0, 1, 255)], [(0, 1, 2), (3, 151, 200), (0, 1, 12)])])
def test_names_propose_contents_decide(tmp_path, make, name, good, bad):
    for n, values in enumerate(good): assert official_layout(make(tmp_path/f'good{n}', values)) == (name, None)
    for n, values in enumerate(bad):
        found, why = official_layout(make(tmp_path/f'bad{n}', values))
        assert found is None and name in why and 'read as any other folder' in why

def test_pix2pixhd_is_no_coco(tmp_path):
    values = (0, 1, 4, 7, 8, 11, 17, 21, 23, 26, 33)
    report = check_masks(coco(tmp_path/'d', values), progress=False)
    assert 'it was run' in report.checked and report.reader.n_classes <= 35 and "instances='train_inst'" in report.code
    assert any('`from_coco` wants them, but the masks have no id above 33' in o.text for o in report.findings)
    with pytest.warns(UserWarning, match='`from_coco` is asked for, but the masks'):
        SpadeItemList.from_coco(tmp_path/'d')

def test_ade20k_with_own_classes_from_zero(tmp_path):
    "The layout would drop class 0 and shift all others"
    report = check_masks(ade(tmp_path/'d', (0, 1, 2)), codes=['x', 'y', 'z'], progress=False)
    assert report.reader.ids is None and report.reader.codes == ['x', 'y', 'z'] and report.clean

def test_class_files_in_official_layouts_are_read(tmp_path):
    city(tmp_path, (0, 1, 2))
    (tmp_path/'codes.txt').write_text('x\ny\nz\n')
    assert SpadeItemList.from_cityscapes(tmp_path).reader.codes == ['x', 'y', 'z']

def test_several_candidates_are_all_named(tmp_path):
    a = pairs(pairs(tmp_path/'a'), 'labels/{}.png')
    check_error(['2 folders may hold the masks: labels, masks', '`masks=`'], find_layout, a, kind='layout')
    b = pairs(pairs(tmp_path/'b'), 'masks/{}.png', 'photos/{}.jpg')
    check_error('2 folders may hold the images: images, photos', check_masks, b, progress=False)
    c = three(three(tmp_path/'c', '{}_m/masks.png', '{}_m/img.jpg'), '{}_m/labels.png', '{}_m/img.jpg')
    check_error('does not tell', find_layout, c)

# Layouts that are usual

@pytest.mark.parametrize('masks, images', [
    ('ann_dir/train/{}.png', 'img_dir/train/{}.jpg'), ('SemSeg/{}.png', 'RGB/{}.png'), ('{}_m.png', '{}.jpg'),
    ('{}.png', '{}.jpg'), ('{}_1stHO.png', '{}.jpg'), ('annos/{}.png', 'pics/{}.jpg'), ('x/{}-seg.png', 'x/{}.jpg')])
def test_usual_layouts_are_found(tmp_path, masks, images):
    names = [f'T-1_{i}L' for i in range(4)]
    pairs(tmp_path/'d', masks, images, names, size=32)
    if '1st' in masks: pairs(tmp_path/'d', masks.replace('1st', '2nd'), images, names, size=32)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        lay = find_layout(tmp_path/'d')
    got = pairs_in(tmp_path/'d', *lay.masks, *lay.images)
    assert [m.relative_to(tmp_path/'d').as_posix() for m, _ in got] == [masks.format(n) for n in names]
    assert any('_1stHO.png, _2ndHO.png' in str(o.message) for o in said) == ('1st' in masks)

# Class files

RGB = [('sea', 0, 0, 0), ('roof', 128, 0, 0), ('tree', 0, 128, 0)]
ROWS = ''.join(','.join(map(str, o)) + '\n' for o in RGB)
BACK = ''.join(f'{r} {g} {b}\t{n}\n' for n, r, g, b in RGB)
COLORS = [o[1:] for o in RGB]
LEGENDS = {'class_dict.csv': 'class_names,r,g,b\n' + ROWS, 'label_class_dict.csv': 'name,r,g,b\n' + ROWS,
           'labelmap.csv': 'label;r;g;b\n' + ROWS.replace(',', ';'), 'label_colors.txt': BACK, 'color_map.txt': ROWS,
           'dataset_meta.json': json.dumps(dict(label_map={str(i): o[0] for i, o in enumerate(RGB)},
                                                segmentation_colors=COLORS)),
           'palette.json': json.dumps({n: c for n, *c in RGB}), 'city_classes.csv': 'class,red,green,blue\n' + ROWS,
           'classes.json': json.dumps([dict(name=n, color=c) for n, *c in RGB]),
           'legend.json': json.dumps(dict(classes=[dict(title=n, color='#%02x%02x%02x' % tuple(c)) for n, *c in RGB])),
           'labelmap.txt': ''.join(f'{n}:{r},{g},{b}::\n' for n, r, g, b in RGB)}

@pytest.mark.parametrize('name', LEGENDS)
def test_class_files_are_read(tmp_path, name):
    p = pairs(tmp_path/'d', mask=lambda n: np.array(COLORS, np.uint8)[ids(3, n)])
    (p/name).write_text(LEGENDS[name])
    report = check_masks(p, progress=False)
    assert report.reader.codes == [o[0] for o in RGB] and report.clean and 'it was run' in report.checked

def test_class_files_that_name_only(tmp_path):
    names = {'class_names.txt': 'sea\nroof\n', 'classes.yaml': 'names:\n  0: sea\n  1: roof\n',
             'label_map.pbtxt': "item { id: 0 name: 'sea' } item { id: 1 name: 'roof' }",
             'obj_classes.names': 'sea\nroof\n', 'classes.json': '{"sea": 0, "roof": 1}'}
    for name, text in names.items():
        p = pairs(tmp_path/name/'d', mask=lambda n: ids(2, n))
        (p/name).write_text(text)
        assert SpadeDataLoaders.from_folder(p, masks='masks', size=16, bs=2).codes == ['sea', 'roof']

def test_class_files_that_may_be_meant_are_named(tmp_path):
    p = pairs(tmp_path/'d')
    (p/'labels.txt').write_text('sea\nroof\n')
    check_error(['labels.txt may hold them', 'pass `codes='], SpadeDataLoaders.from_folder, p, masks='masks')
    report = check_masks(p, progress=False)
    assert any('labels.txt may hold them' in o.text for o in report.findings) and not report.clean
    (p/'labels.txt').write_text('0.png\n1.png\n')                            # a list of pictures
    assert 'labels.txt' not in str(check_masks(p, progress=False))

def test_class_files_that_disagree_are_all_named(tmp_path):
    for a, b in (('label_class_dict.csv', 'class_names.txt'), ('labelmap.csv', 'classes.txt'),
                 ('class_dict.csv', 'codes.txt')):
        p = pairs(tmp_path/a/'d')
        (p/a).write_text('name,r,g,b\n' + ROWS), (p/b).write_text('roof\nsea\ntree\n')
        check_error([a, b, '`codes=`'], find_codes, p, kind='classes')
        (p/b).write_text('sea\nroof\ntree\n')
        assert find_codes(p) == p/a                                          # it knows more
    (p/'my_classes.txt').write_text('road\ncar\n')
    with pytest.warns(UserWarning, match='class_dict.csv names the classes, but .*my_classes.txt'): find_codes(p)
    assert any('my_classes.txt' in o.text for o in check_masks(p, progress=False).findings)

# What is no mask, or no pattern

COCO = json.dumps(dict(images=[dict(file_name='0.jpg')], annotations=[dict(segmentation=[[1, 2]])]))

@pytest.mark.parametrize('name, text, says', [
    ('train/_annotations.coco.json', COCO, ['_annotations.coco.json', 'pycocotools']),
    ('labels/train/0.txt', '0 .1 .1 .6 .1 .6 .6\n', ['labels/train/0.txt', 'YOLO']),
    ('train.csv', 'Image_Label,EncodedPixels\n0.jpg_Fish,1 30\n', ['train.csv', 'run lengths']),
    ('images/0.json', '{"shapes": [{"points": [[1, 2]]}]}', ['images/0.json', 'labelme']),
    ('project.json', '[{"result": [{"from_name": "tag"}]}]', ['project.json', 'Label Studio']),
    ('annotations.xml', '<annotations><image id="0"/></annotations>', ['annotations.xml', 'CVAT']),
    ('roofs.geojson', '{"type": "FeatureCollection"}', ['roofs.geojson', 'gdal_rasterize'])])
def test_annotations_that_are_no_pictures_are_named(tmp_path, name, text, says):
    for n in range(3): save(tmp_path/f'images/train/{n}.jpg', photo(n))
    (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path/name).write_text(text)
    check_error(says, check_masks, tmp_path, progress=False)
    if name.startswith('labels'): check_error('YOLO', SpadeDataLoaders.from_folder, tmp_path, CODES)

@pytest.mark.parametrize('masks', ['masks/{}_{c}.png', 'masks/{c}/{}.png',
                                   'masks/task-{}-annotation-1-by-1-tag-{c}-0.png'])
def test_one_mask_a_class_is_named(tmp_path, masks):
    for c in ('Water', 'Road'): pairs(tmp_path/'d', masks.replace('{c}', c), 'images/{}.jpg')
    says = ['several masks for one image', 'one class each', 'Water', 'Road']
    check_error(says, SpadeDataLoaders.from_folder, tmp_path/'d', CODES, masks='masks')

@pytest.mark.parametrize('masks, images', [('manual/*_m.png', 'images/*_*.jpg'), ('manual/*.png', 'images/*.jpg'),
                                           ('*/*_m.png', 'images/*.jpg')])
def test_the_rule_of_the_stars_is_said(tmp_path, masks, images):
    pairs(tmp_path/'d', 'manual/{}_m.png', 'images/{}_training.jpg')
    says = ['stars `*` stand for must be the same', f"{masks.count('*')} star"]
    check_error(says, check_masks, tmp_path/'d', masks, images, progress=False)
    check_error('must be below', pairs_in, tmp_path/'d', '/etc/*', 'images')
    pairs(tmp_path/'e[1]', 'm [2]/{}_m.png')
    assert len(pairs_in(tmp_path/'e[1]', 'm [2]/*_m.png', 'images/*.jpg')) == 4

# Sizes

def test_masks_of_half_the_size(tmp_path):
    for n in range(4):
        for k in ('labels', 'inst'): save(tmp_path/f'd/{k}/{n}.png', ids(4, n, 16))
        save(tmp_path/f'd/images/{n}.jpg', photo(n, 32))
    f = SpadeDataLoaders.from_folder
    check_error(['is 16x16 but image', '`resize_masks=True`'], f, tmp_path/'d', CODES, size=32, bs=3)
    dls = f(tmp_path/'d', CODES, size=32, bs=3, resize_masks=True, item_tfms=[], shuffle=False, instances='inst')
    mask, inst, _ = dls.one_batch()
    first = np.array(Image.open(dls.train_ds.items[0][0])).repeat(2, 0).repeat(2, 1)          # nearest
    np.testing.assert_array_equal(mask[0].numpy(), first), np.testing.assert_array_equal(inst[0].numpy(), first)
    assert len(dls.test_dl([dls.train_ds.items[0][0]]).one_batch()) == 1
    save(tmp_path/'d/labels/2.png', ids(4)[:8])
    e = check_error('2.png is 16x8 but image', f, tmp_path/'d', CODES, size=32, bs=3, resize_masks=True, kind='size')
    assert 'resize_masks' not in str(e)                                                      # another shape

@pytest.mark.parametrize('size', [0, -3, 48., '48', (64,), (1, 2, 3), (0, 8), True, 10**9, [8, 'x']])
def test_sizes_that_make_no_sense(tmp_path, size):
    p = pairs(tmp_path/'d', 'labels/{}.png')
    check_error(f'`size={size!r}` must be one whole number', SpadeDataLoaders.from_folder, p, CODES, size=size, bs=2)

# Tables and maps

ROW = 'mask,image,split\nlabels/0.png,images/0.jpg,train\n'

@pytest.mark.parametrize('text, says', [
    ('', 'it is empty'), ('mask,image,split\n', 'the table has no rows'),
    ('mask,image,split\n0.png,0.jpg,train\n"1.png,1.jpg,val\n', ', line 3: a quote is not closed'),
    ('mask,image,split\nmäsk.png,0.jpg,train\n'.encode('latin1'), 'is not UTF-8 text'),
    ('mask,image,split\n'.encode('utf-16'), 'is not UTF-8 text'), ('mask,image,split\n'.encode('utf-16-le'), 'UTF-16'),
    ('mask,image,split,mask\na,b,train,c\n', "two columns 'mask'"),
    ('mask,image,split\na,b,train,c\n', 'line 2: 4 values, but 3 columns'),
    ('mask,image,split\nlabels/0.png,,train\n', "line 2: no name in column 'image'"),
    (ROW + 'labels/9.png,images/1.jpg,val\n', 'line 3: 1 of 2 masks are not there'),
    (ROW + 'labels/1.png,images/1.jpg,tarin\n', "line 3: 'tarin' in column 'split'"),
    (ROW + 'labels/1.png,images/1.jpg,\n', "line 3: no value in column 'split'"),
    ('mask,image,split\nlabels/0.png,images/0.jpg,val\n', "no mask is left for training: column 'split'"),
    ('mask,image,use\nlabels/0.png,images/0.jpg,val\n', "has no column 'split'")])
def test_what_is_wrong_with_a_table(tmp_path, text, says):
    p = pairs(tmp_path/'d', 'labels/{}.png', 'images/{}.jpg')
    (p/'split.csv').write_bytes(text if isinstance(text, bytes) else text.encode())
    def load(): return load_data(p, '.', '.', split=p/'split.csv', codes=CODES, size=16, bs=2)
    e = check_error(says, load)
    if 'left' not in says: assert 'split.csv' in str(e)

def test_tables_by_hand(tmp_path):
    p = pairs(tmp_path/'d', 'labels/{}.png', 'images/{}.jpg', range(2))
    df = pd.DataFrame([['labels/0.png', 'images/0.jpg', 'x']], columns=['mask', 'image', 'image'])
    check_error("the table has two columns 'image'", SpadeItemList.from_df, df, p, CODES)
    one = df.iloc[:, :2]
    says = ['holds back 1 of 1; add pairs', '`valid_pct=0`']
    check_error(says, SpadeDataLoaders.from_df, one, p, codes=CODES, size=16)
    assert len(SpadeDataLoaders.from_df(one, p, codes=CODES, size=16, bs=1, valid_pct=0).train_ds) == 1
    with pytest.warns(UserWarning, match='row 2: .*0.png and its image are listed twice'):
        SpadeItemList.from_df(pd.concat([one, one]), p, CODES)
    words = dict(mask=['labels/0.png', 'labels/1.png'], image=['images/0.jpg', 'images/1.jpg'], split=['Train', 'val'])
    il = SpadeItemList.from_df(pd.DataFrame(words), p, CODES)
    check_error("row 1: 'Train' is none of train, val", il.split_by_col, 'split', train='train', valid='val')
    (p/'a.csv').write_text('mask,image\nlabels/0.png,images/0.jpg\n')
    assert 'it was run' in check_masks(p, codes=CODES, progress=False).checked                # one pair, in a table

def test_maps_of_arcgis(tmp_path):
    p = pairs(tmp_path/'d', 'labels/{}.png', 'images/{}.jpg')
    classes = [dict(Value=i, Name=o) for i, o in enumerate(CODES)]
    (p/'esri_model_definition.emd').write_text(json.dumps(dict(Classes=classes)))
    gone = 'images\\0.jpg labels\\0.png\n\nimages\\9.jpg labels\\1.png\n'
    for text, says in (('', 'lists no pair'), (gone, 'line 3: 1 of 2 images are not there'),
                       ('images\\0.jpg\n', 'line 1: must be the name'), ('\u00e4'.encode('latin1'), 'is not UTF-8')):
        (p/'map.txt').write_bytes(text if isinstance(text, bytes) else text.encode())
        check_error(['map.txt', says], SpadeItemList.from_arcgis, p)
    (p/'map.txt').write_text('images\\0.jpg labels\\0.png\n')
    assert 'it was run' in check_masks(p, progress=False).checked

# Each file is its path

def test_links_count_once_and_loops_end(tmp_path):
    p = three(tmp_path/'d', 'labels/{}.png', 'images/{}.jpg')
    before = picture_files(p/'labels')
    links = {'labels/again': 'train', 'labels/loop': '..', 'labels/train/self': '.', 'labels/a': '../images'}
    for name, to in links.items():
        (p/name).symlink_to(to, target_is_directory=True)
    got = picture_files(p/'labels')
    assert [o for o in got if o.suffix == '.png'] == before and got == sorted(got)
    assert len(picture_files(p)) == 14 and len(pairs_in(p, 'labels/*/*.png', 'images/*/*.jpg')) == 7
    (tmp_path/'link').symlink_to(p, target_is_directory=True)
    assert len(picture_files(tmp_path/'link')) == 14                                          # a link that is named

def test_one_name_in_two_folders(tmp_path):
    p = pairs(tmp_path/'d', 'labels/{}.png', 'images/{}.jpg', ['train/1', 'train/2', 'val/1'])
    says = ['2 pairs have a file of that name', 'train/1.png', 'val/1.png']
    il = SpadeItemList.from_folder(p/'labels', CODES).label_from_folder('images')
    check_error(says, pairs_in, p, 'labels', 'images', skip='1.png')
    check_error(says, il.leave_out, '1.png')
    check_error(['2 files are called 1.png', *says[1:]], il.split_by_files, ['1.png'])
    assert il.split_by_files(['val/1']).splits == ([0, 1], [2])
    assert [o.relative_to(p/'labels').as_posix() for o in il.leave_out('train/1.png')] == ['train/2.png', 'val/1.png']
    parts = dict(masks=('labels/train', 'labels/val'), images=('images/train', 'images/val'))
    check_error('2 pairs have a file of that name', SpadeDataLoaders.from_folder, p, CODES, **parts, skip='1', bs=1)
    (p/'images/val/1.jpg').unlink()
    check_error('1 of 3 masks have no image: val/1.png', pairs_in, p, 'labels', 'images')
    save(p/'images/val/1.jpg', photo(1)), (p/'labels/val/1.png').write_bytes(b'broken')
    report = check_masks(p, codes=CODES, progress=False)
    assert 'val/1.png' in report.code and 'it was run' in report.checked

def test_pairing_looks_at_each_file_a_few_times(tmp_path, monkeypatch):
    "Ten times the files, ten times the steps: counted, not timed"
    class Name(type(tmp_path)):
        count = 0
        def __hash__(self): Name.count += 1; return super().__hash__()
        def __eq__(self, other): Name.count += 1; return super().__eq__(other)
    import spade_fastai.data.pairs as room
    steps = []
    for n in (100, 1000):
        (tmp_path/f'{n}/a').mkdir(parents=True)
        files = {k: [Name(tmp_path/f'{n}/{k}/{i:05}.png') for i in range(n)] for k in ('a', 'b')}
        monkeypatch.setattr(room, 'picture_files', lambda p, files=files: files[p.name])
        Name.count = 0
        assert len(pairs_in(tmp_path/f'{n}', 'a', 'b')) == n
        steps.append(Name.count)
    assert steps[1] < 12*steps[0]

def test_tables_know_their_file(tmp_path):
    (tmp_path/'a.csv').write_text('mask;image\n1.png;2.png\n')
    assert read_table(tmp_path/'a.csv').attrs == dict(file=os.fspath(tmp_path/'a.csv'), lines=2)
    check_error('there is no table', read_table, tmp_path/'b.csv')

# A mask of one part of a split and an image of another have nothing in common but the name

@pytest.mark.odd
@pytest.mark.parametrize('masks, images', [
    ('train/masks', 'test/images'), ('masks/train', 'images/val'), ('train_masks', 'test_images'),
    ('labels_val', 'images_train'), ('masks/val2017', 'images/train2017'), ('val/labels', 'test/images'),
    ('a/train/gt', 'a/testing/rgb')])
def test_masks_and_images_of_different_parts(tmp_path, masks, images):
    pairs(tmp_path, f'{masks}/{{}}.png', f'{images}/{{}}.jpg', range(6))
    for f in (find_layout, check_masks):
        with pytest.raises(MaskError, match='which do not belong together; name folders'): f(tmp_path)
    for m, i in ((masks, images), (f'{masks}/*', f'{images}/*')):
        with pytest.raises(MaskError, match='they only have the same name.*Name folders of one part') as e:
            SpadeDataLoaders.from_folder(tmp_path, masks=m, images=i, codes=CODES, size=16, bs=2)
        assert 'from_df' in str(e.value)

@pytest.mark.parametrize('masks, images', [('test/masks', 'test/images'), ('train_masks', 'images'), ('masks', 'test'),
                                           ('masks/train', 'images/training'), ('latest/masks', 'trainline/images')])
def test_masks_and_images_of_one_part(tmp_path, masks, images):
    pairs(tmp_path, f'{masks}/{{}}.png', f'{images}/{{}}.jpg', range(6))
    dls = SpadeDataLoaders.from_folder(tmp_path, masks=masks, images=images, codes=CODES, size=16, bs=2)
    assert len(dls.train_ds) + len(dls.valid_ds) == 6
