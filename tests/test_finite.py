"Numbers that cannot be right are named: NaN and infinity in data, losses and weights, and arguments at the door"
import math
from functools import partial
import numpy as np, pytest, torch
from fastai.vision.all import Callback, TerminateOnNaNCallback
from spade_fastai.drawing import generate, interpolate
from spade_fastai.fast.switch import faster
from spade_fastai.nets.encoder import ConvEncoder
from spade_fastai.nets.critic import MultiscaleDiscriminator
from spade_fastai.nets.generator import SPADEGenerator
from spade_fastai.nets.norms import SPADE
from spade_fastai.nets.starts import MapNoiseStart, NoiseStart
from spade_fastai.official import load_official, save_official
from spade_fastai.saving import load_gan, load_spade, save_spade
from spade_fastai.train.gan import GAN, GANLearner
from spade_fastai.train.losses import GeneratorLoss, KLDLoss
from spade_fastai.train.memory import Accumulate
from spade_fastai.train.toy import Styled, quiet, toy_dls, toy_nets

nan, inf = math.nan, math.inf

def learner(cbs=None, lr=1e-3, **kw): return GANLearner(toy_dls(), *toy_nets(), weights=dict(feat=10), lr=lr, cbs=cbs,
    **kw)

class Spoil(Callback):
    "Before the third batch does `what(learn)`"
    def __init__(self, what, at=2): self.what, self.at = what, at
    def before_batch(self):
        if self.training and self.iter == self.at: self.what(self.learn)

def picture(v): return lambda learn: learn.yb[0].view(-1).__setitem__(5, v)
def weight(v): return lambda learn: learn.model.critic.nets[0].layers[0][0].weight.data.view(-1).__setitem__(0, v)
def statistic(v): return lambda learn: learn.model.generator.blocks[0].norm_0.param_free_norm.running_mean.fill_(v)

@pytest.mark.parametrize('what, said', [(picture(nan), 'the pictures of the batch'), (picture(inf), 'the pictures'),
                                        (weight(nan), 'critic.nets.0.layers.0.0.weight'), (weight(-inf),
                                            'critic.nets')])
def test_training_stops_and_names_batch_and_cause(what, said):
    with pytest.raises(ValueError, match=f'batch 2 of epoch 0 .*{said}'): quiet(learner(Spoil(what)), 1)
    with pytest.raises(ValueError, match=said): quiet(learner([Accumulate(2), Spoil(what, 1)]), 1)

def test_a_style_picture_that_is_not_finite():
    class Odd(Styled):
        def __getitem__(self, i):
            mask, style, real = super().__getitem__(i)
            style[0, 0, 0] = inf
            return mask, style, real
    gen, critic = toy_nets(start=partial(MapNoiseStart, nz=4))
    learn = GANLearner(toy_dls(4, Odd), gen, critic, GeneratorLoss(kld=KLDLoss),
        encoder=ConvEncoder(nf=4, nz=4, size=16))
    with pytest.raises(ValueError, match='input 1 of the batch holds NaN'): quiet(learn, 1)

@pytest.mark.parametrize('lr, said', [*((o, 'lower the learning rate|after epoch') for o in (1e9, 1e20)),
                                      *((o, f'lr={o} must be a finite number') for o in (inf, nan))])
def test_rates_at_which_nothing_is_learned(lr, said):
    with pytest.raises(ValueError, match=said): quiet(learner(lr=lr), 4)

def test_statistics_and_the_last_step_are_seen_at_the_end_of_the_epoch():
    class Last(Callback):
        order = 99
        def after_batch(self):
            if self.training and self.iter == self.n_iter - 1: statistic(nan)(self.learn)
    with pytest.raises(ValueError, match='after epoch 0 .*running_mean'): quiet(learner(Last()), 2)

def test_own_loss_terms_are_named():
    def odd(fake_pred, output): return dict(shape=output.mean(), colour=output.mean()/0)
    with pytest.raises(ValueError,
        match="generator's turn: colour is (inf|-inf|nan)"): quiet(learner(gen_loss_func=odd), 1)

def test_who_looks_himself_is_not_stopped_by_an_error():
    learn = learner([Spoil(weight(nan)), TerminateOnNaNCallback()])
    quiet(learn, 2)
    assert len(learn.recorder.losses) == 2
    learn = learner()
    with learn.no_bar(): learn.lr_find(end_lr=1e25, num_it=40, show_plot=False)
    assert all(p.isfinite().all() for p in learn.model.parameters())

def test_a_scaler_may_leave_out_steps():
    learn = learner().to_fp16(init_scale=2.**126)
    quiet(learn, 1)
    assert all(p.isfinite().all() for p in learn.model.parameters())

# Files

def gan(**kw):
    torch.manual_seed(0)
    gen = SPADEGenerator(3, nf=2, mults=(2, 1), ups=(1,), **{**dict(norm=partial(SPADE, hidden=4)), **kw})
    return GAN(gen, MultiscaleDiscriminator(3, nf=2, n_layers=2)).eval()

BROKEN = dict(bias=lambda g: g.generator.conv_img.bias,
    statistic=lambda g: g.generator.blocks[0].norm_0.param_free_norm.running_var,
              critic=lambda g: g.critic.nets[1].layers[0][0].weight)

@pytest.mark.parametrize('where', BROKEN)
@pytest.mark.parametrize('v', [nan, inf, -inf])
def test_files_with_such_weights(tmp_path, monkeypatch, where, v):
    g = gan()
    BROKEN[where](g).data.view(-1)[0] = v
    with pytest.raises(ValueError, match='holds NaN or infinite'): save_spade(g, tmp_path/'a.safetensors')
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as m:
        m.setattr('spade_fastai.saving.check_finite', lambda *_: None)
        save_spade(g, tmp_path/'a.safetensors')
    for load in (load_gan, load_spade):
        with pytest.raises(ValueError,
            match='a.safetensors holds NaN or infinite numbers, in'): load(tmp_path/'a.safetensors')

def test_official_files_with_such_weights(tmp_path):
    net = ConvEncoder(nf=1)
    net.fc_mu.bias.data[0] = nan
    with pytest.raises(ValueError,
        match='E.pth holds NaN .* fc_mu.bias'): load_official(save_official(net, tmp_path/'E.pth'))

@pytest.mark.parametrize('fast', [True, False])
@pytest.mark.parametrize('where', ['bias', 'statistic'])
def test_drawing_refuses_such_weights(fast, where):
    g, mask = gan(), np.zeros((8, 8), int)
    faster(g.generator, on=fast)
    generate(g.generator, mask)                                        # the copy is there
    BROKEN[where](g).data.view(-1)[0] = inf
    with pytest.raises(ValueError, match='holds NaN or infinite numbers, in'): generate(g.generator, mask)

# At the door

MASK = np.zeros((8, 8), int)
ODD = [*(dict(size=o) for o in (0, -8, '64', 32.5, True, (8, 0), (8, 8, 8), [8])),
       *(dict(seed=o) for o in (True, 3.5, -1, 'a', 2**64, np.float32(1), [1])),
       *(dict(z=o) for o in (torch.zeros(1, 5), torch.zeros(4), torch.zeros(2, 4), torch.zeros(1, 4).long(), 'z', 3,
                             np.zeros((1, 4)), torch.full((1, 4), nan), torch.full((1, 4), inf),
                             torch.zeros(1, 5, 3, 3),
                             torch.zeros(1, 4, dtype=torch.complex64))),
       *(dict(mask=o) for o in (MASK - 1, MASK + 3, MASK + .5, np.zeros((0, 8), int), torch.zeros(0, 0).long(),
                                torch.full((8, 8), nan), np.zeros((2, 8, 8), int), MASK.astype(complex)))]

@pytest.mark.parametrize('start', [partial(MapNoiseStart, nz=4), partial(NoiseStart, nz=4, size=(4, 4))],
    ids=['map', 'noise'])
@pytest.mark.parametrize('odd', ODD, ids=lambda o: ' '.join(f'{k} {v!r:.25}' for k, v in o.items()).replace('\n', ''))
def test_odd_arguments(start, odd):
    gen = gan(start=start).generator
    with pytest.raises(ValueError): generate(gen, **{'mask': MASK, **odd})

@pytest.mark.parametrize('n', [0, -1, 2.5, True, '3'])
def test_odd_numbers_of_pictures(n):
    with pytest.raises(ValueError, match='n='): interpolate(gan(start=partial(MapNoiseStart, nz=4)).generator, MASK,
        1, 2, n)

def test_what_is_right_stays_right():
    gen = gan(start=partial(MapNoiseStart, nz=4)).generator
    want = np.array(generate(gen, MASK, seed=3))
    for kw in (dict(seed=np.int64(3)), dict(seed=np.uint8(3)), dict(seed=3, size=8),
        dict(seed=3, size=(8, np.int32(8))),
               dict(seed=3, mask=MASK.astype(bool)), dict(seed=3, mask=MASK.astype(np.float32))):
        assert np.array_equal(generate(gen, **{'mask': MASK, **kw}), want)
    z = gen.draw_z(1, (8, 8), torch.Generator().manual_seed(3))
    assert np.array_equal(generate(gen, MASK, z=z), want)
    assert np.array_equal(generate(gen, MASK, z=z[..., None, None].expand(1, 4, 4, 4)), want)
    assert np.array_equal(generate(gen, [MASK, MASK], z=z.expand(2, 4))[1], want)
    assert np.array_equal(interpolate(gen, MASK, np.int64(3), 4, np.int64(2))[0], want)
    with pytest.raises(ValueError, match='3 masks but 2 z'): generate(gen, [MASK]*3, z=z.expand(2, 4))

def test_exported_networks_never_read_beyond_their_tables():
    "Nobody can ask an exported program for its ids: one-hot, an id that is no class is none; a table raises"
    from spade_fastai.core import ClassEmbed
    gen = gan().generator
    run = torch.export.export(gen, (torch.zeros(1, 8, 8, dtype=torch.long),), strict=False).module()
    for odd in (-1, 3, 10**12): assert run(torch.full((1, 8, 8), odd)).isfinite().all()
    assert torch.equal(run(torch.full((1, 8, 8), -1)), run(torch.full((1, 8, 8), 10**12)))
    gen = gan(encode=partial(ClassEmbed, dim=2)).generator
    run = torch.export.export(gen, (torch.zeros(1, 8, 8, dtype=torch.long),), strict=False).module()
    for odd in (-1, 3, 10**12):
        with pytest.raises((IndexError, RuntimeError)): run(torch.full((1, 8, 8), odd))
