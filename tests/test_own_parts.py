"""What a reader writes in a notebook: a norm, a start, an encoder, a critic, a generator. Each is trained, drawn,
saved, loaded and exported without a change to the library. And files that the last version wrote."""
import warnings
from functools import partial
import numpy as np, pytest, torch
from torch import nn
from PIL import Image
from fastai.vision.all import DataLoaders, ProgressCallback, TensorImage, TensorMask, load_learner, noop
from spade_fastai.core import OneHot, TensorMap, TensorStyle, saveable
from spade_fastai.nets.norms import SPADE, ConditionalNorm, check_norm
from spade_fastai.drawing import generate
from spade_fastai.learner import spade_learner
from spade_fastai.saving import load_gan, load_spade, save_spade

N_CLASSES, N_IDS, NZ = 5, 5, 4
TOY = dict(generator=dict(nf=4, mults=(4, 2, 1), ups=(1, 1), norm=partial(SPADE, hidden=8)),
           critic=dict(nf=4, n_layers=2), gen_loss={}, weights=dict(feat=10, kld=.05), lr=slice(5e-4, 2e-3))

# The reader's notebook

class CLADE(ConditionalNorm):
    "A gamma and a beta a class (Tan et al. 2021)"
    def __init__(self, nf, encode, base='batch'):
        super().__init__(nf, encode, base)
        self.table = nn.Embedding(encode.n_ids, 2*nf)
    def gamma_beta(self, cond, size): return self.table(cond.at(size).ids).movedim(-1, 1).chunk(2, 1)

class RegionNorm(ConditionalNorm):
    "gamma and beta of a pixel from the style of its class in this picture, as in SEAN (Zhu et al. 2020)"
    def __init__(self, nf, encode, base='batch'):
        super().__init__(nf, encode, base)
        self.fc = nn.Linear(NZ, 2*nf)
    def gamma_beta(self, cond, size):
        cond = cond.at(size)
        style = cond.regions[torch.arange(len(cond.ids))[:, None, None], cond.ids]     # [B,h,w,nz]
        return self.fc(style).movedim(-1, 1).chunk(2, 1)

class TwoMaps(SPADE):
    "SPADE of the mask, and after it one of a height map: (1+g1)(1+g2)-1 and b1(1+g2)+b2"
    def __init__(self, nf, encode, base='batch', hidden=8):
        super().__init__(nf, encode, base, hidden=hidden)
        self.second = nn.Conv2d(1, 2*nf, 3, padding=1)
    def gamma_beta(self, cond, size):
        g1, b1 = super().gamma_beta(cond, size)
        g2, b2 = self.second(cond.at(size).maps['height']).chunk(2, 1)
        return (1 + g1)*(1 + g2) - 1, b1*(1 + g2) + b2

@saveable
class RegionEncoder(nn.Module):
    "The mean of some features over each class of the picture: z [B,n_ids,nz]"
    def __init__(self, n_ids=N_IDS):
        super().__init__()
        self.n_ids, self.conv = n_ids, nn.Conv2d(3, NZ, 3, padding=1)
    def forward(self, picture, cond=None):
        x, where = self.conv(picture), OneHot(self.n_ids).seg(cond.at(picture.shape[-2:]).ids)
        return torch.einsum('bchw,bnhw->bnc', x, where)/where.sum((2, 3)).clamp(min=1)[..., None], {}

class RegionStart(nn.Module):
    "The first features from the map; what is drawn are styles of regions"
    def __init__(self, nf, encode):
        super().__init__()
        self.size, self.n_ids, self.fc = None, encode.n_ids, nn.Conv2d(encode.nc, nf, 3, padding=1)
    def z_shape(self, size): return (self.n_ids, NZ)
    def forward(self, cond, size, z=None): return self.fc(cond.at(size).seg)

@saveable
class OneLook(nn.Module):
    "A critic of one convolution of picture and mask"
    def __init__(self, n_classes, nf=4):
        super().__init__()
        self.encode = OneHot(n_classes)
        self.convs = nn.ModuleList([nn.Conv2d(n_classes + 3, nf, 4, 2), nn.Conv2d(nf, 1, 3)])
    def forward(self, image, mask, instance=None):
        x = torch.cat([self.encode(mask).seg, image], 1)
        feats = [self.convs[0](x).relu()]
        return [[*feats, self.convs[1](feats[-1])]]

@saveable
class Painter(nn.Module):
    "A generator that is no SPADEGenerator"
    def __init__(self, n_classes, nf=8):
        super().__init__()
        self.n_classes, self.encode = n_classes, OneHot(n_classes)
        first, last = nn.Conv2d(n_classes + 1, nf, 3, padding=1), nn.Conv2d(nf, 3, 3, padding=1)
        self.layers = nn.Sequential(first, nn.ReLU(), last)
    def fits(self, size):
        if min(size) < 8: raise ValueError('draw at least 8 pixels')
    def draw_z(self, n, size, rng=None): return torch.randn(n, 1, *size, generator=rng)
    def forward(self, mask, z=None, instance=None, maps=None):
        seg = self.encode(mask).seg
        if z is None: z = self.draw_z(len(seg), seg.shape[-2:])
        return self.layers(torch.cat([seg, z], 1)).tanh()

# Data and the whole way

class Items(list):
    def new_empty(self): return Items()

def data(**others):
    "Batches of four: mask, others by name as `make(mask)`, picture"
    torch.manual_seed(0)
    items = Items()
    for _ in range(12):
        mask = torch.randint(0, N_CLASSES, (4, 4)).repeat_interleave(4, 0).repeat_interleave(4, 1)
        picture = torch.rand(N_CLASSES, 3)[mask].permute(2, 0, 1)*2 - 1
        items.append((TensorMask(mask), *(make(mask, picture) for make in others.values()), TensorImage(picture)))
    dls = DataLoaders.from_dsets(items, Items(items[:4]), bs=4, device='cpu')
    return dls, items[0]

def style_of(mask, picture): return TensorStyle(picture)
def height_of(mask, picture):
    height = TensorMap(mask[None]/N_CLASSES)
    height.name = 'height'
    return height

def whole_way(tmp_path, dls, mask, parts=None, draw=None, preset=TOY, **kwargs):
    "Train, draw, save, load and export; the picture of `mask`"
    draw = draw or {}
    learn = spade_learner(dls, preset, n_classes=N_CLASSES, sample_grid=None, path=tmp_path, **kwargs)
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    last = getattr(learn.model.generator, 'conv_img', None)
    if last is not None: nn.init.normal_(last.weight)           # pictures far from grey, or all would look alike
    before = [p.detach().clone() for p in learn.model.generator.parameters()]
    learn.fit(1)
    moved = [not torch.equal(a, b) for a, b in zip(before, learn.model.generator.parameters(), strict=True)]
    assert sum(moved) > .7*len(moved) and np.isfinite(np.array(learn.recorder.values, dtype=float)).all()
    want = np.array(learn.generate(mask, seed=3, **draw))
    assert np.array_equal(np.array(learn.generate(mask, seed=3, **draw)), want) and want.std() > 0
    gen = load_spade(learn.save_spade(tmp_path/'m.safetensors'), parts=parts)
    assert np.array_equal(np.array(gen.generate(mask, seed=3, **draw)), want)
    alone = load_gan(tmp_path/'m.safetensors', parts=parts)                   # as written: float32 rounds elsewhere
    by_it = generate(alone.generator, mask, seed=3, encoder=alone.encoder, **draw)
    assert np.abs(np.array(by_it).astype(int) - want).max() <= 1
    learn.export('l.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        again = load_learner(tmp_path/'l.pkl')
    assert np.array_equal(np.array(again.generate(mask, seed=3, **draw)), want)
    return learn, want

def test_a_norm(tmp_path):
    check_norm(CLADE)
    dls, (mask, _) = data()
    name = f'{CLADE.__module__}.CLADE'
    learn, _ = whole_way(tmp_path, dls, mask, parts={name: CLADE}, generator=dict(norm=CLADE))
    assert type(learn.model.generator.blocks[0].norm_0) is CLADE
    with pytest.raises(ValueError, match=f'made with {name}'): load_spade(tmp_path/'m.safetensors')

def test_a_norm_of_region_styles_with_its_start_and_encoder(tmp_path):
    dls, (mask, style, _) = data(style=style_of)
    for o in (RegionNorm, RegionStart): saveable(o)
    parts = dict(generator=dict(norm=RegionNorm, start=RegionStart), encoder=RegionEncoder())
    learn, by_seed = whole_way(tmp_path, dls, mask, **parts)
    drawn = np.array(learn.generate(mask, style=(style, mask)))
    assert (drawn != by_seed).any()
    assert np.array_equal(np.array(learn.generate(mask, style=style)), drawn)         # its own mask
    gen = load_spade(tmp_path/'m.safetensors')
    assert np.array_equal(np.array(gen.generate(mask, style=style)), drawn)
    other = torch.roll(mask, 1, -1)
    assert (np.array(learn.generate(mask, style=(style, other))) != drawn).any()
    line = gen.interpolate(mask, (style, mask), 3, 3)
    assert np.array_equal(np.array(line[0]), drawn) and len(line) == 3
    for p in learn.model.encoder.parameters(): assert p.grad is None

def test_a_norm_of_two_maps(tmp_path):
    dls, (mask, height, _) = data(height=height_of)
    name = f'{TwoMaps.__module__}.TwoMaps'
    draw = dict(maps=dict(height=height))
    learn, want = whole_way(tmp_path, dls, mask, parts={name: TwoMaps}, draw=draw, generator=dict(norm=TwoMaps))
    flat = dict(height=0*height)
    assert (np.array(learn.generate(mask, seed=3, maps=flat)) != want).any()

def test_a_critic_and_a_generator(tmp_path):
    dls, (mask, _) = data()
    learn, _ = whole_way(tmp_path, dls, mask, generator=Painter(N_CLASSES), critic=OneLook(N_CLASSES))
    gan = load_gan(tmp_path/'m.safetensors')
    assert (type(gan.generator), type(gan.critic)) == (Painter, OneLook)
    with pytest.raises(ValueError, match='at least 8 pixels'): learn.generate(mask[:4])

def test_what_an_input_is_must_be_told(tmp_path):
    dls, _ = data(height=lambda mask, picture: TensorImage(picture))
    with pytest.raises(ValueError, match='does not say what it is'): spade_learner(dls, TOY, n_classes=N_CLASSES)

# Files of the last version

@pytest.fixture
def old(root): return root/'tests/data'

@pytest.mark.parametrize('name, draw', [('old_plain', dict(seed=3)), ('old_styled', dict(style='style.png'))])
@pytest.mark.parametrize('fast', [True, False])
def test_files_of_the_last_version(old, tmp_path, name, draw, fast):
    "Modules had other names then, and `old_plain` says `how=by_neighbours` in its norm"
    draw = {k: old/v if k == 'style' else v for k, v in draw.items()}
    mask, want = np.array(Image.open(old/'mask.png')), np.array(Image.open(old/f'{name}.png')).astype(int)
    assert want.std() > 20
    gen = load_spade(old/f'{name}.safetensors', fast=fast)
    note = 'how_by_neighbours' if name == 'old_plain' else name
    assert gen.config['extra'] == dict(note=note) and len(gen.reader.codes) == 13
    assert np.abs(np.array(gen.generate(mask, **draw)) - want).max() <= 1
    new = save_spade(load_gan(old/f'{name}.safetensors'), tmp_path/'new.safetensors', gen.reader)
    again = load_spade(new, fast=fast)
    assert np.array_equal(again.generate(mask, **draw), gen.generate(mask, **draw))
