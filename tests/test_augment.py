"""`augment` and `spade-augment`: the whole job in seconds, its rules by hand, and what it refuses before it trains"""
import csv, json, os, signal, subprocess, sys
import numpy as np, pytest, torch
from importlib.util import find_spec
from PIL import Image
from conftest import ROOT
from spade_fastai.all import augment, MaskReader, make_landcover, SpadeDataLoaders
from spade_fastai.apps.arms import ARMS, agreement, arm_sets, best_of, judgement, verdict
from spade_fastai.apps.augment import AugmentPlan, Job, batches
from spade_fastai.apps.pastes import check_want, invented, paste, pasted, pieces_of
from spade_fastai.apps.scarce import Pairs, cut_class, land_pairs, read_pairs

QUICK = dict(seeds=1, minutes=.01)

@pytest.fixture(scope='module')
def land(): return land_pairs(24, 8, 32)

@pytest.fixture(scope='module')
def job(land, tmp_path_factory):
    "A whole job, once for all tests"
    out = tmp_path_factory.mktemp('augment')/'out'
    return augment(land, ['Water'], out, **QUICK)

# Cut-and-paste

MASK = np.array([[0,0,0,0,0,0], [0,1,1,0,0,0], [0,1,0,0,0,0], [0,0,0,2,2,0], [0,0,0,2,2,0], [0,0,0,0,0,0]])

def test_a_piece_by_hand():
    picture = np.stack([MASK + .5]*3)
    piece, = pieces_of(MASK[None], [1], 3, picture[None], least=2)
    assert piece.shape.tolist() == [[True, True], [True, False]] and piece.ring.tolist() == [1, 0, 0]
    mask, pic = paste(MASK, piece, 3, 3, picture)
    assert mask[3:5, 3:5].tolist() == [[1, 1], [1, 2]]                      # the fourth pixel is not of the piece
    assert pic[1, 3:5, 3:5].tolist() == [[1.5, 1.5], [1.5, 2.5]]
    assert (mask != MASK).sum() == 3 and (pic != picture).sum() == 9
    mask, pic = paste(MASK, piece, 5, 5, picture)
    assert (mask != MASK).sum() == 1 and mask[5, 5] == 1                    # the rest lies outside

def test_a_piece_at_the_border_of_dont_care():
    mask = MASK.copy(); mask[mask == 0] = 3                                 # three classes, 3 is don't-care
    piece, = pieces_of(mask[None], [1], 3, least=2)
    assert piece.ring.sum() == 0

def test_wanted_shares_are_reached_and_picture_follows_mask():
    rng = np.random.default_rng(0)
    piece, = pieces_of(MASK[None], [1], 3, np.full((1, 3, 6, 6), 9.), least=2)
    masks, pics, n = pasted(np.zeros((30, 16, 16), int), [piece], {1: .1}, rng, np.zeros((30, 3, 16, 16)))
    assert .1 <= (masks == 1).mean() < .13 and ((pics[:, 0] == 9) == (masks == 1)).all()

def test_two_classes_share_the_land():
    pieces, rng = pieces_of(MASK[None], [1, 2], 3, least=2), np.random.default_rng(0)
    masks, _, _ = pasted(np.zeros((30, 16, 16), int), pieces, {1: .25, 2: .25}, rng, most=60)
    assert all(.22 < (masks == c).mean() < .3 for c in (1, 2))

def test_invented_layouts_have_their_shares():
    masks = invented(12, (24, 24), [.6, .4, 0], np.random.default_rng(0))
    assert set(np.unique(masks)) == {0, 1} and abs((masks == 0).mean() - .6) < .03

@pytest.mark.parametrize('want', [{0: 0}, {0: 1.}, {0: -.1}, {0: float('nan')}, {0: True}, {0: '.2'}, {0: .5, 1: .5}])
def test_shares_that_cannot_be(want):
    with pytest.raises(ValueError, match='share'): check_want(want, ['a', 'b'])

# Filter and verdict

def test_the_filter_by_hand():
    see = lambda x: torch.stack([-x[:, 0], x[:, 0]], 1)                     # class 1 where red is above 0
    x = torch.tensor([[1., 1, -1, -1], [1, 1, 1, 1]]).view(2, 1, 2, 2).expand(2, 3, 2, 2)
    y = torch.tensor([[1, 1, 1, 0], [0, 2, 1, 1]]).view(2, 2, 2)            # 2 is don't-care
    assert torch.allclose(agreement(see, x, y, 2), torch.tensor([3/4, 2/3]))
    assert torch.allclose(agreement(see, x, y, 2, without=[1]), torch.tensor([1., 0.]))
    assert best_of(torch.tensor([.2, .1, .3, .1, .4]), .2).tolist() == [True, True, True, False, True]
    assert best_of(torch.tensor([.2, .1, .3, .1, .4]), .4).tolist() == [True, False, True, False, True]

def rows(gain, seeds=3):
    iou = lambda arm, s: .5 + s/100 + (gain[s] if arm == 'real + synthetic' else 0)
    return [dict(arm=a, seed=s, iou=[.9, iou(a, s)], miou=(.9 + iou(a, s))/2) for a in ARMS for s in range(seeds)]

@pytest.mark.parametrize('gain, word', [
    ([.02, .01, .03], 'helps'), ([.02, -.001, .05], 'makes no clear difference'),
    ([.004, .003, .005], 'makes no clear difference'), ([-.02, -.01, -.03], 'harms')])
def test_the_verdict_by_hand(gain, word):
    assert judgement(100*np.array(gain)) == word
    said = verdict(rows(gain), ['land', 'pond'], [1])
    assert {'helps': 'pictures help', 'harms': 'pictures harm'}.get(word, 'do not help') in said
    assert f'{100*np.mean(gain):+.1f} points' in said and '3 seeds' in said

def test_arms_hold_what_they_say():
    part = lambda n, v: (torch.full((n, 3, 2, 2), float(v)), torch.full((n, 2, 2), v))
    sets = arm_sets(part(3, 0), part(2, 1), part(4, 2))
    assert [[int((m == v).flatten(1).any(1).sum()) for v in range(3)] for _, m in sets.values()] == [
        [3, 0, 0], [3, 2, 0], [3, 0, 4], [3, 2, 4]]

def test_a_class_cut_to_a_tenth(land):
    keep = cut_class(land.train[1], 5, .1)
    n = (land.train[1] == 5).sum(), (land.train[1][keep] == 5).sum()
    assert 0 < n[1] <= .1*n[0] or n[1] == 0

def test_time_becomes_batches():
    a, b = (batches(AugmentPlan(minutes=m), (64, 64), 3) for m in (4, 8))
    assert abs(b['generator'] - 2*a['generator']) <= 1 and abs(b['segmenter'] - 2*a['segmenter']) <= 1

# The whole job

def test_what_a_job_leaves(job):
    left = {o.name for o in job.out.iterdir()}
    assert left - {'segmenter.onnx'} == {'generator.safetensors', 'pairs', 'pairs.csv', 'pictures.png', 'report.json',
                                         'report.md', 'segmenter.pkl'}
    rows = list(csv.DictReader((job.out/'pairs.csv').open()))
    kept = [r for r in rows if r['kept'] == '1']
    assert (len(rows), len(kept)) == (30, 24) and len({r['seed'] for r in rows}) == 30
    assert min(float(r['agreement']) for r in kept) >= max(float(r['agreement']) for r in rows if r['kept'] == '0')
    im, mask = (Image.open(job.out/'pairs'/p/kept[3]['file']) for p in ('images', 'labels'))
    assert im.text['SYNTHETIC'] == 'YES' and im.text['SEED'] == kept[3]['seed'] and im.size == mask.size == (32, 32)
    text = (job.out/'report.md').read_text()
    assert job.verdict in text and 'Water' in text.splitlines()[0] and '| real + synthetic |' in text
    assert list(job.table)[:4] == ['Water', 'Water ±', 'mIoU', 'mIoU ±']

def test_a_picture_is_drawn_again_from_its_seed(job):
    from spade_fastai.all import load_spade
    row = next(r for r in csv.DictReader((job.out/'pairs.csv').open()) if r['file'])
    drawer, mask = load_spade(job.out/'generator.safetensors'), job.out/'pairs/labels'/row['file']
    pic = drawer.generate(mask, seed=int(row['seed']))
    there = np.array(Image.open(job.out/'pairs/images'/row['file'])).astype(int)
    assert np.abs(np.array(pic).astype(int) - there).max() <= 1

def test_equal_seeds_equal_reports(job, land, tmp_path):
    again = augment(land, ['Water'], tmp_path/'again', **QUICK)
    assert json.dumps(again.result) == json.dumps(job.result)
    assert (tmp_path/'again/pairs.csv').read_bytes() == (job.out/'pairs.csv').read_bytes()
    other = augment(land, ['Water'], tmp_path/'other', generator=job.out/'generator.safetensors', seed=1, **QUICK)
    assert other.result['rows'] != job.result['rows']

def test_the_segmenter_in_fastai_and_onnx(job, land):
    from fastai.vision.all import load_learner
    learn = load_learner(job.out/'segmenter.pkl')
    x, file = land.valid[0][:1], job.out/'pairs/images/000000.png'
    with torch.no_grad(): assert torch.equal(learn.model(x), job.segmenter(x))
    with learn.no_bar(): assert np.array(learn.predict(file)[0]).shape == (32, 32)
    if not (find_spec('onnx') and find_spec('onnxscript') and find_spec('onnxruntime')): return
    import onnxruntime
    s = onnxruntime.InferenceSession(str(job.out/'segmenter.onnx'))
    x = torch.rand(1, 3, 256, 256)
    with torch.no_grad(): mine = job.segmenter(2*x - 1).softmax(1)
    assert np.abs(s.run(None, {'input': x.numpy()})[0] - mine.numpy()).max() < 1e-4
    meta = s.get_modelmeta().custom_metadata_map
    assert json.loads(meta['model_type']) == 'Segmentor' and json.loads(meta['class_names'])['1'] == 'Water'
    assert (json.loads(meta['tiles_size']), json.loads(meta['tiles_overlap'])) == (256, 15)

def test_dataloaders_and_folders(tmp_path):
    path = make_landcover(tmp_path/'land', n=10, size=32)
    dls = SpadeDataLoaders.from_folder(path, size=32, bs=2, valid_pct=.3)
    found = augment(dls, 'Low vegetation', tmp_path/'a', **QUICK)
    assert (found.result['n_train'], found.result['n_valid']) == (7, 3)
    pairs = read_pairs(path, ['Roads'], size=32)
    assert len(pairs.train[1]) + len(pairs.valid[1]) == 10 and pairs.share(9) > 0 < pairs.share(9, 'valid')

# What cannot be

def cases(land):
    part = lambda n: tuple(o[:n] for o in land.train)
    dry = Pairs((land.train[0], land.train[1].where(land.train[1] != 1, 5)), land.valid, land.reader)
    wet = Pairs(land.train, (land.valid[0], land.valid[1].where(land.valid[1] != 1, 5)), land.reader)
    return {'there is no class': dict(rare=['Lava']), 'say which classes are rare': dict(rare=[]),
            'Water is in no mask to learn from': dict(data=dry), 'Water is in no mask held back': dict(data=wet),
            'there are 1 pairs to learn from': dict(data=Pairs(part(1), land.valid, land.reader)),
            'sum up to': dict(want={'Water': .6, 'Roads': .6}), 'between 0 and 1': dict(want={'Water': 20}),
            'reaches': dict(want={'Trees over roads': .75}), "there is no class 'Lava'": dict(want={'Lava': .1}),
            'no preset': dict(preset='huge'), 'drop=': dict(drop=1.), 'seeds=': dict(seeds=0)}

@pytest.mark.parametrize('says', cases(land_pairs(4, 2, 32)))
def test_bad_input_is_named_before_anything_is_trained(says, land, tmp_path, monkeypatch):
    monkeypatch.setattr(Job, 'train', lambda self: pytest.fail('it trains'))
    with pytest.raises(ValueError, match=says):
        augment(**{**dict(data=land, rare=['Water'], out=tmp_path/'out', **QUICK), **cases(land)[says]})
    assert not (tmp_path/'out').exists()

def test_a_generator_of_other_classes(land, job, tmp_path):
    codes = [o.lower() for o in land.codes]
    other = Pairs(land.train, land.valid, MaskReader(codes))
    with pytest.raises(ValueError, match='the generator draws NoData'):
        augment(other, ['water'], tmp_path/'out', generator=job.out/'generator.safetensors', **QUICK)

def test_a_folder_too_small_to_split(tmp_path):
    with pytest.raises(ValueError, match='too small to be split by area'):
        augment(make_landcover(tmp_path/'one', n=1, size=32), ['Water'], tmp_path/'out', size=32, **QUICK)

def test_the_command(tmp_path):
    cmd = [sys.executable, '-W', 'ignore', '-c', 'from spade_fastai.commands.augment import main; main()']
    run = lambda *a: subprocess.run([*cmd, *map(str, a)], cwd=tmp_path, capture_output=True, text=True,
                                    env={**os.environ, 'PYTHONPATH': str(ROOT)}, timeout=300)
    path = make_landcover(tmp_path/'land', n=8, size=32)
    quick = '--size 32 --seeds 1 --minutes .01 --out out'.split()
    done = run(path, '--rare', 'Roads,Structures', '--want', 'Structures=.2', *quick)
    assert done.returncode == 0, done.stderr
    assert 'Roads: synthetic pictures' in done.stdout and 'out/report.md' in done.stdout
    assert 'training a generator' in done.stderr and '100% segmenters' in done.stderr
    again = run(path, '--rare', 'Roads', *quick)
    assert again.returncode == 1 and again.stderr.startswith('spade-augment: there is something in out')
    assert 'Traceback' not in again.stderr and len(again.stderr.splitlines()) == 1

def test_ctrl_c_ends_it_in_one_line(tmp_path):
    cmd = [sys.executable, '-W', 'ignore', '-c', 'from spade_fastai.commands.augment import main; main()']
    path = make_landcover(tmp_path/'land', n=8, size=32)
    run = subprocess.Popen([*cmd, str(path), '--rare', 'Roads', '--size', '32', '--minutes', '60'], cwd=tmp_path,
                           stderr=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    while 'training a generator' not in (line := run.stderr.readline()) and line: pass
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=120)[1]
    assert run.returncode == 1 and 'spade-augment: stopped by Ctrl-C; no pair was drawn yet' in said
    assert 'Traceback' not in said

def test_pairs_as_geotiff_keep_the_place_of_their_mask(job, land, tmp_path):
    rasterio = pytest.importorskip('rasterio', reason='needs rasterio: pip install "spade-fastai[geo]"')
    from spade_fastai.data.grids import Grid
    grids = [Grid(32, 32, (10., 0, 320.*i, 0, -10., 5000.), 'EPSG:32651') for i in range(len(land.train[1]))]
    placed = Pairs(land.train, land.valid, land.reader, grids)
    found = augment(placed, ['Water'], tmp_path/'out', generator=job.out/'generator.safetensors', form='tif', **QUICK)
    rows = [r for r in csv.DictReader((found.out/'pairs.csv').open()) if r['file']]
    row = next(r for r in rows if r['kind'] == 'pasted')
    with rasterio.open(found.out/'pairs/images'/row['file']) as f:
        assert f.transform.c == 320*int(row['source']) and f.crs.to_epsg() == 32651
        assert f.tags()['SYNTHETIC'] == 'YES' and f.tags()['SEED'] == row['seed']
    assert str(found.result['rows']) == str(job.result['rows']) and (found.out/'segmenter.pkl').exists()
