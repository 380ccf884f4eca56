"Reading the recorded outputs of the official code: inputs, weights, expected values and their tolerances."
import json
from functools import cached_property
from pathlib import Path
import torch
from safetensors.torch import load_file
from spade_fastai.official_names import official_key

PUBLIC = Path(__file__).resolve().parent/'parity_data'

def folder_of(name, shared):
    "Where fixture `name` is: in the repository, else in the folder that `shared()` gives"
    here = PUBLIC/name
    return here if here.is_dir() else shared()/'parity'/name

class Fixture:
    """`key` says what the official code calls a tensor of ours, `parts` which pieces of it have names there, `ours`
    what we hold of the value that it stores there, and `lost` which of its names we have no tensor for"""
    def __init__(self, folder, key=official_key, ours=lambda key, value: value, lost=lambda key: False,
                 parts=lambda key, value: {key: value}):
        self.key, self.ours, self.lost, self.parts = key, ours, lost, parts
        read = lambda name, reader, default: reader(folder/name) if (folder/name).exists() else default
        self.folder, self.cfg = folder, json.loads((folder/'config.json').read_text())
        self.hyper, self.t = self.cfg['hyper'], read('tensors.safetensors', load_file, {})
        self.noise = read('noise.json', lambda p: json.loads(p.read_text()), {})

    @cached_property
    def state(self): return load_file(self.folder/'state_dict.safetensors')

    def load(self, net, state=None):
        "Official weights into our network; every key must fit"
        state = {k: v for k, v in (state or self.state).items() if not self.lost(k)}
        with torch.no_grad():
            for name, piece in self.pieces(net.state_dict()).items():
                value = self.ours(name, state.pop(name))
                assert piece.shape == value.shape, name
                piece.copy_(value)
        assert not state, f'nothing of ours is called {list(state)}'
        return net

    def pieces(self, tensors):
        "Tensors of ours by official names"
        named = {k: v for k, v in tensors.items() if not self.lost(self.key(k))}
        return {name: piece for k, v in named.items() for name, piece in self.parts(self.key(k), v).items()}

    def cases(self): return sorted({k.split('/')[0] for k in self.t})

    def close(self, got, key):
        "Compare with the recorded tensor `key` at the tolerance that its float32 noise allows"
        want = self.t[key]
        err, largest = self.noise.get(key, (0, 0))
        rel = 1e-4*largest if 'grad' in key else 1e-5*max(1, largest)
        atol = max(20*err, rel, 1e-6)
        diff = (got.detach().float().reshape(want.shape) - want.float()).abs().max().item()
        assert diff <= atol, f'{self.folder.name} {key}: differs by {diff:.2e}, allowed {atol:.2e}'
        return diff

    def check(self, net, run, grad_inputs=(), without=()):
        """Outputs in both modes, buffers after one training forward, and gradients to inputs and parameters.
        `run(case, inputs)` gives a dict of outputs by the fixture's names; inputs named in `without` have no gradient.
        Returns how many tensors were compared."""
        n = 0
        for case in self.cases():
            ins = {k.split('/')[2]: v for k, v in self.t.items() if k.startswith(f'{case}/in/')}
            for mode in self.cfg['modes']:
                self.load(net).train(mode == 'train').zero_grad()
                for k in {*grad_inputs} & {*ins}: ins[k] = ins[k].detach().clone().requires_grad_()
                outs = run(case, ins)
                for name, o in outs.items():
                    self.close(o, f'{case}/{mode}/{name}'); n += 1
                ours = self.pieces(net.state_dict())
                pre = f'{case}/{mode}/post/'
                for k in self.t:
                    name = k[len(pre):]
                    if k.startswith(pre) and not self.lost(name): self.close(ours[name].float(), k); n += 1
                if f'{case}/{mode}/loss' not in self.t: continue
                loss = sum((o*self.t[f'{case}/probe/{name}']).sum() for name, o in outs.items())
                self.close(loss, f'{case}/{mode}/loss')
                loss.backward()
                grads = self.pieces({k: p.grad for k, p in net.named_parameters()})
                for k in self.t:
                    kind, _, name = k.removeprefix(f'{case}/{mode}/').partition('/')
                    if not k.startswith(f'{case}/{mode}/grad'): continue
                    if kind == 'grad' and name in [f'input/{o}' for o in without]: continue
                    if self.lost(name.removeprefix('param/')): continue
                    if kind == 'grad' and name.startswith('input/'): self.close(ins[name[6:]].grad, k)
                    elif kind == 'grad': self.close(grads[name.removeprefix('param/')], k)
                    else:
                        g = grads[name]
                        self.close(torch.stack([g.sum(), g.norm(), g.abs().max()]), k)
                    n += 1
        return n
