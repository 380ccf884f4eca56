"A flight learns: frames made of tiles, guidance by own frames, the same numbers again; and its film heeds its memory"
from functools import partial
import pytest, torch
from fastai.vision.all import set_seed
from spade_fastai.core import inputs_of, plain
from spade_fastai.data.landcover import landcover_tile, make_landcover
from spade_fastai.data.items import SpadeDataLoaders
from spade_fastai.apps.flight import *
from spade_fastai.apps.flight import TensorGuide, as_guide, branches, look, moved
from spade_fastai.nets.multi import MapBranch

@pytest.fixture(scope='module')
def land(tmp_path_factory): return make_landcover(tmp_path_factory.mktemp('land'), n=5, size=64)

def learner(land, maps=None, **kwargs):
    set_seed(3)
    dls = SpadeDataLoaders.from_folder(land, size=64, bs=2, device='cpu', num_workers=0)
    return flight_learner(dls, maps, size=32, **kwargs)

def fit(learn, n=1):
    with learn.no_bar(), learn.no_logging(): learn.fit(n)
    return learn

def last_norm(learn): return learn.model.generator.blocks[-1].norm_0.branches

def test_the_game_reaches_the_branch_of_the_guidance_and_repeats(land):
    first, again, other = (fit(learner(land, seed=s), 2) for s in (1, 1, 2))
    before = learner(land).model.generator.state_dict()
    after, same, strange = (o.model.generator.state_dict() for o in (first, again, other))
    moved_keys = [k for k in after if '.guide.' in k and not torch.equal(before[k], after[k])]
    assert len(moved_keys) >= 20
    assert all(torch.equal(after[k], same[k]) for k in after)
    assert not all(torch.equal(after[k], strange[k]) for k in after)
    assert 'guide' in first.loss_terms.history[-1]

def test_alone_there_is_no_guidance(land):
    learn = fit(learner(land, dict(mask=branches['mask'])))
    assert learn.flights.steps == 0 and all(o['guide'] == 0 for o in learn.loss_terms.history)
    with pytest.raises(ValueError, match='no branch for the map guide'):
        fly(learn, torch.zeros(128, 128).long(), [View(64, 64), View(64, 66)], size=32)

def test_copying_teaches_the_same_networks_by_pixels(land):
    learn = learner(land)
    lesson = copying(learn)
    critic = {k: v.clone() for k, v in learn.model.critic.state_dict().items()}
    before = last_norm(learn)['guide'].convs[0].weight.clone()
    fit(lesson, 2)
    assert lesson.model is learn.model and not torch.equal(before, last_norm(learn)['guide'].convs[0].weight)
    assert all(torch.equal(v, critic[k]) for k, v in learn.model.critic.state_dict().items())
    assert lesson.flights.real + lesson.flights.first == 1

def test_own_frames_are_what_the_generator_draws(land):
    "With one step before it, the guidance is the drawn frame of the first view, moved"
    learn = learner(land)
    flights, xb, yb = learn.flights, *(lambda b: (b[:1], b[1:]))(learn.dls.one_batch())
    flights.real, flights.first, flights.steps = 0, 0, 1
    learn.xb, learn.yb, learn.training = xb, yb, True
    drawn = []
    own = flights.own
    flights.own = lambda ids, guide: drawn.append((own(ids, guide), guide)) or drawn[-1][0]
    learn.model.train()
    flights.before_batch()
    (frame, before), = drawn
    assert before is None and not frame.requires_grad and all(m.training for m in learn.model.modules())
    guide = inputs_of(learn.xb).maps['guide']
    assert isinstance(learn.xb[1], TensorGuide) and guide.shape == (2, 4, 32, 32) and guide[:, 3].mean() > .2
    known = guide[:, 3:].expand(2, 3, -1, -1) > 0
    inside = guide[:, :3][known]
    assert frame.min() - 1e-3 <= inside.min() and inside.max() <= frame.max() + 1e-3

def test_a_film_is_the_same_again_and_leaves_no_trace(land):
    learn = fit(learner(land))
    ids = torch.from_numpy(landcover_tile([1, 2], 128)[0]).long()
    views = flight(5, (64, 64), 20)
    learn.model.train()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    films = [fly(learn, ids, views, memory, size=32) for memory in (World, World, LastFrame, None)]
    assert torch.equal(torch.get_rng_state(), state) and all(m.training for m in learn.model.modules())
    assert torch.equal(films[0], films[1]) and films[0].shape == (5, 3, 32, 32)
    assert all(torch.equal(films[0][0], o[0]) for o in films)                 # of the first, nothing is known
    assert not torch.equal(films[0][1], films[3][1])

STEPS = dict(shift=View(30, 30.5), turn=View(30, 30, .2), zoom=View(30, 30, 0, 1.1))

@pytest.mark.parametrize('step', STEPS.values(), ids=STEPS)
def test_moving_is_exact_for_a_slope(step):
    "A picture that is linear on the map is mixed without loss: the moved frame is what the new view sees"
    y, x = torch.meshgrid(torch.arange(60) + .5, torch.arange(60) + .5, indexing='ij')
    slope = torch.stack([y/60, x/60, (x + y)/120])[None]
    here, size = View(30, 30), (16, 16)
    seen = lambda view: look(slope, view.points(size))[0]
    there, known = moved(seen(here), here, step)
    assert known.mean() > .6 and ((there - seen(step))*known).abs().max() < 1e-4
    world = World((60, 60))
    world.keep(seen(here), here)
    guide = world.guide(step, size)
    assert ((guide[:, :3] - seen(step))*guide[:, 3:]).abs().max() < 1e-4 and guide[:, 3:].mean() > .5

def test_wrong_channels_name_the_map(land):
    learn = learner(land, dict(mask=branches['mask'], guide=partial(MapBranch, nc=3, hidden=0)))
    with pytest.raises(ValueError, match=r"the map 'guide' has the shape \[2, 4, .*takes \[B,3,H,W\]"): fit(learn)

def test_unknown_colours_do_not_count():
    frame, known = torch.full((1, 3, 4, 4), 7.), torch.zeros(1, 1, 4, 4)
    assert not plain(as_guide(frame, known)).any()
