"Measures against independent implementations, and a score where something is odd"
import json
import pytest, torch
from torch import nn
from torchvision.models.inception import Inception3
from spade_fastai.metrics import Confusion, fid, fit_segmenter, kid, likeness, memory
from spade_fastai.score import Score, score_pictures
from spade_fastai.spaces import FeatureSpace, inception_space
from spade_fastai.texture import class_spectrum, texture

def pictures(n, size=16, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))*2 - 1

class Means(nn.Module):
    "Twelve means of a picture: features that torchmetrics can use as well as we"
    num_features = 12
    def forward(self, x): return nn.functional.adaptive_avg_pool2d(x.float(), 2).flatten(1)/255

MEANS = FeatureSpace('means', '-', 16, 'none', lambda x: x, Means())

def bytes_of(x): return (x*127.5 + 127.5).round().to(torch.uint8)

def test_fid_equals_torchmetrics():
    image = pytest.importorskip('torchmetrics.image.fid', reason='needs the extra metrics')
    a, b = pictures(40), pictures(50, seed=1)*.7 + .1
    theirs = image.FrechetInceptionDistance(feature=Means(), input_img_size=(3, 16, 16)).set_dtype(torch.float64)
    theirs.update(bytes_of(a), real=True), theirs.update(bytes_of(b), real=False)
    assert fid(MEANS(a), MEANS(b)) == pytest.approx(theirs.compute().item(), rel=1e-4)

def test_kid_equals_torchmetrics():
    image = pytest.importorskip('torchmetrics.image.kid', reason='needs the extra metrics')
    a, b = pictures(40), pictures(40, seed=1)*.7 + .1
    theirs = image.KernelInceptionDistance(feature=Means(), subsets=1, subset_size=40)
    theirs.update(bytes_of(a), real=True), theirs.update(bytes_of(b), real=False)
    assert kid(MEANS(a), MEANS(b)) == pytest.approx(theirs.compute()[0].item(), rel=1e-4)

def test_miou_equals_scikit_learn():
    metrics = pytest.importorskip('sklearn.metrics')
    rng = torch.Generator().manual_seed(3)
    mask, seen = torch.randint(0, 7, (4, 20, 20), generator=rng), torch.randint(0, 6, (4, 20, 20), generator=rng)
    c, known = Confusion(6).add(seen, mask), mask < 6
    assert (c.counts.numpy() == metrics.confusion_matrix(mask[known], seen[known])).all()
    assert c.miou == pytest.approx(metrics.jaccard_score(mask[known], seen[known], average='macro'))
    assert c.accuracy == pytest.approx(metrics.accuracy_score(mask[known], seen[known]))

# Recorded from torch-fidelity 0.4.0 (torch 2.14, CPU): every 128th of the 2048 features of its network, with these
# weights and this picture. The weights are waves, so that nothing random has to agree.
FIDELITY = [0., 15.984291, 0., .662638, .022725, 0., .161554, 2.042336,
            .295891, .034919, .107527, 0., .377587, 0., .313592, 0.]

def waves(state):
    for i, (k, v) in enumerate(state.items()):
        if not v.is_floating_point(): continue
        w = torch.arange(v.numel(), dtype=torch.float64).add(i).mul(1.7).sin().view_as(v)
        scaled = w*(6/v[0].numel())**.5 if v.ndim > 1 else .3*w
        if k.endswith('running_var'): scaled = 1.2 + .5*w
        if k.endswith('bn.weight'): scaled = 1 + .3*w
        state[k] = scaled.float()
    return state

def test_inception_equals_torch_fidelity(tmp_path):
    torch.save(waves(Inception3(1008, aux_logits=False, init_weights=False).state_dict()), tmp_path/'w.pth')
    x = (torch.arange(3*40*56).mul(.37).sin()*100 + 128).view(1, 3, 40, 56).to(torch.uint8)
    space = inception_space(tmp_path/'w.pth')
    assert torch.allclose(space(x.float()/127.5 - 1)[0, ::128], torch.tensor(FIDELITY), atol=1e-4)
    assert len(space.hash) == 8 and space.size == 299

def pairs(n, seed=0, size=16):
    rng = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, 3, (n, 4, 4), generator=rng).repeat_interleave(size//4, 1).repeat_interleave(size//4, 2)
    return mask, torch.eye(3)[mask].movedim(-1, 1)*1.6 - .8 + .1*pictures(n, size, seed)

def test_a_score_is_json_and_comes_back():
    train, valid = pairs(12), pairs(8, 1)
    score = score_pictures((*train, None), (*valid, valid[1]), 'abc', space=MEANS, steps=20, bs=4)
    assert 'tstr' not in score.measures and 'diversity' not in score.measures       # neither can be known
    d = json.loads(score.to_json())
    assert str(Score.from_dict(d)) == str(score) and d['protocol']['n_fake'] == 8
    assert {k: d['protocol'][k] for k in ('features', 'features_hash', 'dont_care')} == dict(
        features='means', features_hash='-', dont_care='left out (0.0% of held-back pixels)')
    assert '| obey |' in score._repr_markdown_()

def test_dont_care_changes_nothing():
    "What lies under don't-care pixels, in masks or pictures, is in no measure that looks at classes"
    train, valid = pairs(12), pairs(8, 1)
    valid[0][:, :4] = 3
    fake = valid[1].clone()
    fake[..., :4, :] = 1
    net = fit_segmenter(train[1], train[0], 3, steps=20, bs=4)
    a, b = (score_pictures((*train, None), (*valid, o), 'abc', space=MEANS, segmenter=net) for o in (valid[1], fake))
    for k in ('colour', 'texture'): assert a.measures[k]['fake'] == b.measures[k]['fake']
    assert a.protocol['dont_care'] == 'left out (25.0% of held-back pixels)'

def test_what_cannot_be_judged_is_said():
    train, valid = pairs(12), pairs(8, 1)
    with pytest.raises(ValueError, match='2 held-back pictures are too few'):
        score_pictures((*train, None), tuple(o[:2] for o in (*valid, valid[1])), 'abc', space=MEANS)
    with pytest.raises(ValueError, match='one size'):
        score_pictures((*train, None), (*valid, valid[1][..., :8]), 'abc', space=MEANS)
    with pytest.raises(ValueError, match='too small'): class_spectrum(pictures(2, 8), torch.zeros(2, 8, 8).long(), 1)
    with pytest.raises(ValueError, match='two pictures'): likeness(torch.rand(1, 4), torch.rand(5, 4))

def test_texture_does_not_mind_brightness():
    x, mask = .2*pictures(8, 32), torch.zeros(8, 32, 32).long()
    a, b, c = (class_spectrum(o, mask, 1) for o in (x, x + .3, 2*x))
    assert texture(a, b)['distance'] < 1e-3 and texture(a, c)['distance'] == pytest.approx(6.02, abs=.05)

def test_memory_finds_a_copy_among_others():
    train = torch.rand(50, 6, generator=torch.Generator().manual_seed(0))
    res = memory(train, torch.stack([train[7], train.mean(0) + 3]))
    assert res['nearest'][0] == 7 and res['near'] == .5
