"""The rules of the house as small functions. Each takes text and gives the faults that it finds in it, so that
test_rules.py can try it on a bad example, and test_house.py on the repository."""
import ast, json, re, subprocess, sys
from typing import NamedTuple

# Notebooks

class Cell(NamedTuple):
    kind: str      # 'code', 'markdown' or 'raw'
    src: str

    @property
    def exported(self): return self.kind == 'code' and bool(re.search(r'^#\|\s*export', self.src, flags=re.M))

    @property
    def code(self):
        "Lines that are neither empty nor directives of nbdev; none of prose"
        return [o for o in self.src.splitlines() if o.strip() and not o.startswith('#|')] if self.kind == 'code' else []

    @property
    def lines(self):
        "As `code`, and empty lines"
        return [o for o in self.src.splitlines() if not o.startswith('#|')] if self.kind == 'code' else []

def cells_of(path):
    return [Cell(o['cell_type'], ''.join(o['source'])) for o in json.loads(path.read_text(encoding='utf-8'))['cells']]

def long_cells(cells, most=40):
    return [f"{len(o.lines)} lines: {o.code[0][:60]!r}" for o in cells if o.exported and len(o.lines) > most]

def long_lines(text, most=120):
    lines = enumerate(text.splitlines(), 1)
    return [f'line {i} has {len(o)} characters: {o[:50]!r}' for i, o in lines if len(o) > most]

def too_large(cells, most_cells=60, most_lines=500):
    n, lines = len(cells), sum(len(o.code) for o in cells)
    faults = [f'{n} cells, at most {most_cells}'] if n > most_cells else []
    return faults + ([f'{lines} lines of code, at most {most_lines}'] if lines > most_lines else [])

def untitled(cells):
    "A chapter opens with `# Title` and `> subtitle`, in one cell, and one line each"
    first = next((o.src.strip() for o in cells if o.kind == 'markdown'), '')
    return [] if re.fullmatch(r'# [^\n]+\n+> [^\n]+', first) else [f'no title and subtitle: {first[:60]!r}']

LINK = r'\[[^\[\]]*\]\([^()\s]+\)'

def loose_chapters(text):
    "'chapter on …' that is neither in a link nor followed by one"
    loose = r'\b[Cc]hapters?\s+on\b(?!\s+(the\s+|a\s+)?\0)[^.,;:)]{0,30}'
    return [m[0].strip() for m in re.finditer(loose, re.sub(LINK, '\0', text))]

def dead_links(text, folder):
    "Relative links of a text in `folder` that lead nowhere"
    links = re.findall(r'\]\(([^)#\s]+)', text) + re.findall(r'(?:src|href)="([^"#]+)"', text)
    return [o for o in links if ':' not in o and not (folder/o).exists()]

def anchor(heading):
    "The anchor of a heading, as Jupyter and GitHub write it"
    return re.sub(r'[`*$]', '', heading).strip().replace(' ', '-')

def sections(path):
    "The text under each heading of a notebook, by its anchor; all of it under ''"
    cells = cells_of(path)
    text = '\n\n'.join(o.src if o.kind == 'markdown' else re.sub('^#', ' #', o.src, flags=re.M) for o in cells)
    _, *parts = re.split(r'^#+ (.+)$', text, flags=re.M)
    return {'': text} | {anchor(h): body for h, body in zip(parts[::2], parts[1::2], strict=True)}

def dead_anchors(text, folder):
    "Links to a heading of a notebook that is not there"
    links = re.findall(r'\]\(([^)#:\s]+\.ipynb)#([^)\s]+)\)', text)
    links = [o for o in links if (folder/o[0]).exists()]
    return [f'{file}#{a}' for file, a in links if a not in sections(folder/file)]

def has_word(word, text):
    "Whether a word stands in a text, or a mathematical sign of its name"
    return bool(re.search(rf'(?<!\w){re.escape(word)}s?(?!\w)', text.replace('\\', ''), re.I))

COLAB = 'https://colab.research.google.com/github/spade-fastai/spade_fastai/blob/main/'
TEACHES = (r'^Course chapter (\d), \[[^\]]+\]\(((?:\.\./)+course/0(\d)_\w+\.ipynb)\), '
           r'teaches this; here is all of it\.$')

def taught_by(cells):
    "The line of a reference chapter that names its course chapter: a match of number, link, the link's number"
    found = (re.search(TEACHES, o.src, re.M) for o in cells if o.kind == 'markdown')
    return next((m for m in found if m), None)

def unlinked(needs, cells, course):
    "Faults between a course chapter's line **Needs** and the openings of the reference chapters that it names"
    names = re.findall(r'\]\((\.\./lib/[^)]+)\)', needs)
    ms = {o: taught_by(cells(course.parent/o)) for o in names}
    return [f'{o} does not say that {course.stem} teaches it' for o, m in ms.items()
            if not m or (course.parent/o).parent.joinpath(m[2]).resolve() != course.resolve() or m[1] != m[3]]

# Signatures and classes

def functions(src):
    return [o for o in ast.walk(ast.parse(src)) if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef))]

def params(f):
    "Parameters of a function, without self, cls, *args and **kwargs"
    a = f.args
    return [o for o in a.posonlyargs + a.args + a.kwonlyargs if o.arg not in ('self', 'cls')]

def long_signatures(src, most=10):
    return [f'{f.name} has {len(params(f))} parameters' for f in functions(src) if len(params(f)) > most]

def classes(src): return {o.name for o in ast.walk(ast.parse(src)) if isinstance(o, ast.ClassDef)}

def names(node): return {o.id for o in ast.walk(node) if isinstance(o, ast.Name)}

def patched(src, ours):
    "What is put on a class of `ours` from outside: @patch, @patch_to, `Class.name = …`, `setattr(Class, …)`"
    for f in functions(src):
        for d in f.decorator_list: yield from [f'{f.name} is patched onto {o}' for o in sorted(_patches(d, f) & ours)]
    mine, defs = classes(src), {f.name for f in functions(src)}
    for o in ast.walk(ast.parse(src)):
        targets = o.targets if isinstance(o, ast.Assign) else []
        code = targets and (isinstance(o.value, ast.Lambda) or getattr(o.value, 'id', '') in defs)
        if isinstance(o, ast.Call) and getattr(o.func, 'id', '') == 'setattr':
            targets = [ast.Attribute(o.args[0], 'setattr')]
        for t in targets:   # two classes of one file may be told of each other, not given methods
            if isinstance(t, ast.Attribute) and getattr(t.value, 'id', '') in (ours if code else ours - mine):
                yield f'{t.value.id}.{t.attr} is set from outside'

def _patches(decorator, f):
    "Names of the classes that a decorator of `f` puts it on"
    call = decorator.func if isinstance(decorator, ast.Call) else decorator
    kind, first = getattr(call, 'id', getattr(call, 'attr', '')), next(iter(f.args.posonlyargs + f.args.args), None)
    if kind == 'patch' and first and first.annotation:
        return names(ast.parse(ast.unparse(first.annotation).strip('"\'')))
    return names(decorator.args[0]) if kind == 'patch_to' and isinstance(decorator, ast.Call) else set()

def exact_types(src):
    "Comparisons of type(x): a class of a user's own, or a subclass, cannot join there"
    def is_type(o): return isinstance(o, ast.Call) and getattr(o.func, 'id', '') == 'type' and len(o.args) == 1
    return [ast.unparse(o) for o in ast.walk(ast.parse(src)) if isinstance(o, ast.Compare)
            and any(map(is_type, [o.left, *o.comparators]))]

# Importing every module in turn, in a new process: which one changes a class of another?

CHANGED = """import importlib, sys
def state():
    mods = [m for n, m in list(sys.modules.items()) if n.startswith('spade_fastai')]
    ours = [c for m in mods for c in vars(m).values() if isinstance(c, type) and c.__module__ == m.__name__]
    return {c: {k: id(v) for k, v in vars(c).items() if not k.startswith(('_abc', '__'))} for c in ours}
for name in sys.argv[1:]:
    before = state()
    importlib.import_module(name)
    after = state()
    for c in before:
        new = dict(set(before[c].items()) ^ set(after[c].items()))
        if new: print(name, 'changes', c.__module__, c.__name__, *sorted(new))
"""

def changes(modules, path):
    "What importing `modules`, the lowest first, changes in classes that were there before"
    p = subprocess.run([sys.executable, '-c', CHANGED, *modules], capture_output=True, text=True, cwd=path)
    assert p.returncode == 0, p.stderr
    return p.stdout.splitlines()

# Words

WORDS = dict(label_map='mask', segmap='seg', discriminator='critic')

def wrong_words(src):
    "The worst of the table in CONTRIBUTING: `draw` without a mask, `generator` for random numbers, others' words"
    lines = src.splitlines()
    for f in functions(src):
        mine = {o.arg for o in params(f)}
        if f.name.strip('_') == 'draw' and not mine & {'mask', 'masks'}:
            yield f'{f.name}: to draw is to make a picture from a mask'
        for o in params(f):
            said = (ast.unparse(o.annotation) if o.annotation else '') + lines[o.lineno - 1].partition('#')[2]
            random = o.arg in ('gen', 'generator') and re.search(r'torch\.Generator|random', said)
            if random: yield f'{f.name}: {o.arg} is a network, say rng'
            if o.arg in WORDS: yield f'{f.name}: {o.arg} is called {WORDS[o.arg]} here'
    for o in ast.walk(ast.parse(src)):
        if isinstance(o, ast.Assign) and 'torch.Generator(' in ast.unparse(o.value):
            said = [ast.unparse(t) for t in o.targets]
            yield from [f'{t}: say rng' for t in said if t.split('.')[-1] in ('g', 'gen', 'generator')]

# Who may import whom

FLOORS = ['core guards palette noise synthetic', 'data nets', 'train', 'fast',
          'learner drawing saving pretrained export baselines spaces texture metrics score', 'apps',
          'official_names official_family official', 'commands']
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms.split()}
LEAVES = {'official', 'commands'}

class Chapter(NamedTuple):
    name: str      # of the module: 'data.check.look'
    number: tuple  # of its notebook: (3, '') for 03_look.ipynb

    @property
    def room(self): return self.name.split('.')[0]

    @property
    def place(self):
        "What counts within a room: chapters of a folder inside it come after its own, then their number"
        return self.name.count('.'), self.number

def chapter(src):
    "The chapter that a module's source comes from, None for one written by hand"
    m = re.search(r'File to edit: (?:\.\./)+nbs/(?:lib/)?((?:\w+/)*)(\d+)([a-z]?)_(\w+)\.ipynb', src)
    return m and Chapter(m[1].replace('/', '.') + m[4], (int(m[2]), m[3]))

def broken(a, b):
    "Which rule chapter `a` breaks by importing `b`, None if none"
    if b is None or b.room not in FLOOR or a.room not in FLOOR: return 'only chapters of a known room may be imported'
    up, down = FLOOR[a.room], FLOOR[b.room]
    if b.room in LEAVES and a.room != 'commands': return 'nothing below a command imports a leaf'
    if b.room == 'data' and a.room in ('train', 'fast'): return f'{a.room} does not know data'
    if b.room == 'train' and a.room == 'fast': return 'fast does not know train'
    if down > up: return 'it lies above'
    if {a.room, b.room} == {'data', 'nets'}: return 'data and nets do not know each other'
    if down == up and b.place >= a.place: return 'its number is not smaller'

def imports(src, name, modules):
    "Those of our `modules` that the source of module `name` imports, at the top or inside a function"
    for o in ast.walk(ast.parse(src)):
        if isinstance(o, ast.Import):
            yield from [a.name.partition('.')[2] for a in o.names if a.name.startswith('spade_fastai.')]
        elif isinstance(o, ast.ImportFrom) and (o.level or o.module.split('.')[0] == 'spade_fastai'):
            above = name.split('.')[:-o.level] if o.level else []
            full = '.'.join([*above, *([o.module] if o.module else [])]).removeprefix('spade_fastai').strip('.')
            inner = [f'{full}.{a.name}'.strip('.') for a in o.names if not a.name.startswith('__')]
            yield from [full] if full in modules else [o for o in inner if full or o in modules]

def private_imports(src):
    "Names with an underscore that are taken from another of our files"
    tree, ours = ast.parse(src), set()
    for o in ast.walk(tree):
        if isinstance(o, ast.ImportFrom) and (o.level or o.module.startswith('spade_fastai')):
            yield from [a.name for a in o.names if a.name.startswith('_') and not a.name.startswith('__')]
            ours |= {a.asname or a.name for a in o.names if a.name.islower()}
        elif isinstance(o, ast.Import): ours |= {a.asname for a in o.names if a.name.startswith('spade_fastai.')}
    for o in ast.walk(tree):
        if isinstance(o, ast.Attribute) and getattr(o.value, 'id', None) in ours and re.match(r'_[^_]', o.attr):
            yield f'{o.value.id}.{o.attr}'

def foreign_stars(src):
    "`from fastai.… import *`: a reader cannot see where a name comes from"
    return [o.module for o in ast.walk(ast.parse(src)) if isinstance(o, ast.ImportFrom) and not o.level
            and not o.module.startswith('spade_fastai') and any(a.name == '*' for a in o.names)]
