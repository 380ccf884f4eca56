"""Do the tests notice? Each of twenty lines that everything hangs on is changed, in its notebook and its module
alike, in a copy of the repository; then the notebook and the nearest tests run there, and both must fail.
Exit status 1 if anything survives.

python tools/mutate.py            # all, two at a time: some minutes
python tools/mutate.py --only hinge-sign kld-factor
python tools/mutate.py --clean    # the same with nothing changed: all must pass, or what is caught means nothing
python tools/mutate.py --list"""
import argparse, json, os, re, shlex, shutil, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PARTS = 'nbs spade_fastai tests tools pyproject.toml settings.ini setup.py README.md CONTRIBUTING.md'.split()

class Mutation(NamedTuple):
    "One change of one line"
    name:str
    notebook:str  # under nbs/lib
    old:str       # stands once in the notebook's code, and once in the module
    new:str
    tests:str     # what pytest gets, from tests/ on

MUTATIONS = [Mutation(*o) for o in (
    # the equation, the clear way and the fast way
    ('one-plus-gamma', 'nets/00_norms', '(1 + gamma)*self.param_free_norm', 'gamma*self.param_free_norm',
     'test_parity.py -k "test_spade_layer and instance"'),
    ('fast-one-plus', 'fast/05_spade', 'return weight, torch.cat([bg + 1, bb])', 'return weight, torch.cat([bg, bb])',
     'test_parity.py -k "test_spade_layer and instance"'),
    ('running-variance', 'fast/05_spade', 'm.var[0]*(n/(n - 1))', 'm.var[0]',
     'test_fast.py -k "running_statistics and fast"'),
    ('momentum', 'fast/05_spade', 'else norm.momentum', 'else 1 - norm.momentum',
     'test_fast.py -k "running_statistics and fast"'),
    ('variance-term', 'fast/03_modulate', '.addcmul_(moments.normed(pix[b, p], b), m2[b], value=-1)', '',
     'test_fast.py -k "test_norm_against and fast and instance"'),
    # when a shortcut must not be taken
    ('recompute-check', 'fast/02_recompute', 'note is not None and note.made == t._version', 'note is not None',
     'test_fast.py -k test_any_change_in_place'),
    ('subclass-guard', 'fast/00_ways', 'if kind(m) is not cls or', 'if not isinstance(m, cls) or',
     'test_family.py -k "whole_way and SEAN"'),
    ('stale-copy', 'fast/07_drawing', ' and _same_numbers(numbers, then): return copy', ': return copy',
     'test_fast.py -k test_no_write'),
    # networks and losses
    ('power-iteration-in-eval', 'nets/01_spectral', 'if self.training: self.iterate(w)', 'self.iterate(w)',
     'test_official.py -k "test_critic and shallow"'),
    ('hinge-sign', 'train/00_losses', '_fake(self, p): return F.relu(1 + p)', '_fake(self, p): return F.relu(1 - p)',
     'test_parity.py -k "test_gan_losses and hinge"'),
    ('kld-factor', 'train/00_losses', 'return .5*(mu.square()', 'return (mu.square()',
     'test_parity.py -k test_feature_matching'),
    ('features-detached', 'train/00_losses', '_f32(r.detach())', '_f32(r)',
     'test_parity.py -k test_feature_matching'),
    # training
    ('critic-without-graph', 'train/05_step', 'no_grad(): learn.pred =', 'enable_grad(): learn.pred =',
     'test_style_and_ema.py -k test_encoder_learns'),
    ('kld-accumulated', 'train/05_step', '{k: v if k in sums else v*share for', '{k: v*share for',
     'test_style_and_ema.py -k test_kld_is_a_sum'),
    ('gradients-none', 'train/05_step', 'zero_grad(set_to_none=True)', 'zero_grad(set_to_none=False)',
     'test_learner.py -k test_fixed_switcher'),
    ('random-state', 'train/11_resume', "[o.rng.getstate() if hasattr(o, 'rng') else None for", '[None for',
     'test_resume.py -k test_every_random_number'),
    ('ema-decay', 'train/10_ema', 'a.lerp_(n.to(a), 1 - decay)', 'a.lerp_(n.to(a), decay)',
     'test_parity.py -k test_ema'),
    # masks
    ('colour-order', 'data/08_masks', 'keys[order], ids[order], pack_rgb(rgb)', 'keys[order], ids, pack_rgb(rgb)',
     'test_masks.py -k "test_is_read and sorted"'),
    ('dont-care', '00_core', 'ids == self.ignore, self.n_classes, ids', 'ids == self.ignore, 0, ids',
     'test_official.py -k "test_generator and dontcare"'),
    ('padding', 'data/14_block', 'x.masked_fill(outside, self.n_classes)', 'x.masked_fill(outside, 0)',
     'test_learner.py -k test_padding'),
)]

# Where the line stands

def once(text, m, where):
    "`text` with the line changed; raises ValueError unless it stands there once"
    if (n := text.count(m.old)) != 1: raise ValueError(f'{m.name}: {m.old!r} stands {n} times in {where}, not once')
    return text.replace(m.old, m.new)

def cells(nb): return [o for o in nb['cells'] if o['cell_type'] == 'code']

def module_of(nb):
    "The file that notebook `nb` is exported to"
    name = re.search(r'^#\|\s*default_exp\s+(\S+)', '\n'.join(''.join(o['source']) for o in cells(nb)), re.M)[1]
    return f'spade_fastai/{name.replace(".", "/")}.py'

def mutated(m, root=ROOT):
    "The files of `root` that hold the line, each with its new text"
    path = f'nbs/lib/{m.notebook}.ipynb'
    nb = json.loads((root/path).read_text(encoding='utf-8'))
    module, sources = module_of(nb), [''.join(o['source']) for o in cells(nb)]
    once('\0'.join(sources), m, path)
    for cell, src in zip(cells(nb), sources, strict=True):
        cell['source'] = src.replace(m.old, m.new).splitlines(keepends=True)
    text = once((root/module).read_text(encoding='utf-8'), m, module)
    return {path: json.dumps(nb, ensure_ascii=False), module: text}

# What notices it

def copy_to(folder):
    skip = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', '.pytest_cache')
    for o in PARTS:
        if (ROOT/o).is_dir(): shutil.copytree(ROOT/o, folder/o, ignore=skip)
        else: shutil.copy(ROOT/o, folder/o)

def outcome(cmd, folder, limit):
    "passed, failed, or what went wrong with `cmd` itself"
    env = {'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg', 'SPADE_SHARED': str(ROOT.parent/'shared'), **os.environ}
    env['PYTHONPATH'] = str(folder)
    try: p = subprocess.run(cmd, cwd=folder, env=env, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired: return f'over {limit} s'
    if p.returncode == 1: return 'failed'
    ran = p.returncode == 0 and not re.search(r'\d skipped', p.stdout)
    return 'passed' if ran else f'did not run: {(p.stdout + p.stderr)[-300:]}'

RUN_NB = """import sys
from nbdev.test import test_nb
sys.exit(not test_nb(sys.argv[1], skip_flags=['slow', 'cuda'], basepath='.')[0])"""

def commands(m):
    python, (file, *which) = sys.executable, shlex.split(m.tests)
    return dict(notebook=[python, '-c', RUN_NB, f'nbs/lib/{m.notebook}.ipynb'],
                tests=[python, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider', f'tests/{file}', *which])

def trial(m, clean=False, limit=240):
    "What notebook and tests say of mutation `m`, or of nothing changed"
    with tempfile.TemporaryDirectory() as folder:
        copy_to(folder := Path(folder).resolve())
        if not clean:
            for path, text in mutated(m).items(): (folder/path).write_text(text, encoding='utf-8')
        return {k: outcome(cmd, folder, limit) for k, cmd in commands(m).items()}

def table(ms, clean, jobs):
    "Prints a line a mutation, and says whether all is well"
    wanted, words = ('passed', {'passed': 'passes', 'failed': 'FAILS'}) if clean else \
                    ('failed', {'passed': 'SURVIVES', 'failed': 'caught'})
    good = True
    print(f'{"change":25}{"notebook":45}tests')
    with ThreadPoolExecutor(jobs) as pool:
        for m, res in zip(ms, pool.map(lambda m: trial(m, clean), ms), strict=True):
            nb, tests = (words.get(o, o) for o in (res['notebook'], res['tests']))
            print(f'{m.name:25}{m.notebook:20}{nb:25}{tests:10} {m.tests}', flush=True)
            good &= all(o == wanted for o in res.values())
    return good

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    p.add_argument('--only', nargs='+', metavar='NAME', choices=[m.name for m in MUTATIONS], help='these alone')
    p.add_argument('--list', action='store_true', help='show the changes')
    p.add_argument('--clean', action='store_true', help='change nothing: all must pass')
    p.add_argument('--jobs', type=int, default=2, help='at a time')
    a = p.parse_args()
    ms = [m for m in MUTATIONS if not a.only or m.name in a.only]
    if a.list: return print('\n'.join(f'{m.name:25}{m.notebook:20}{m.old}  ->  {m.new}' for m in ms))
    sys.exit(not table(ms, a.clean, a.jobs))

if __name__ == '__main__': main()
