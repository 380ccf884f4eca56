"Gradient penalties and DiffAugment inside the training step, and the official fall of the learning rate"
import json
from functools import partial
import pytest, torch
from fastai.vision.all import Callback, DataLoader, DataLoaders
from spade_fastai.core import *
from spade_fastai.nets.norms import *
from spade_fastai.nets.spectral import *
from spade_fastai.nets.generator import *
from spade_fastai.nets.critic import *
from spade_fastai.train.losses import *
from spade_fastai.train.penalties import *
from spade_fastai.train.augment import *
from spade_fastai.train.penalties import slopes
from spade_fastai.train.switchers import *
from spade_fastai.train.gan import *
from spade_fastai.train.schedule import *

class Pairs(torch.utils.data.Dataset):
    def __init__(self, n=8, edges=False):
        g = torch.Generator().manual_seed(0)
        self.masks = torch.randint(0, 3, (n, 4, 4), generator=g).repeat_interleave(4, 1).repeat_interleave(4, 2)
        self.pics = torch.rand(n, 3, 16, 16, generator=g)*2 - 1
        self.inst = TensorInstance(torch.randint(0, 9, (n, 16, 16), generator=g)) if edges else None
    def __len__(self): return len(self.masks)
    def __getitem__(self, i): return (self.masks[i], *([] if self.inst is None else [self.inst[i]]), self.pics[i])

def learner(edges=False, bs=4, **kw):
    torch.manual_seed(0)
    encode = partial(OneHot, edges=edges)
    gen = SPADEGenerator(3, nf=4, mults=(2, 2, 1), ups=(1, 1), norm=partial(SPADE, hidden=8), encode=encode)
    critic = MultiscaleDiscriminator(3, nf=4, n_layers=2, encode=encode)
    for p in [*gen.parameters(), *critic.parameters()]: torch.nn.init.normal_(p, 0, .2)
    dl = DataLoader(Pairs(edges=edges), bs=bs, num_workers=0)
    dls = DataLoaders(dl, dl, device='cpu')
    dls.n_inp = 2 if edges else 1
    return GANLearner(dls, gen, critic, **kw)

def fit(learn, n=1, **kw):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, **kw)
    return learn

class Watch(Callback):
    "Before each step: who has a gradient; after it: who moved"
    order = 100
    def before_fit(self): self.grads, self.steps = [], []
    def nets(self): return self.model.generator, self.model.critic
    def before_batch(self): self.before = [[p.clone() for p in o.parameters()] for o in self.nets()]
    def before_step(self):
        self.grads.append(tuple(sum(p.grad is not None for p in o.parameters()) for o in self.nets()))
    def after_batch(self):
        if not self.training: return
        moved = lambda was, net: any(not torch.equal(a, b) for a, b in zip(was, net.parameters(), strict=True))
        self.steps.append(tuple(map(moved, self.before, self.nets())))

def test_penalty_reaches_the_critic_and_nothing_else():
    learn = learner(crit_loss_func=CriticLoss(penalty=R1), switcher=FixedGANSwitcher(n_crit=3, n_gen=1), cbs=Watch())
    fit(learn, 2)
    assert learn.watch.steps == [(False, True)]*3 + [(True, False)]
    n_gen, n_crit = (len(list(o.parameters())) for o in (learn.model.generator, learn.model.critic))
    assert learn.watch.grads == [(0, n_crit)]*3 + [(n_gen, 0)]

@pytest.mark.parametrize('penalty', [partial(R1, gamma=3), partial(WGANGP, weight=3)])
def test_penalty_is_a_term_with_its_value(penalty):
    learn = learner(crit_loss_func=CriticLoss(penalty=penalty), weights=dict(crit_r1=2, crit_gp=2),
                    switcher=FixedGANSwitcher(1, 1), bs=8)
    name = penalty().name
    model, (mask, real) = learn.model, learn.dls.train.one_batch()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    torch.manual_seed(5)
    with torch.no_grad(): fake = model.fake(mask)[0]
    model.judge(fake, real, mask)                                       # moves the vectors of spectral norm, as a step
    x = real if name == 'crit_r1' else (lambda e: e*real + (1 - e)*fake)(torch.rand(8, 1, 1, 1))
    x = x.clone().requires_grad_()
    pred = model.critic(x, mask)
    slope, = torch.autograd.grad(sum(p[-1].mean((1, 2, 3)).sum() for p in pred)/2, x)
    norm = slope.flatten(1).norm(dim=1)
    want = 2*3*(norm.square().mean()/2 if name == 'crit_r1' else (norm - 1).square().mean())
    model.load_state_dict(state)
    class Seed(Callback):
        def before_batch(self): torch.manual_seed(5)
    fit(learn, cbs=Seed())
    assert abs(learn.loss_terms.history[0][name] - want) < 1e-5*float(want)
    assert list(learn.recorder.metric_names[5:-1]) == ['crit_fake', 'crit_real', name]
    assert float(want) > 1e-6

def test_lazy_penalty_every_third_turn():
    learn = fit(learner(crit_loss_func=CriticLoss(penalty=partial(R1, gamma=1, every=3)), bs=2), 2)         # 8 batches
    r1 = [o['crit_r1'] for o in learn.loss_terms.history]
    assert [o > 0 for o in r1] == [True, False, False]*2 + [True, False]
    assert int(learn.crit_loss_func.state_dict()['penalty.calls']) == 8

def test_penalty_pulls_the_slope_down():
    def slope(penalty):
        learn = fit(learner(crit_loss_func=CriticLoss(penalty=penalty), lr=slice(1e-9, 1e-2)), 8)
        mask, real = learn.dls.train.one_batch()
        return float(slopes(lambda x: learn.model.critic(x, mask), real).flatten(1).norm(dim=1).mean())
    assert slope(partial(R1, gamma=1000)) < .5*slope(None)

def test_penalty_is_float32_under_autocast():
    net = learner().model.critic.eval()
    mask, real, fake = torch.randint(0, 3, (2, 16, 16)), torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    for penalty in (R1(), WGANGP()):
        def value(penalty=penalty):
            torch.manual_seed(0)
            return penalty(lambda x: net(x, mask), fake, real)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert net(real, mask)[0][-1].dtype == torch.bfloat16
            low = value()
        assert low.dtype == torch.float32 and torch.equal(low, value())
    assert slopes(lambda x: net(x, mask), real.half()).dtype == torch.float32

def test_penalty_through_a_critic_with_spectral_norm_everywhere():
    "Second derivatives by finite differences, at the vectors u and v that a training forward leaves as constants"
    net = MultiscaleDiscriminator(2, nf=2, n_layers=2, other_norm=spectral).double().train()
    for p in net.parameters(): torch.nn.init.normal_(p, 0, .4)
    mask, real = torch.randint(0, 2, (1, 16, 16)), torch.rand(1, 3, 16, 16, dtype=torch.float64)
    penalty = lambda: R1(100.)(lambda x: net(x, mask), None, real)
    penalty().backward()
    net.eval()
    for name, p in net.named_parameters():
        if p.ndim == 1: continue
        way, h = torch.randn_like(p), 1e-6
        with torch.no_grad(): p += h*way
        up = float(penalty())
        with torch.no_grad(): p -= 2*h*way
        down = float(penalty())
        with torch.no_grad(): p += h*way
        got, want = float((p.grad*way).sum()), (up - down)/(2*h)
        assert abs(got - want) < 1e-5*max(1, abs(want)), (name, got, want)

def test_augmented_training():
    seen = []
    class Spy(DiffAugment):
        def __call__(self, pictures, *maps):
            out = super().__call__(pictures, *maps)
            seen.append((pictures.shape, [o.shape for o in maps], [o.shape for o in out]))
            return out
    learn = fit(learner(edges=True, augment=Spy(), crit_loss_func=CriticLoss(penalty=R1)), 1)
    two, one, m = (8, 3, 16, 16), (4, 3, 16, 16), (4, 16, 16)
    turn, penalty = (two, [m, m], [two, m, m]), (one, [m, m], [one, m, m])
    assert seen == [turn, turn, penalty]*2                              # generator's turn, critic's, the penalty
    n = len(seen)
    learn.validate(); learn.get_preds()
    assert len(seen) == n                                               # nothing outside training

def test_perfect_fakes_match_features_under_augmentation():
    gan = learner(augment=DiffAugment()).model.train()
    mask, real = Pairs()[:4]
    fake_pred, real_pred = gan.judge(real, real, mask)
    assert float(FeatureMatchingLoss()(fake_pred, real_pred)) < 1e-5
    assert float(FeatureMatchingLoss()(gan.judge(real, real, mask)[0], real_pred)) > 1e-2     # another draw

def test_dontcare_outside():
    torch.manual_seed(0)
    net = MultiscaleDiscriminator(3, nf=4, n_layers=2, encode=partial(OneHot, dontcare=True))
    gan = GAN(torch.nn.Identity(), net, augment=DiffAugment(partial(translate, ratio=.5, outside=3))).train()
    masks = []
    net.encode.register_forward_hook(lambda m, args, out: masks.append(out.ids))
    mask, real = Pairs()[:4]
    gan.judge(real, real, mask)
    assert (masks[0] == 3).any() and torch.equal(masks[0][:4], masks[0][4:])

def test_same_seed_same_training():
    def run():
        learn = learner(augment=DiffAugment(), crit_loss_func=CriticLoss(penalty=WGANGP))
        torch.manual_seed(1)
        return torch.cat([p.detach().flatten() for p in fit(learn).model.parameters()])
    assert torch.equal(run(), run())

def test_official_learning_rates(shared):
    cfg = json.loads((shared/'parity/train_steps/config.json').read_text())
    table, h = cfg['learning_rates_after_each_epoch_[G,D]'], cfg['hyper']
    seen = []
    class Rates(Callback):
        order = 100
        def after_batch(self):
            if self.training: seen.append((self.epoch, *(o['lr'] for o in self.opt.hypers)))
    learn = learner(bs=3)
    with learn.no_bar(), learn.no_logging():
        learn.fit_flat_lin(h['niter'], h['niter_decay'], lr=slice(1e-4, 4e-4), at=by_epoch, cbs=Rates())
    assert len(seen) == 3*6
    for epoch, *lrs in seen:                                            # the table begins before the first epoch
        for lr, want in zip(lrs, table[epoch], strict=True): assert abs(lr - want) < 1e-12
