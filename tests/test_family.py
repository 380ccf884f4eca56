"The rest of the family against numbers recorded from the official code: outputs in both modes, buffers, and gradients"
import re
from functools import partial
import pytest, torch
from spade_fastai.core import *
from spade_fastai.nets.norms import *
from spade_fastai.nets.starts import *
from spade_fastai.nets.generator import *
from spade_fastai.nets.clade import *
from spade_fastai.nets.multi import *
from spade_fastai.nets.spectral import *
from spade_fastai.official import official_key

# CLADE

def clade_key(key):
    key = official_key(key).replace('edge.', 'inst_conv.').replace('param_free.', 'param_free_norm.')
    table = lambda m: f"class_specified_affine.{'weight' if m[1] == 'gamma' else 'bias'}"
    key = re.sub(r'\b(gamma|beta)\.weight$', table, key)
    return re.sub(r'\bplace_(gamma|beta)\.', lambda m: f"class_specified_affine.dist_conv_{'wb'[m[1] == 'beta']}.", key)

clade = dict(key=clade_key, ours=lambda key, value: value - 1 if key.endswith('class_specified_affine.weight') else value)

def clade_cond(i, edges):
    "Ids of the recorded one-hot map, whose last channel is the edges where there are such"
    seg = i['seg']
    ids = (seg[:, :-1] if edges else seg).argmax(1)
    encode = OneHot(seg.shape[1] - edges, edges=bool(edges))
    return Cond(ids, encode, seg[:, -1:].bool() if edges else None, maps={'place': i['dist']} if 'dist' in i else None)

@pytest.mark.parametrize('name, norm, edges, base, count', [
    ('layer', CLADE, 0, 'batch', 16), ('layer_icpe', CLADEICPE, 0, 'batch', 26),
    ('layer_icpe_instance', CLADEICPE, 1, 'instance', 24)])
def test_clade_layer(fixture, name, norm, edges, base, count):
    f = fixture(f'clade_{name}', **clade)
    net = norm(f.hyper['norm_nc'], OneHot(f.hyper['label_nc'], edges=bool(edges)), base)
    run = lambda case, i: dict(out=net(i['x'], clade_cond(i, edges)))
    assert f.check(net, run, ('x', 'dist')[:1 + (norm is CLADEICPE)]) == count

@pytest.mark.parametrize('name, norm, edges, base, count', [
    ('same', CLADE, 0, 'batch', 21), ('learned_icpe_instance', CLADEICPE, 1, 'batch', 48)])
def test_clade_resblk(fixture, name, norm, edges, base, count):
    f = fixture(f'clade_resblk_{name}', **clade)
    x, out = f.t['main/in/x'], f.t['main/eval/out']
    net = SPADEResBlk(x.shape[1], out.shape[1], partial(norm, encode=OneHot(5, edges=bool(edges)), base=base))
    assert f.check(net, lambda case, i: dict(out=net(i['x'], clade_cond(i, edges))), ('x', 'dist')[:1 + edges]) == count

@pytest.mark.parametrize('name, norm, count', [('', CLADE, 236), ('_icpe_instance', CLADEICPE, 454)])
def test_clade_generator(fixture, name, norm, count):
    f = fixture(f'clade_generator{name}', **clade)
    h = f.hyper
    encode = partial(OneHot, dontcare=h['contain_dontcare_label'], edges=not h['no_instance'])
    net = SPADEGenerator(h['label_nc'], nf=h['ngf'], norm=norm, encode=encode, **layouts[h['num_upsampling_layers']])
    def run(case, i): return dict(out=net(i['label'], None, i.get('instance'), {'place': i['dist']} if 'dist' in i else None))
    assert f.check(net, run, ('dist',) if norm is CLADEICPE else ()) == count

def test_own_place(fixture):
    f = fixture('clade_icpe_map')
    for case in ('m0', 'm1'):
        cond = Cond(f.t[f'{case}/in/label'][:, 0])
        assert (own_place(cond, skip=(0,)) - f.t[f'{case}/dist_norm']).abs().max() <= 1e-5

# Multi-SPADE: branches in the order of the recorded maps

def multi_key(key):
    key = re.sub(r'branches\.m(\d)\.(?:layers|convs)\.(\d)\.', lambda m: f'mlps.{m[1]}.{min(int(m[2]), 1)}.layers.conv.', key)
    key = re.sub(r'branches\.m(\d)\.shared\.0\.', r'mlps.\1.0.layers.conv.', key)
    key = re.sub(r'branches\.m(\d)\.(gamma|beta)\.', r'\2s.\1.layers.conv.', key)
    key = re.sub(r'^(conv|norm)_(\w)\.', lambda m: f"conv_block_{m[2]}.layers.{m[1]}.", key)
    return official_key(key).replace('param_free_norm', 'norm')

def maps_of(i): return Cond(seg=torch.zeros(len(i['x']), 1, 24, 32), maps={f'm{k[4]}': v for k, v in i.items() if k.startswith('cond')})

def branches_of(h, branch=MapBranch):
    "The branches of a recorded norm, by its hyperparameters"
    listed = lambda o: o if isinstance(o, list) else [o]*len(h['map_channels'])
    kinds = [PartialBranch if p else branch for p in listed(h['partial'])]
    each = enumerate(zip(kinds, h['map_channels'], listed(h['num_filters']), strict=True))
    return {f'm{i}': partial(kind, nc=nc, hidden=n) for i, (kind, nc, n) in each}

@pytest.mark.parametrize('name, branch, base, count', [
    ('wc_vid2vid', MapBranch, 'instance', 30), ('partial', MapBranch, 'instance', 30),
    ('batch_separate_spectral', partial(SplitBranch, weight_norm=spectral), 'batch', 81)])
def test_multispade(fixture, name, branch, base, count):
    f = fixture(f'multispade_{name}', key=multi_key)
    net = MultiSPADE(f.hyper['num_features'], OneHot(2), base, branches_of(f.hyper, branch))
    assert f.check(net, lambda case, i: dict(out=net(i['x'], maps_of(i))), ('x', 'cond0', 'cond1', 'cond2')) == count

def test_multispade_resblk(fixture):
    f = fixture('multispade_resblk_learned', key=multi_key)
    norm = partial(MultiSPADE, encode=OneHot(2), maps=branches_of(f.hyper))
    net = SPADEResBlk(f.hyper['fin'], f.hyper['fout'], norm)
    net.conv_s = spectral(torch.nn.Conv2d(f.hyper['fin'], f.hyper['fout'], 1))       # theirs has a bias
    assert f.check(net, lambda case, i: dict(out=net(i['x'], maps_of(i))), ('x', 'cond0', 'cond1', 'cond2')) == 42
