"""The official networks once more, as plain functions of a state dict with the official names, and random such state
dicts. Written from the formulas alone: nothing of spade_fastai is used here, so that the two can be compared."""
import math
import numpy as np, torch
from torch.nn import functional as F

# Pieces. `sd` is the state dict; with `train=True` its buffers move as in a training forward

def pick(n_in, n_out):
    "Nearest: floor(i·ratio), ratio and product in float32"
    ratio = np.float32(n_in)/np.float32(n_out)
    return torch.tensor([min(int(math.floor(np.float32(i)*ratio)), n_in - 1) for i in range(n_out)])

def nearest(x, h, w): return x[:, :, pick(x.shape[2], h)][:, :, :, pick(x.shape[3], w)]

def unit(x): return x/max(float(x.norm()), 1e-12)

def weight(sd, name, train):
    "Plain weight, or weight_orig divided by u·Wv, one iteration (first v, then u) in training"
    if name + '.weight' in sd: return sd[name + '.weight']
    w = sd[name + '.weight_orig']
    m = w.reshape(len(w), -1)
    if train:
        with torch.no_grad():
            sd[name + '.weight_v'] = unit(m.T @ sd[name + '.weight_u'])
            sd[name + '.weight_u'] = unit(m @ sd[name + '.weight_v'])
    return w/(sd[name + '.weight_u'] @ m @ sd[name + '.weight_v'])

def conv(sd, name, x, train, stride=1, pad=None):
    w = weight(sd, name, train)
    return F.conv2d(x, w, sd.get(name + '.bias'), stride, w.shape[-1]//2 if pad is None else pad)

def instance_norm(x):
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean)/((x - mean)**2).mean((2, 3), keepdim=True).add(1e-5).sqrt()

def free_norm(sd, name, x, train):
    "Batch norm where there are running statistics, else instance norm; no weights"
    if name + '.running_mean' not in sd: return instance_norm(x)
    mean, var = sd[name + '.running_mean'], sd[name + '.running_var']
    if train:
        n = x.numel()//x.shape[1]
        m, v = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        sd[name + '.running_mean'] = (.9*mean + .1*m).detach()
        sd[name + '.running_var'] = (.9*var + .1*v*n/(n - 1)).detach()
        sd[name + '.num_batches_tracked'] = sd[name + '.num_batches_tracked'] + 1
        mean, var = m, v
    return (x - mean[:, None, None])/(var[:, None, None] + 1e-5).sqrt()

def leaky(x): return torch.where(x > 0, x, .2*x)

def semantics(label, n, dontcare=False, edges=False, instance=None):
    "One-hot [B,n(+1)(+1),H,W] in float64: classes, don't-care (raw 255), instance edges"
    if dontcare: label = torch.where(label == 255, n, label)
    maps = [label == c for c in range(n + dontcare)]
    if edges:
        p, e = F.pad(instance[:, None].double(), (1, 1, 1, 1), mode='replicate')[:, 0], instance
        maps.append((p[:, 1:-1, 2:] != e) | (p[:, 1:-1, :-2] != e) | (p[:, 2:, 1:-1] != e) | (p[:, :-2, 1:-1] != e))
    return torch.stack(maps, 1).double()

# Networks

def spade(sd, name, x, seg, train):
    h = conv(sd, name + '.mlp_shared.0', nearest(seg, *x.shape[2:]), train).clamp(min=0)
    gamma, beta = (conv(sd, f'{name}.mlp_{o}', h, train) for o in ('gamma', 'beta'))
    return free_norm(sd, name + '.param_free_norm', x, train)*(1 + gamma) + beta

def block(sd, name, x, seg, train):
    short = x
    if f'{name}.norm_s.mlp_shared.0.weight' in sd:
        short = conv(sd, f'{name}.conv_s', spade(sd, f'{name}.norm_s', x, seg, train), train)
    for i in '01': x = conv(sd, f'{name}.conv_{i}', leaky(spade(sd, f'{name}.norm_{i}', x, seg, train)), train)
    return short + x

def generator(sd, seg, start, upsampling, z=None, train=False):
    "`start` is height and width of the first map"
    twice = lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    if sd['fc.weight'].ndim == 2: x = F.linear(z, sd['fc.weight'], sd['fc.bias']).reshape(len(z), -1, *start)
    else: x = conv(sd, 'fc', nearest(seg, *start), train)
    x = twice(block(sd, 'head_0', x, seg, train))
    x = block(sd, 'G_middle_0', x, seg, train)
    if upsampling != 'normal': x = twice(x)
    x = block(sd, 'G_middle_1', x, seg, train)
    for i in range(5 if upsampling == 'most' else 4): x = block(sd, f'up_{i}', twice(x), seg, train)
    return torch.tanh(conv(sd, 'conv_img', leaky(x), train))

def discriminator(sd, x, n_scales, n_layers, train=False):
    "List (scales) of lists (layers)"
    out = []
    for s in range(n_scales):
        if s:
            ones = torch.ones_like(x[:, :1])
            x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=True)/F.avg_pool2d(ones, 3, 2, 1, count_include_pad=True)
        feats, h = [], x
        for i in range(n_layers):
            name = f'discriminator_{s}.model{i}.0'
            h = conv(sd, name if not i else name + '.0', h, train, stride=1 if i and i == n_layers - 1 else 2, pad=2)
            h = leaky(instance_norm(h) if i else h)
            feats.append(h)
        out.append([*feats, conv(sd, f'discriminator_{s}.model{n_layers}.0', h, train, pad=2)])
    return out

def encoder(sd, x, train=False):
    if x.shape[2:] != (256, 256): x = F.interpolate(x, (256, 256), mode='bilinear', align_corners=False)
    for i in range(1, 7): x = leaky(instance_norm(conv(sd, f'layer{i}.0', x, train, stride=2)))
    x = x.reshape(len(x), -1)
    return tuple(F.linear(x, sd[f'{o}.weight'], sd[f'{o}.bias']) for o in ('fc_mu', 'fc_var'))

# Losses: predictions are lists (scales) of lists (layers)

def gan_loss(mode, pred, who):
    "`who`: 'fake' or 'real' for the critic's turn, 'gen' for the generator's"
    def one(p):
        if mode == 'hinge': return -p.mean() if who == 'gen' else (1 + (p if who == 'fake' else -p)).clamp(min=0).mean()
        if mode == 'w': return (p if who == 'fake' else -p).mean()
        target = 0. if who == 'fake' else 1.
        if mode == 'ls': return ((p - target)**2).mean()
        return -(target*torch.sigmoid(p).log() + (1 - target)*(1 - torch.sigmoid(p)).log()).mean()
    return sum(one(scale[-1]) for scale in pred)/len(pred)

def feature_matching(fake, real):
    layers = [(f, r) for a, b in zip(fake, real, strict=True) for f, r in zip(a[:-1], b[:-1], strict=True)]
    return sum((f - r.detach()).abs().mean() for f, r in layers)/len(fake)

# Random state dicts, float32, with the official names and shapes

class Random(dict):
    def __init__(self, seed): self.gen = torch.Generator().manual_seed(seed)
    def rand(self, *shape, std=1.): return torch.randn(*shape, generator=self.gen)*std
    def layer(self, name, *shape, bias=True, sn=False):
        if bias: self[name + '.bias'] = self.rand(shape[0], std=.1)
        w = self.rand(*shape, std=1.5/math.prod(shape[1:])**.5)
        if not sn: self[name + '.weight'] = w; return
        self[name + '.weight_orig'] = w*float(self.rand(1).exp())
        u, v = unit(self.rand(shape[0])), unit(self.rand(math.prod(shape[1:])))
        m = self[name + '.weight_orig'].flatten(1)          # one iteration, so that u·Wv is not by chance near zero
        self[name + '.weight_v'] = v = unit(m.T @ u + .3*m.norm()/m.shape[1]**.5*v)
        self[name + '.weight_u'] = unit(m @ v)
    def spade(self, name, nf, nc, ks, base, hidden):
        if base != 'instance':
            base_name = f'{name}.param_free_norm'
            self[f'{base_name}.running_mean'] = self.rand(nf, std=.2)
            self[f'{base_name}.running_var'] = self.rand(nf).square() + .5
            self[f'{name}.param_free_norm.num_batches_tracked'] = torch.tensor(7)
        self.layer(f'{name}.mlp_shared.0', hidden, nc, ks, ks)
        for o in ('gamma', 'beta'): self.layer(f'{name}.mlp_{o}', nf, hidden, ks, ks)

WIDTHS = dict(head_0=(16, 16), G_middle_0=(16, 16), G_middle_1=(16, 16), up_0=(16, 8), up_1=(8, 4), up_2=(4, 2),
              up_3=(2, 1))

def random_generator(nc, ngf=2, upsampling='normal', area=None, nz=256, base='batch', ks=3, hidden=128,
                     sn=True, seed=0):
    "`area`: pixels of the first map, for a linear start"
    sd, blocks = Random(seed), dict(WIDTHS)
    if upsampling == 'most': blocks['up_4'] = (1, .5)
    sd.layer('fc', 16*ngf*area, nz) if area else sd.layer('fc', 16*ngf, nc, 3, 3)
    for name, (ni, no) in blocks.items():
        ni, no = int(ni*ngf), int(no*ngf)
        mid = min(ni, no)
        sd.layer(f'{name}.conv_0', mid, ni, 3, 3, sn=sn); sd.layer(f'{name}.conv_1', no, mid, 3, 3, sn=sn)
        sd.spade(f'{name}.norm_0', ni, nc, ks, base, hidden); sd.spade(f'{name}.norm_1', mid, nc, ks, base, hidden)
        if ni != no:
            sd.layer(f'{name}.conv_s', no, ni, 1, 1, bias=False, sn=sn)
            sd.spade(f'{name}.norm_s', ni, nc, ks, base, hidden)
    sd.layer('conv_img', 3, no, 3, 3)
    return dict(sd)

def random_discriminator(nc, ndf=4, n_layers=4, n_scales=2, sn=True, seed=1):
    sd = Random(seed)
    for s in range(n_scales):
        pre, nf = f'discriminator_{s}.model', ndf
        sd.layer(f'{pre}0.0', nf, nc + 3, 4, 4)
        for i in range(1, n_layers):
            was, nf = nf, min(2*nf, 512)
            sd.layer(f'{pre}{i}.0.0', nf, was, 4, 4, bias=False, sn=sn)
        sd.layer(f'{pre}{n_layers}.0', 1, nf, 4, 4)
    return dict(sd)

def random_encoder(ngf=2, nz=256, sn=True, seed=2):
    sd, widths = Random(seed), [3, *(ngf*o for o in (1, 2, 4, 8, 8, 8))]
    for i in range(6): sd.layer(f'layer{i + 1}.0', widths[i + 1], widths[i], 3, 3, bias=False, sn=sn)
    for o in ('fc_mu', 'fc_var'): sd.layer(o, nz, 8*ngf*16)
    return dict(sd)
