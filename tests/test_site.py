"The documentation: pages out of notebooks, links to source, and the checker of links. CI builds the whole"
import json, re, runpy
import pytest
from conftest import ROOT
from house import NBS, modules, notebooks, text_of

site = runpy.run_path(str(ROOT/'tools/site.py'))

def cell(kind, src, **outputs):
    out = [dict(output_type='display_data', data=outputs, metadata={})] if outputs else []
    return dict(cell_type=kind, source=src, metadata={}, **(dict(outputs=out) if kind == 'code' else {}))

def page(*cells): return site['as_page'](dict(cells=[*cells], metadata={}), 'lib/nets/00_norms.ipynb')['cells']

def test_what_only_tests_need_is_left_out():
    cells = page(cell('code', '#| hide\nfrom fastcore.test import *'), cell('code', '#| default_exp nets.norms'),
                 cell('raw', '---'), cell('code', '#| eval: false\npip'), cell('code', '#| echo: false\nx'))
    assert [(o['source'], o['metadata']['tags']) for o in cells] == [('pip', []), ('x', ['remove-input'])]

def test_pictures_have_words():
    def alt(*cells):
        code, = [o for o in page(*cells) if o['cell_type'] == 'code']
        return code['metadata']['mystnb']['image']['alt']
    pic = {'image/png': 'x'}
    assert alt(cell('code', '#| fig-alt: "A lake"\nshow()', **pic)) == 'A lake'
    assert alt(cell('code', 'show()', **pic), cell('markdown', '*Two lakes.* So')) == 'Two lakes.'
    assert alt(cell('markdown', '## Lakes'), cell('code', 'show()', **pic)) == 'Figure of the section Lakes'

def test_links_of_a_page():
    text = ('[a](../nets/03_generator.ipynb) [b](../../../CONTRIBUTING.md) [c](#here) [d](https://x.org) `[e](y.py)` '
            f'[![f]({site["BADGE"]})](https://colab.research.google.com/x.ipynb) [g](../../course/more/family.csv)')
    src = page(cell('markdown', text))[0]['source']
    blob = site['BLOB']
    assert src == ('[a](../nets/03_generator.ipynb) '
        f'[b]({blob}/CONTRIBUTING.md) [c](#here) [d](https://x.org) `[e](y.py)` '
        '[![f](../../images/colab.svg)](https://colab.research.google.com/x.ipynb) '
        f'[g]({blob}/nbs/course/more/family.csv)')

def test_source_links_name_the_line():
    "Of every name of every module, and beside the cell that defines it"
    for name in modules():
        m = site['Module'](ROOT/'spade_fastai'/(name.replace('.', '/') + '.py'))
        lines = text_of(ROOT/m.path).splitlines()
        stands = {o: ' '.join(lines[n - 1:n + 3]) for o, n in m.lines.items() if o != '__all__'}
        gone = [o for o, near in stands.items() if not re.search(rf'\b{o}\b', near)]
        assert not gone, f'{name}: {gone}'
    line, code = page(cell('code', '#| default_exp nets.norms'), cell('code', '#| export\nclass SPADE: pass'))
    assert code['source'] == 'class SPADE: pass' and 'id="SPADE"' in line['source']
    n = int(re.search(r'spade_fastai/nets/norms\.py#L(\d+)"', line['source'])[1])
    assert text_of(ROOT/'spade_fastai/nets/norms.py').splitlines()[n - 1].startswith('class SPADE(')

@pytest.fixture(scope='module')
def pages(tmp_path_factory): return site['gather'](tmp_path_factory.mktemp('site')/'pages')

def test_every_notebook_is_in_the_sidebar(pages):
    texts = [(o, o.read_text(encoding='utf-8')) for o in pages.rglob('*.md')]
    index = json.loads((pages/'index.ipynb').read_text(encoding='utf-8'))['cells'][-1]['source']
    found = set()
    for path, text in [*texts, (pages/'index.md', index)]:
        for block in re.findall(r'```{toctree}\n(.*?)```', text, flags=re.S):
            entries = [o.rpartition('<')[2].rstrip('>') for o in block.splitlines() if o and o[0] != ':']
            found |= {(path.parent/f'{o}.ipynb').relative_to(pages).as_posix() for o in entries}
    here = {o.relative_to(NBS).as_posix() for o in notebooks()} - {'index.ipynb'}
    assert here <= found, f'{sorted(here - found)}: a new folder needs a row in ROOMS of tools/site.py'
    course = [o for o in re.findall(r'<(course/\d\w+)>', index)]
    assert course == sorted(course) and len(course) >= 9

def test_every_name_has_a_line(pages):
    text = (pages/'names.md').read_text(encoding='utf-8')
    assert not [o for o in ('spade_learner', 'SPADE', 'generate', 'make_landcover') if f'#{o}">' not in text]

# Links

GOOD = '''<h1 id="top">x</h1><a href="#top">1</a><a href="sub/b.html#part">2</a><a href="https://x.org">3</a>
<img src="p.png">'''

def built(folder, text):
    (folder/'sub').mkdir()
    (folder/'p.png').touch()
    (folder/'sub/b.html').write_text('<p id="part"><a href="../a.html">up</a><a href="..">index</a>')
    (folder/'index.html').write_text('')
    (folder/'a.html').write_text(text)
    return [*site['broken_links'](folder)]

def test_good_links(tmp_path): assert built(tmp_path, GOOD) == []

@pytest.mark.parametrize('bad,said', [
    ('<a href="gone.html">', 'is not there'), ('<img src="q.png">', 'is not there'),
    ('<a href="sub/b.html#top">', 'has no such anchor'), ('<a href="#gone">', 'has no such anchor'),
    ('<script src="https://cdn.org/x.js">', 'is loaded from elsewhere'),
    ('<link rel="stylesheet" href="//cdn.org/x.css">', 'is loaded from elsewhere')])
def test_bad_links(bad, said, tmp_path):
    fault, = built(tmp_path, GOOD + bad)
    assert fault.startswith('a.html: ') and fault.endswith(said)
