"The learner with a style encoder and with the averaged generator: all of fastai, by value"
import random, warnings
from functools import partial
import matplotlib.pyplot as plt, numpy as np, pytest, torch
from torch import nn
from PIL import Image
from fastai.vision.all import (
    CSVLogger, Callback, ProgressCallback, SaveModelCallback, aug_transforms, load_learner, noop)
from spade_fastai.core import TensorStyle, plain
from spade_fastai.data.landcover import make_landcover
from spade_fastai.data.items import SpadeDataLoaders
from spade_fastai.nets.norms import SPADE
from spade_fastai.nets.starts import MapNoiseStart, NoiseStart
from spade_fastai.nets.encoder import ConvEncoder
from spade_fastai.train.step import generator_terms, turn_terms
from spade_fastai.train.switchers import FixedGANSwitcher
from spade_fastai.train.callbacks import SampleGrid
from spade_fastai.train.ema import EMA
from spade_fastai.learner import paper, spade_learner
from spade_fastai.drawing import generate
from spade_fastai.saving import load_gan, load_spade

TOY = dict(generator=dict(nf=4, mults=(4, 2, 1), ups=(1, 1), norm=partial(SPADE, hidden=8)),
           critic=dict(nf=8, n_layers=2), encoder=dict(nf=4, nz=6, size=16), z_start=MapNoiseStart, gen_loss={},
           weights=dict(feat=10, kld=.05), lr=slice(5e-4, 2e-3))

@pytest.fixture(scope='module')
def land(tmp_path_factory): return make_landcover(tmp_path_factory.mktemp('data')/'land', n=24, size=32, season=8)

@pytest.fixture
def make(land, tmp_path):
    def _make(cbs=None, seed=1, data=None, **kwargs):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        style = None if kwargs.get('encoder', {}) is None else noop
        data = {**dict(size=32, bs=4, valid_pct=.25, device='cpu', style=style), **(data or {})}
        dls = SpadeDataLoaders.from_folder(land, **data)
        learn = spade_learner(dls, TOY, path=tmp_path, **{**dict(encoder={}, sample_grid=None), **kwargs}, cbs=cbs)
        for net in (learn.model.generator.conv_img, learn.model.generator.start.fc): nn.init.normal_(net.weight)
        learn.remove_cb(ProgressCallback)
        learn.logger = noop
        return learn
    return _make

def arrays(pics): return [np.array(o) for o in pics]
def params(net): return torch.cat([p.detach().flatten() for p in net.parameters()])
def mask_and_style(learn, i=0): return learn.dls.valid.items[i][:2]

# Style

class EncoderMoves(Callback):
    "Whose turn each training batch was, and whether the encoder moved"
    order = 100
    def before_fit(self): self.last, self.seen = params(self.model.encoder), []
    def after_batch(self):
        if not self.training: return
        now = params(self.model.encoder)
        self.seen.append((self.turns[0], not torch.equal(now, self.last)))
        self.last = now

def test_encoder_learns_with_the_generator(make):
    learn = make(EncoderMoves(), switcher=FixedGANSwitcher(2, 1))
    learn.fit(2)
    assert learn.encoder_moves.seen == ([('critic', False)]*2 + [('generator', True)])*2 + [('critic', False)]*2
    assert list(learn.recorder.metric_names)[3:6] == ['gan', 'feat', 'kld']

def test_kld_is_the_formula_with_its_weight(make):
    learn = make()
    (mask, style, image), learn.yb = learn.dls.one_batch(), None
    learn.model.train()
    _, aux = learn.model.fake(mask, style)
    mu, logvar = aux['mu'], aux['logvar']
    with torch.no_grad(): want = .05*.5*(mu**2 + logvar.exp() - 1 - logvar).sum()
    learn.xb = (mask, style)
    got = generator_terms(learn, image.as_subclass(torch.Tensor))['kld']
    assert torch.allclose(got, want, rtol=.2)          # spectral norm moved on by one step in between
    assert got.requires_grad

def test_kld_is_a_sum_where_batches_accumulate(make):
    "Half of a larger batch has its whole kld, which is a sum, and half of each mean"
    learn = make()
    *learn.xb, image = learn.dls.one_batch()
    learn.yb, learn.who = (image,), 'generator'
    learn.model.eval()
    whole, half = (turn_terms(learn, share) for share in (1., .5))
    assert set(whole) == {'gan', 'feat', 'kld'} and whole['kld'] > 0
    for k, v in whole.items(): assert torch.allclose(half[k], v if k == 'kld' else v/2), k

def test_validation_takes_mu(make):
    learn = make()
    learn.fit(1)
    a, b = learn.validate(), learn.validate()
    assert a[0] == b[0]
    preds, _ = learn.get_preds()
    dl = learn.dls.valid
    for i, o in enumerate(dl.items):
        pic = generate(learn.model.generator, Image.open(o[0]), style=o[1], encoder=learn.model.encoder)
        assert np.abs(np.array(pic)/127.5 - 1 - preds[i].permute(1, 2, 0).numpy()).max() < .02, i

def test_get_preds_predict_and_show(make):
    learn = make()
    learn.fit(1)
    mask, style = mask_and_style(learn)
    torch.manual_seed(0); alone = learn.get_preds(dl=learn.dls.test_dl([mask, mask]))[0]
    assert (alone[0] - alone[1]).abs().max() > 1e-3                                     # two draws of z
    both = learn.get_preds(dl=learn.dls.test_dl([(mask, style)]))[0]
    pic, _, raw = learn.predict((mask, style))
    assert torch.allclose(raw, both[0], atol=1e-6) and torch.allclose(pic, (raw*.5 + .5).clamp(0, 1), atol=1e-5)
    assert np.abs(np.array(learn.generate(mask, style=style))/255 - pic.permute(1, 2, 0).numpy()).max() < .01
    learn.show_results(max_n=2)
    assert [a.get_title() for a in plt.gcf().axes[:4]] == ['mask', 'style', 'real', 'fake']
    learn.dls.show_batch(max_n=1)
    assert [a.get_title() for a in plt.gcf().axes] == ['mask', 'style', 'real']

def test_a_mask_alone_cannot_be_predicted_without_a_word(make):
    learn = make()
    mask, _ = mask_and_style(learn)
    with pytest.raises(ValueError, match='learn.generate'): learn.predict(mask)

def test_augmented_together(make, land):
    tfms = aug_transforms(max_lighting=.5)
    dls = SpadeDataLoaders.from_folder(land, size=32, bs=4, device='cpu', style=noop, batch_tfms=tfms)
    mask, style, image = dls.one_batch()
    assert isinstance(style, TensorStyle) and torch.equal(plain(style), plain(image))

def test_export_save_and_load(make, tmp_path):
    learn = make([EMA(.9)])
    learn.fit(2)
    mask, style = mask_and_style(learn)
    want = arrays([learn.generate(mask, style=style), learn.generate(mask, seed=3)])
    learn.export('all.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        again = load_learner(tmp_path/'all.pkl')
    assert all(map(np.array_equal, arrays([again.generate(mask, style=style), again.generate(mask, seed=3)]), want))
    pic, _, raw = again.predict((mask, style))
    assert np.abs(want[0]/255 - pic.permute(1, 2, 0).numpy()).max() < .01
    gen = load_spade(learn.save_spade(tmp_path/'m.safetensors'))
    assert all(map(np.array_equal, arrays([gen.generate(mask, style=style), gen.generate(mask, seed=3)]), want))
    ours, theirs = (arrays(o.interpolate(mask, style, 3, 3)) for o in (gen, learn))
    assert all(map(np.array_equal, ours, theirs))
    learn.save('w')
    other = make(seed=5)
    other.load('w')
    assert all(map(np.array_equal, arrays([other.generate(mask, style=style), other.generate(mask, seed=3)]), want))

def test_many_masks_many_styles(make):
    learn = make()
    masks, styles = zip(*(mask_and_style(learn, i) for i in range(3)))
    one_by_one = arrays(learn.generate(m, style=s) for m, s in zip(masks, styles, strict=True))
    assert all(map(np.array_equal, arrays(learn.generate(list(masks), style=list(styles))), one_by_one))
    one_style = learn.generate(list(masks), style=styles[0])
    assert np.array_equal(np.array(one_style[2]), np.array(learn.generate(masks[2], style=styles[0])))
    z = torch.randn(6)
    assert np.array_equal(np.array(learn.generate(masks[0], style=z)), np.array(learn.generate(masks[0], z=z[None])))
    axs = learn.show_styles(masks, [styles[0], 3, z])
    assert axs.shape == (4, 4)
    assert np.array_equal(axs[1, 2].images[0].get_array(), np.array(learn.generate(masks[0], seed=3)))

def test_the_official_start(land, tmp_path):
    preset = {**paper, 'generator': {**paper['generator'], 'nf': 1}, 'critic': {**paper['critic'], 'nf': 2},
              'encoder': dict(nf=1, nz=256, size=256), 'gen_loss': {}}
    dls = SpadeDataLoaders.from_folder(land, size=32, bs=4, device='cpu', style=noop)
    learn = spade_learner(dls, preset, encoder={}, generator=dict(norm=SPADE), sample_grid=None)
    start = learn.model.generator.start
    assert isinstance(start, NoiseStart) and start.size == (1, 1)
    assert start.fc.weight.shape == (16, 256) and learn.weights['kld'] == .05
    with pytest.raises(ValueError, match='start is fixed at 4×4, so it draws 128×128'):
        spade_learner(dls, preset, encoder={}, generator=dict(norm=SPADE, start=partial(NoiseStart, size=(4, 4))))

# The average

def test_average_draws_everywhere(make, tmp_path):
    learn = make(EMA(.9), encoder=None)
    learn.fit(2)
    raw, avg = learn.ema.raw, learn.ema.avg
    assert learn.ema.n_updates == 8
    assert any((raw[k] - avg[k]).abs().max() > 1e-4 for k in avg if avg[k].is_floating_point())
    ps = {f'generator.{k}' for k, _ in learn.model.generator.named_parameters()}
    for k, v in learn.model.state_dict().items():
        if k in ps: assert torch.equal(v, avg[k]), k
    for k, v in load_gan(learn.save_spade(tmp_path/'m.safetensors')).state_dict().items():
        if k in ps: assert torch.equal(v, avg[k]), k

def test_validation_and_best_model_are_the_average(make, tmp_path):
    seen = []
    class Look(SampleGrid):
        def after_epoch(self): seen.append({k: v.clone() for k, v in self.learn.model.state_dict().items()})
    learn = make([EMA(.9), SaveModelCallback(every_epoch=True, fname='m'), Look(), CSVLogger()], encoder=None)
    learn.fit(2)
    for i in (0, 1):
        saved = torch.load(tmp_path/f'models/m_{i}.pth', weights_only=True)
        saved = saved.get('model', saved)
        assert all(torch.equal(saved[k], seen[i][k]) for k in seen[i])
    assert learn.recorder.values[-1][1] == pytest.approx(learn.validate()[0], abs=1e-6)      # of the average

def test_training_does_not_notice_the_average(make):
    runs = [make(cbs, encoder=enc) for cbs in (None, [EMA(.9, n_batches=2)]) for enc in (None, {})]
    for learn in runs: random.seed(0), torch.manual_seed(0), learn.fit(3)
    for a, b in zip(runs[:2], runs[2:], strict=True):
        assert [o['gan'] for o in a.loss_terms.history] == [o['gan'] for o in b.loss_terms.history]

def test_average_of_a_generator_that_waits(make):
    learn = make(EMA(.9), encoder=None, switcher=FixedGANSwitcher(3, 1))
    learn.fit(2)
    assert learn.ema.n_updates == 2
