"A network by its faster ways against the same network as it is written"
import torch
from spade_fastai.fast.ways import plain_math

def agrees(gen, mask):
    "What `gen` draws, which must be what its own definition draws"
    with torch.no_grad():
        got = gen(mask)
        with plain_math(): want = gen(mask)
    assert torch.allclose(got, want, atol=1e-5)
    return got
