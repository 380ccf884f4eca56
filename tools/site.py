"""Builds the documentation, without a network, into _docs/: the course, the library's chapters with links to their
source, a page to paint on, and search. The notebooks are the pages; nothing is run. Then every link is followed.

python -m pip install -e ".[docs]" && python tools/site.py
python tools/site.py --network land.safetensors --runtime onnxruntime-web   # with the page to paint on (extra export)
python tools/site.py --check                                                # only the links of what is in _docs/"""
import argparse, ast, json, posixpath, re, shutil, sys
from functools import reduce
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
HOME = 'https://github.com/spade-fastai/spade_fastai'
BLOB = f'{HOME}/blob/main'
ROOMS = {'lib': 'Masks, learner, measures', 'lib/data': 'Data', 'lib/data/check': 'Looking through a folder',
         'lib/nets': 'Networks', 'lib/train': 'Training', 'lib/fast': 'The same, faster',
         'lib/apps': 'Things with a loop of their own', 'commands': 'Commands'}
BADGE = 'https://colab.research.google.com/assets/colab-badge.svg'

def text_of(path): return path.read_text(encoding='utf-8')

# A notebook as a page

def flags(src):
    "Directives `#| key: value` of a cell as a dict, and its source without them"
    found = dict(re.findall(r'^#\|\s*([\w-]+):?[ \t]*(.*)$', src, flags=re.M))
    return found, re.sub(r'^#\|.*\n?', '', src, flags=re.M).strip('\n')

def hidden(o): return 'hide' in o or o.get('include') == 'false'

def defined(src):
    "Names that a cell defines: functions, classes, and what is assigned"
    for o in ast.parse(re.sub(r'^\s*[%!].*', '', src, flags=re.M)).body:
        if isinstance(o, (ast.FunctionDef, ast.ClassDef)): yield o.name
        elif isinstance(o, ast.Assign):
            yield from [n.id for t in o.targets for n in ast.walk(t) if isinstance(n, ast.Name)]

class Module:
    "What a chapter exports: the file, its public names, and where each stands in it"
    def __init__(self, path, root=ROOT):
        self.path, body = path.relative_to(root).as_posix(), ast.parse(text_of(path)).body
        self.name = self.path.removesuffix('.py').replace('/', '.')
        self.public = next((ast.literal_eval(o.value) for o in body if isinstance(o, ast.Assign)
                            and getattr(o.targets[0], 'id', '') == '__all__'), [])
        self.lines, self.says = {}, {}
        for o in body:
            doc = ast.get_docstring(o) if isinstance(o, (ast.FunctionDef, ast.ClassDef)) else None
            for name in defined(ast.unparse(o)):
                self.lines.setdefault(name, o.lineno)
                self.says.setdefault(name, (doc or '').partition('\n')[0])

    def link(self, name): return f'{BLOB}/{self.path}#L{self.lines[name]}'

def module_of(cells, root=ROOT):
    "The module that a notebook exports, None if none"
    for o in cells:
        m = re.search(r'^#\|\s*default_exp\s+([\w.]+)', ''.join(o['source']), flags=re.M)
        if m: return Module(root/'spade_fastai'/(m[1].replace('.', '/') + '.py'), root)

def source_line(module, src):
    "A line of links to the source of what a cell defines, with anchors for other pages"
    names = [o for o in dict.fromkeys(defined(src)) if o in module.lines]
    one = '<a class="source" id="{0}" href="{1}" title="source of {0} on GitHub">{0}</a>'
    links = ' · '.join(one.format(o, module.link(o)) for o in names)
    return f'<p class="sources">source: {links}</p>' if names else ''

def caption(cells, i):
    "Words for a picture that has none of its own: the emphasised sentence after it, else the heading before it"
    for o in cells[i + 1:i + 3]:
        if m := re.match(r'\*([^*]+)\*', ''.join(o['source'])): return m[1]
    said = [''.join(o['source']) for o in cells[:i] if o['cell_type'] == 'markdown']
    heads = [m[1] for o in said if (m := re.match(r'#+ (.+)', o))]
    return f'Figure of the section {heads[-1]}' if heads else 'Figure'

def absolute(src, page, nbs):
    "Links of a text that lead out of the notebooks become links to GitHub; the badge is ours"
    here = posixpath.dirname(page)
    def one(m):
        link, _, anchor = m[2].partition('#')
        if ':' in link or not link: return m[0].replace(BADGE, posixpath.relpath('images/colab.svg', here or '.'))
        path = posixpath.normpath(posixpath.join('nbs', here, link))
        inside = path.startswith('nbs/') and path.endswith(('.ipynb', '.md', '.png', '.jpg', '.svg'))
        return m[0] if inside else f'{m[1]}{BLOB}/{path}{"#" + anchor if anchor else ""})'
    pieces = re.split(r'(^```.*?^```$|`[^`\n]+`)', src, flags=re.M | re.S)          # every second one is code
    return ''.join(o if i % 2 else re.sub(r'(\]\()([^)\s]+)\)', one, o) for i, o in enumerate(pieces))

def as_page(nb, page, root=ROOT):
    "A notebook without what only tests need, with links to source; its cells are not run"
    module, old, new = module_of(nb['cells'], root), nb['cells'], []
    for i, o in enumerate(old):
        found, src = flags(''.join(o['source']))
        if o['cell_type'] == 'raw' or hidden(found) or not src.strip(): continue
        if o['cell_type'] == 'markdown':
            new.append({**o, 'source': absolute(''.join(o['source']), page, root/'nbs')})
            continue
        if module and {'export', 'exporti'} & set(found) and (line := source_line(module, src)):
            new.append(dict(cell_type='markdown', metadata={}, source=line))
        tags = ['remove-input'] if found.get('echo') == 'false' else []
        pics = [k for out in o['outputs'] for k in out.get('data', {}) if k.startswith('image/')]
        alt = found.get('fig-alt', '').strip('"') or caption(old, i)
        meta = dict(tags=tags, **({'mystnb': {'image': {'alt': alt}}} if pics else {}))
        new.append({**o, 'source': src, 'metadata': meta})
    nb['metadata'].setdefault('kernelspec', dict(name='python3', language='python', display_name='python3'))
    return {**nb, 'cells': [{**o, 'id': f'c{i}'} for i, o in enumerate(new)]}

# The pages that are in no notebook

def title(path):
    cells = json.loads(text_of(path))['cells']
    return next(m[1] for o in cells if (m := re.match(r'# (.+)', ''.join(o['source']))))

def toctree(caption, entries, depth=1):
    head = [f':caption: {caption}'] if caption else []
    return '\n'.join(['```{toctree}', ':hidden:', f':maxdepth: {depth}', *head, '', *entries, '```', ''])

def numbered(nbs):
    "The course in the order in which it is read"
    return [f'{int(o.stem[:2])} · {title(o)} <course/{o.stem}>' for o in sorted((nbs/'course').glob('[0-9]*.ipynb'))]

def doors(nbs):
    "The sidebar: learn, further on, look up, run"
    aids = [f'course/{o}' for o in ('cheatsheet', 'glossary', 'teacher') if (nbs/f'course/{o}.ipynb').exists()]
    solved = sorted((nbs/'course/solutions').glob('*.ipynb'))
    solutions = [f'Solutions to {int(o.stem[:2])} <course/solutions/{o.stem}>' for o in solved]
    electives = sorted((nbs/'course/solutions/more').glob('*.ipynb'))
    solutions += [f'{title(o)} <course/solutions/more/{o.stem}>' for o in electives]
    more = [f'course/more/{o.stem}' for o in sorted((nbs/'course/more').glob('*.ipynb'))]
    rooms = [f'{v} <{k}/room>' for k, v in ROOMS.items() if k != 'commands']
    return (toctree('Learn', numbered(nbs) + aids + ['solutions']) + toctree('Learn more', more)
            + toctree('Look up', ['names', *rooms], 2) + toctree('Run', ['paint_here', 'commands/room'], 2)), solutions

def subtitle(path):
    first = next(o for o in json.loads(text_of(path))['cells'] if o['cell_type'] == 'markdown')
    return re.search(r'^> (.+)', ''.join(first['source']), flags=re.M)[1]

def room(nbs, folder, head):
    "A page for a folder of chapters: what each is about"
    nbs = sorted((nbs/folder).glob('*.ipynb'))
    rows = [f'- [{title(o)}]({o.name}): {subtitle(o)}' for o in nbs]
    return '\n'.join([f'# {head}', '', *rows, '', toctree(None, [o.stem for o in nbs])])

def names(modules):
    "A page with a line for every public name: what it is, where it is taught, where it stands"
    rows = sorted(((name, page, m) for page, m in modules for name in m.public if name in m.lines),
                  key=lambda o: (o[0].lower(), o[0]))
    def said(doc): return re.sub(r'`([^`]+)`', r'<code>\1</code>', escape(doc))
    line = '<tr><td><a href="{}#{}"><code>{}</code></a></td><td>{}</td><td><a href="{}">{}</a></td></tr>'
    body = [line.format(page.replace('.ipynb', '.html'), n, n, said(m.says[n]), m.link(n), m.name.partition('.')[2])
            for n, page, m in rows]
    return NAMES.format(len(rows), '\n'.join(body))

NAMES = '''# Every name

All {} public names. The name leads to the chapter that defines it, the module to its source.

<div class="table-wrapper" tabindex="0" role="region" aria-label="Every name"><table class="docutils">
<thead><tr><th>name</th><th>what it is</th><th>source</th></tr></thead><tbody>
{}
</tbody></table></div>
'''

PAINT = '''# Paint in the browser

{}

With your own network: `spade-paint my.safetensors` opens the same page on your computer, and `paint_page` writes it as
a folder for any web host ([how](lib/apps/03b_page.ipynb)).
'''
HERE = '''<p><a class="paint" href="paint/index.html">Open the page to paint on</a></p>

Choose a class, draw, and a network paints the land below, in your own browser: nothing that you draw leaves your
computer. The first visit loads about 15 MB.'''
NOT_HERE = '''This copy of the documentation was built without a network to paint with.
`python tools/site.py --network land.safetensors --runtime onnxruntime-web` builds it with one.'''

def paint(network, runtime, out):
    "The page to paint on, with the network of a file"
    from spade_fastai.apps.page import paint_page
    from spade_fastai.all import load_spade
    return paint_page(load_spade(network), out, runtime)

# All of it

def gather(src, root=ROOT, painted=False):
    "The notebooks as pages, and the pages that are in none, in the folder `src`"
    nbs, modules = root/'nbs', []
    shutil.rmtree(src, ignore_errors=True)
    for o in sorted(nbs.rglob('*')):
        page, new = o.relative_to(nbs).as_posix(), src/o.relative_to(nbs)
        if any(p[0] in '._' for p in o.relative_to(nbs).parts): continue
        if o.suffix in ('.png', '.jpg', '.svg'): write(new, o.read_bytes())
        if o.suffix != '.ipynb': continue
        nb = json.loads(text_of(o))
        if m := module_of(nb['cells'], root): modules.append((page, m))
        write(new, json.dumps(as_page(nb, page, root)))
    tree, solutions = doors(nbs)
    nb = json.loads(text_of(src/'index.ipynb'))
    nb['cells'].append(dict(cell_type='markdown', metadata={}, id='doors', source=tree))
    write(src/'index.ipynb', json.dumps(nb))
    for folder, head in ROOMS.items(): write(src/folder/'room.md', room(nbs, folder, head))
    rows = [re.sub(r'(.+) <(.+)>', r'- [\1](\2.ipynb)', o) for o in solutions]
    said = 'To the exercises at the end of each chapter. The tests run them.'
    write(src/'solutions.md', '\n'.join(['# Solutions', '', said, '', *rows, '', toctree(None, solutions)]))
    write(src/'names.md', names(modules))
    write(src/'paint_here.md', PAINT.format(HERE if painted else NOT_HERE))
    return src

def write(path, what):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(what if isinstance(what, bytes) else what.encode())

def slug(heading):
    "The anchor of a heading, as Jupyter and GitHub have it for notebooks"
    return re.sub(r'[`*$]', '', heading).strip().replace(' ', '-')

CONF = dict(
    project='spade_fastai', html_title='spade_fastai', copyright='the spade_fastai authors, Apache-2.0', author='',
    extensions=['myst_nb', 'sphinx-mathjax-offline'], nb_execution_mode='off', nb_merge_streams=True,
    myst_enable_extensions=['dollarmath', 'amsmath'], myst_heading_anchors=4, myst_heading_slug_func=slug,
    html_theme='furo', html_css_files=['styles.css'], html_js_files=['site.js'],
    html_show_sphinx=False, html_copy_source=False,
    html_theme_options=dict(source_repository=HOME, source_branch='main', source_directory='nbs/',
                            top_of_page_buttons=['view']),
    html_static_path=['static'], html_favicon='static/icon.svg',
    suppress_warnings=['myst.header', 'mystnb.unknown_mime_type', 'misc.highlighting_failure', 'config.cache'])

# What the theme leaves to be done, so that a screen reader knows each part of a page
MENDS = {'<p class="caption" role="heading">': '<p class="caption" role="heading" aria-level="2">',
         '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="All pages">',
         '<aside class="toc-drawer': '<aside aria-label="This page" class="toc-drawer',
         '<div class="content-icon': '<div role="navigation" aria-label="View" class="content-icon',
         '<th></th>': '<td></td>', '<th class="head"><p></p></th>': '<td></td>',
         '<div id="search-results">': '<h1>Search</h1><div id="search-results">'}

def build(out, work, network=None, runtime=None):
    "Write the site to `out`, by way of the folder `work`; the number of things that Sphinx warned of"
    from sphinx.application import Sphinx
    for o in (out, work): shutil.rmtree(o, ignore_errors=True)
    gather(src := work/'pages', painted=bool(network and runtime))
    for o in ('styles.css', 'site.js', 'icon.svg'): write(src/'static'/o, text_of(Path(__file__).parent/'site'/o))
    made = work/'html'
    app = Sphinx(src, None, made, work/'trees', 'html', confoverrides=CONF, freshenv=True)
    app.build()
    for o in made.rglob('*.html'): write(o, reduce(lambda s, m: s.replace(*m), MENDS.items(), text_of(o)))
    shutil.move(made, out)
    (out/'.nojekyll').touch()                     # GitHub Pages leaves out folders with an underscore without it
    if network and runtime: paint(network, runtime, out/'paint')
    return app._warncount

# Links

class Page(HTMLParser):
    "What a page links to, what it loads, and its anchors"
    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.ids = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        o = dict(attrs)
        self.ids |= {o[k] for k in ('id', 'name') if o.get(k)}
        if tag == 'a' and o.get('href'): self.links.append(o['href'])
        rel = o.get('rel', '') if tag == 'link' else ''
        if re.search(r'stylesheet|icon|preload', rel): self.loads.append(o['href'])
        if tag in ('img', 'script', 'iframe', 'source') and o.get('src'): self.loads.append(o['src'])

def broken_links(folder):
    "Every link of the built pages that leads nowhere, and everything that they load from elsewhere"
    pages = {o: Page(text_of(o)) for o in sorted(Path(folder).rglob('*.html'))}
    for path, page in pages.items():
        for kind, link in [*(('link', o) for o in page.links), *(('loads', o) for o in page.loads)]:
            fault = _fault(kind, urlsplit(link), path, pages)
            if fault: yield f'{path.relative_to(folder).as_posix()}: {link} {fault}'

def _fault(kind, url, path, pages):
    if url.scheme == 'data' or url.scheme in ('http', 'https', 'mailto') and kind == 'link': return None
    if url.scheme or url.netloc: return 'is loaded from elsewhere'
    to = (path.parent/unquote(url.path)).resolve() if url.path else path
    if to.is_dir(): to = to/'index.html'
    if not to.exists(): return 'is not there'
    anchored = url.fragment and kind == 'link' and to in pages
    return 'has no such anchor' if anchored and unquote(url.fragment) not in pages[to].ids else None

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', type=Path, default=ROOT/'_docs', help='folder to write; what is in it is replaced')
    p.add_argument('--network', help="file of save_spade for the page to paint on; else the package's own")
    p.add_argument('--runtime', help='folder of onnxruntime-web (`npm pack onnxruntime-web`, unpacked)')
    p.add_argument('--check', action='store_true', help='build nothing, check the links of what is there')
    o = p.parse_args()
    own = next(iter(sorted((ROOT/'spade_fastai').rglob('*.safetensors'))), None)
    out, warned = o.out.resolve(), 0
    if not o.check: warned = build(out, ROOT/'_proc', o.network or own, o.runtime)
    faults = list(broken_links(out))
    print(*faults, f'{len(list(out.rglob("*.html")))} pages, {len(faults)} broken links, {warned} warnings', sep='\n')
    sys.exit(bool(faults or warned))

if __name__ == '__main__': main()
