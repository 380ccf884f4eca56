"""Files, tables and command lines at random: the right result, or one clear error. What fails prints its seed and case:
SPADE_FUZZ_SEED=… runs that one alone, SPADE_FUZZ_SECONDS=… goes on for so long (default: a thousand cases, the same
everywhere, in about half a minute)."""
import contextlib, io, json, os, random, signal, time, warnings
import numpy as np, pytest
from PIL import Image
from spade_fastai.commands import check, train
from spade_fastai.commands.options import TrainOptions, settled
from spade_fastai.commands.terminal import EXPECTED, said
from spade_fastai.data.classes import read_classes
from spade_fastai.data.images import open_image
from spade_fastai.data.landcover import make_landcover
from spade_fastai.data.lists import read_table
from spade_fastai.data.masks import open_mask
from test_lines import CHECK, OWN, TRAIN

SECONDS, SEED, CASES = os.environ.get('SPADE_FUZZ_SECONDS'), os.environ.get('SPADE_FUZZ_SEED'), 1000
CLEAR = ValueError, OSError, ImportError
LIMIT = 20                                                              # seconds that one case may take

class TooLong(BaseException): pass

@contextlib.contextmanager
def in_time():
    "Inside ends within the limit, where the system can say so"
    def late(*_): raise TooLong(f'more than {LIMIT} s')
    old = signal.signal(signal.SIGALRM, late) if hasattr(signal, 'SIGALRM') else None
    if old is not None: signal.alarm(LIMIT)
    try: yield
    finally:
        if old is not None: signal.alarm(0), signal.signal(signal.SIGALRM, old)

def rounds(share):
    "Random numbers for one case after the other: this test's share of the cases, or of the time"
    start, first = time.monotonic(), 0
    if SEED is not None: yield int(SEED), random.Random(int(SEED)); return
    while time.monotonic() - start < share*float(SECONDS) if SECONDS else first < share*CASES:
        yield first, random.Random(first)
        first += 1

def tried(seed, case, f, *args, **kwargs):
    "What `f(…)` gives, None where it is a clear error; anything else fails, with the case"
    try:
        with in_time(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return f(*args, **kwargs)
    except CLEAR as e:
        assert str(e).strip() and 'object has no attribute' not in str(e), f'SPADE_FUZZ_SEED={seed}: {case}: {e!r}'
    except (Exception, TooLong) as e:
        pytest.fail(f'SPADE_FUZZ_SEED={seed}: {case}\n{type(e).__name__}: {e}', pytrace=bool(SEED))

# Files

def mutated(rng, b:bytes) -> tuple:
    "Bytes with something wrong, and what was done"
    b, n = bytearray(b), max(1, len(b))
    kind = rng.choice(['as it is', 'bits', 'bytes', 'cut', 'twice', 'swapped', 'zeros', 'more', 'head', 'number'])
    at = rng.randrange(n)
    if kind == 'bits': b[at % len(b)] ^= 1 << rng.randrange(8)
    if kind == 'bytes':
        for _ in range(rng.randint(1, 8)): b[rng.randrange(len(b))] = rng.randrange(256)
    if kind == 'cut': del b[at:]
    if kind == 'twice': b = b + b[:at]
    if kind == 'swapped': b = b[at:] + b[:at]
    if kind == 'zeros': b[at:at + 40] = bytes(len(b[at:at + 40]))
    if kind == 'more': b[at:at] = rng.randbytes(rng.randint(1, 60))
    if kind == 'head': b[rng.randrange(min(40, len(b)))] = rng.choice([0, 1, 127, 128, 255])
    if kind == 'number': b[at:at + 4] = rng.choice([b'\xff'*4, bytes(4), b'\x7f\xff\xff\xff', b'\x00\x01\x00\x00'])
    return bytes(b), f'{kind} at {at}'

def picture(rng, kind) -> bytes:
    "A file of a small mask or image"
    mode = rng.choice(['L', 'P', 'RGB', 'RGBA', 'I;16', '1', 'LA', 'F'])
    a = np.array([rng.randrange(3) for _ in range(48)], np.uint8).reshape(6, 8)
    f = io.BytesIO()
    if kind in ('npy', 'npz'):
        a = a.astype(rng.choice(['u1', 'i4', 'f8', '?', '>u2']))
        if kind == 'npy': np.save(f, a)
        else: rng.choice([np.savez, np.savez_compressed])(f, **{k: a for k in rng.choice(['a', 'ab', 'm'])})
        return f.getvalue()
    im = Image.fromarray(a).convert('L' if mode == 'I;16' else mode)
    if mode == 'I;16': im = Image.fromarray(a.astype(np.uint16)*rng.choice([1, 300]))
    exif = Image.Exif()
    if rng.random() < .2: exif[274] = rng.randrange(10)
    try: im.save(f, kind, **({'exif': exif} if kind in ('png', 'jpeg', 'webp') else {}))
    except (OSError, KeyError, ValueError): Image.fromarray(a).save(f, kind)
    return f.getvalue()

KINDS = ['png', 'tiff', 'jpeg', 'npy', 'npz', 'gif', 'webp', 'bmp']
NAMES = ['a', 'a b', 'ä', 'a.b', '道', 'a\x1b[2J', "a'b", 'a%s', '{a}', '-a', 'a\nb', '.a', 'A'*100]

def decoded(b):
    "The ids of a plain mask as Pillow or NumPy alone read them, None where that is not plain"
    try:
        if b[:6] == b'\x93NUMPY': return np.load(io.BytesIO(b))
        im = Image.open(io.BytesIO(b))
        if im.format not in ('PNG', 'BMP') or im.mode not in ('L', 'P') or 'transparency' in im.info: return None
        im.load()
        return np.asarray(im) if im.getexif().get(274, 1) == 1 else None
    except Exception: return None

def test_files(tmp_path):
    for seed, rng in rounds(.4):
        kind, other = rng.choice(KINDS), rng.choice(KINDS)
        b, done = mutated(rng, picture(rng, kind))
        suffix = {'tiff': 'tif', 'jpeg': 'jpg'}.get(o := kind if rng.random() < .9 else other, o)
        fn = tmp_path/f'{rng.choice(NAMES)}.{suffix}'
        fn.write_bytes(b)
        kw = rng.choice([dict(n_classes=3), dict(n_classes=3, ignore=255), dict(n_classes=3, ids={0: 0, 1: 1, 2: 2}),
                         dict(n_classes=3, table={(0, 0, 0): 0, (1, 1, 1): 1, (2, 2, 2): 2})])
        case = f'{kind} as {fn.name!r}, {done}, {kw}: {b[:60]!r}…'
        got = tried(seed, f'open_mask: {case}', open_mask, fn, **kw)
        tried(seed, f'open_image: {case}', open_image, fn)
        right = decoded(b) if 'table' not in kw and 'ids' not in kw else None
        if got is not None and right is not None and right.ndim == 2 and right.max(initial=0) < 3:
            same = np.array_equal(np.asarray(got), right)
            assert same, f'SPADE_FUZZ_SEED={seed}: other ids than Pillow alone reads: {case}'
        fn.unlink()

# Tables

TABLES = {
    'codes.txt': 'water\nland\nroad\n', 'class_dict.csv': 'name,r,g,b\nwater,0,0,200\nland,0,128,0\n',
    'esri.emd': json.dumps(dict(Classes=[dict(Value=i, Name=o, Color=[i]*3) for i, o in enumerate('ab')])),
    'split.csv': 'mask,image,split\na.png,a.jpg,train\nb.png,b.jpg,val\n',
    'classes.json': '{"0": "water", "1": "land"}'}
WORDS = ['', '"', "'", ',', ';', '\t', '\n', '\r\n', '\x00', '\ufeff', '-1', '1e999', 'NaN', 'Infinity', '999', '1.5',
         '[', '{', '['*2000, 'null', 'true', 'ß', '\x1b[2J', 'x'*200000, '\udcff', '..',
         '/', '#', '0x10', ' ', 'name', 'mask']

def test_tables(tmp_path):
    for seed, rng in rounds(.2):
        name, = rng.sample(list(TABLES), 1)
        text, done = TABLES[name], []
        for _ in range(rng.randint(0, 3)):
            at, word = rng.randrange(len(text) + 1), rng.choice(WORDS)
            text = text[:at] + word + text[at + rng.choice([0, 0, 1, 5, 30]):]
            done.append((at, word[:20]))
        b = text.encode(rng.choice(['utf-8', 'utf-8', 'utf-16', 'latin1']), 'replace')
        (tmp_path/name).write_bytes(b)
        read = read_table if name == 'split.csv' else read_classes
        tried(seed, f'{read.__name__}: {name} with {done}: {b[:80]!r}', read, tmp_path/name)

# Command lines

MORE = ['1', '0', '-1', 'nan', '', ' ', 'x', '1.5', '64', '1e9', '*', '**', '.', '..', '/', '[', '{}', '{0: 0}', '()',
        'None', 'a,b', '0,255', "{0:'a'}", '{(0,0,0):0}', '\x1b[2J', 'ü', '%s', '--', '"', 'labels', 'images',
        'codes.txt', '4,3,2', '2,98']
FLAGS = ['--align', '--cure', '--help-me', '--']

def drawn(rng, *tables) -> list:
    "A command line: options with their odd values, or with those of others"
    options = {k: v for t in tables for k, v in t.items()}
    args = [f'{k}={rng.choice(options[k] + MORE)}' for k in rng.sample(sorted(options), rng.randint(1, 3))]
    return args + ([rng.choice(FLAGS)] if rng.random() < .1 else [])

def ends(main, args):
    "Runs a command; its end must be an exit status, or one line"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try: main(args)
        except SystemExit as e:
            line = e.code if isinstance(e.code, str) else err.getvalue().strip() if e.code == 2 else 'clean or not'
            if '\n' in line or not line.isprintable():
                raise AssertionError(f'not one line: {line!r}') from None
    if not all(c.isprintable() or c in '\n\t' for c in out.getvalue()): raise AssertionError('it steers the terminal')

def test_command_lines(tmp_path, monkeypatch):
    land = make_landcover(tmp_path/'land', n=5, size=16)
    monkeypatch.chdir(tmp_path)
    class Loaded(ValueError): pass
    def load(options):                                                  # all of spade-train but the training
        o = settled(TrainOptions(**options))
        if o.path is not None: train._own(o)
        raise Loaded('it can be trained')
    monkeypatch.setattr(train, 'train', lambda **options: load(options))
    for seed, rng in rounds(.4):
        if rng.random() < .5: main, args = check.main, [str(land), *drawn(rng, CHECK)]
        elif rng.random() < .5: main, args = train.main, drawn(rng, TRAIN)
        else:
            more = {'--seed': ['1'], '--size': ['32']}
            main, args = train.main, ['--path', str(land), '--size', '16', *drawn(rng, OWN, more)]
        args = [o.replace('\x00', '') for o in args]                    # no system passes these
        tried(seed, f'{main.__module__} {args}', ends, main, args)

def test_the_fuzz_finds_faults():
    "The frame itself: what no library may show fails, with the seed"
    for bad in (KeyError('x'), TypeError('x'), IndexError('x'), ZeroDivisionError(), ValueError('')):
        def f(e=bad): raise e
        fails = pytest.fail.Exception, AssertionError
        with pytest.raises(fails, match='SPADE_FUZZ_SEED=7: case'): tried(7, 'case', f)
    assert tried(7, 'case', lambda: 5) == 5 and tried(7, 'case', lambda: open('nowhere/x')) is None
    assert set(CLEAR) < set(EXPECTED) and said(OSError('x')) == 'x'
