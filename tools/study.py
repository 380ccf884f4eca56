"""What the studies share: networks that train for the same time of the processor, in one thread, a row each in a table;
a study that was stopped goes on where it was."""
import argparse, csv, json, time
from pathlib import Path
import numpy as np, torch
from fastai.vision.all import CancelFitException, Callback

class ProcessorMinutes(Callback):
    "Ends training after `minutes` of this process' own time; the learning rate falls to zero in the last third"
    order = 70
    def __init__(self, minutes): self.minutes, self.batches = minutes, 0
    def before_fit(self): self.start, self.lrs = time.process_time(), [o['lr'] for o in self.opt.hypers]
    def share(self) -> float: return (time.process_time() - self.start)/60/self.minutes
    def before_batch(self):
        if self.training: self.opt.set_hypers(lr=[lr*min(1, max(1 - self.share(), 0)*3) for lr in self.lrs])
    def after_batch(self):
        self.batches += self.training
        if self.training and self.share() >= 1: raise CancelFitException()

def chapter(file, *wanted) -> dict:
    "What a chapter's import cells define, and its code cells that hold one of the words `wanted`"
    ns, imports = {}, ('from spade_fastai.all', 'from fastcore.test')
    path = Path(__file__).resolve().parents[1]/'nbs/course/more'/file
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    for o in (''.join(c['source']) for c in cells if c['cell_type'] == 'code'):
        if any(word in o for word in (*imports, *wanted)): exec(o, ns)
    return ns

def held_back(mask) -> bool: return int(mask.stem) % 5 == 0

def rows(file) -> list[dict]:
    return list(csv.DictReader(file.open())) if file.exists() else []

def append(file, row:dict):
    "`row` as the last of the table, under a heading where it is the first; printed, too"
    new = not file.exists()
    with file.open('a', newline='') as f:
        writer = csv.DictWriter(f, row)
        if new: writer.writeheader()
        writer.writerow(row)
    print(row, flush=True)

def as_bytes(pictures, n:int=4) -> np.ndarray:
    "The first `n` of pictures [B,3,H,W] in [-1,1] as [n,H,W,3] of bytes"
    pictures = pictures[:n].as_subclass(torch.Tensor).clamp(-1, 1)
    return ((pictures + 1)*127.5).byte().permute(0, 2, 3, 1).numpy()

def strip(columns:dict, file, side:float=.9):
    "Columns of pictures by name, beside each other, as one JPEG; `side` is that of a picture, in inches"
    import matplotlib.pyplot as plt
    n = min(map(len, columns.values()))
    fig, axs = plt.subplots(n, len(columns), dpi=100, layout='constrained', squeeze=False,
                            figsize=(len(columns)*side, n*side + .3))
    for i, (name, pics) in enumerate(columns.items()):
        for ax, pic in zip(axs[:, i], pics, strict=False): ax.imshow(pic, interpolation='nearest')
        axs[0, i].set_title(name, fontsize=6.5)
    for ax in axs.flat: ax.set_axis_off()
    fig.get_layout_engine().set(w_pad=.01, h_pad=.01, wspace=0, hspace=0)
    fig.savefig(file, pil_kwargs=dict(quality=88))

def options(doc, out, minutes:float, **numbers) -> argparse.ArgumentParser:
    "A parser with what every study asks for; `numbers` are further ones, with their defaults"
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', type=Path, default=Path(out))
    p.add_argument('--minutes', type=float, default=minutes, help='of processor time, each')
    for k, v in numbers.items(): p.add_argument(f'--{k}', type=type(v), default=v)
    return p

def begin(p:argparse.ArgumentParser):
    "What was asked for; one thread, and the folder is there"
    o = p.parse_args()
    torch.set_num_threads(1)
    o.out.mkdir(parents=True, exist_ok=True)
    return o
