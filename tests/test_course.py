"The chapters of the course: what each must have, and the student's classes, which must not drift apart"
import ast, re
import pytest
import rules
from conftest import ROOT
from house import NBS, code_cells, none, notebooks, prose

COURSE = NBS/'course'
MORE = COURSE/'more'
TAUGHT = sorted(o for o in COURSE.glob('0[1-6]_*.ipynb'))      # the chapters in which the student builds her own
CHAPTERS = [*TAUGHT, *sorted(COURSE.glob('0[07-9]_*.ipynb'))]    # and those in which she looks at what came out
REPO = 'https://colab.research.google.com/github/spade-fastai/spade_fastai/blob/main/nbs/course/'

@pytest.mark.parametrize('nb', CHAPTERS, ids=lambda o: o.stem)
def test_a_chapter_has_its_parts(nb):
    text = prose(nb)
    assert f']({REPO}{nb.name})' in text, 'a badge with an absolute link to this very chapter'
    parts = ['**Aims.**', '**Time**', '**Needs**', 'redict before you run', '## Next']
    assert not [o for o in [*parts, *['## Mine equals the library']*(nb in TAUGHT)] if o not in text]
    summary = re.search(r'^## Summary\n(.*?)^## ', text, flags=re.M | re.S)[1]
    assert len(re.findall(r'^- ', summary, flags=re.M)) == 5, 'a summary of five lines'
    exercises = re.search(r'^## Exercises\n(.*?)^## ', text, flags=re.M | re.S)[1]
    assert re.findall(r'^(\d)\. ', exercises, flags=re.M) == ['1', '2', '3'], 'three exercises'
    assert f'](solutions/{nb.name})' in exercises and (COURSE/'solutions'/nb.name).exists(), 'with solutions'

PAGES = 'fast_spade', 'licences', 'unpaired_and_video'      # pages to read: they have no exercises to be solved
ELECTIVES = [o for o in sorted(MORE.glob('*.ipynb')) if o.stem not in PAGES]
INSIDE = 'family', 'masks_from_photos'      # their solutions are cells of their own, behind the exercises

@pytest.mark.parametrize('nb', ELECTIVES, ids=lambda o: o.stem)
def test_an_elective_that_teaches_has_its_parts(nb):
    text = prose(nb)
    assert f']({REPO}more/{nb.name})' in text, 'a badge with an absolute link to this very chapter'
    heads = r'\*\*Aims\.\*\*', r'\*\*Time\.?\*\*', r'\*\*Needs\.?\*\*'
    parts = *heads, 'redict before you (run|look)', r'^(## |\*\*)Next'
    assert not [o for o in parts if not re.search(o, text, flags=re.M)]
    summary = re.search(r'^## Summary\n(.*?)^## ', text, flags=re.M | re.S)[1]
    assert len(re.findall(r'^- ', summary, flags=re.M)) == 5, 'a summary of five lines'
    exercises = re.search(r'^## Exercises\n(.*?)(^## |\Z)', text, flags=re.M | re.S)[1]
    assert re.findall(r'^(\d)\. ', exercises, flags=re.M) == ['1', '2', '3'], 'three exercises'
    solutions = COURSE/'solutions/more'/nb.name
    if nb.stem in INSIDE: assert 'olution' in exercises and not solutions.exists()
    else: assert f'](../solutions/more/{nb.name})' in exercises and solutions.exists(), 'with solutions'

def test_every_elective_is_at_the_door():
    lost = [o.name for o in ELECTIVES if f'course/more/{o.name})' not in prose(NBS/'index.ipynb')]
    assert not lost, f'the first page does not name {lost}'

def test_what_an_elective_needs_is_linked():
    for nb in ELECTIVES:
        needs = re.search(r'^\*\*Needs\.?\*\*.*$', prose(nb), flags=re.M)[0]
        assert re.search(r'\]\(\.\./\.\./lib/[^)]+\)', needs), f'{nb.name}: no reference chapter'

def student_classes(nb):
    "Source by name of the classes `My…` of a notebook"
    cells = [re.sub(r'^\s*[%!].*', '', o, flags=re.M) for o in code_cells(nb)]
    return {o.name: ast.unparse(o) for c in cells for o in ast.parse(c).body
            if isinstance(o, ast.ClassDef) and o.name.startswith('My')}

def test_the_last_chapter_has_the_classes_of_those_before():
    *before, last = [o for o in TAUGHT if o.stem[:2] in ('04', '05', '06')]
    final = student_classes(last)
    assert {'MySPADE', 'MyBlock', 'MyGenerator', 'MyPatchCritic', 'MyCritic', 'MyGAN'} <= set(final)
    for nb in before:
        other = [k for k, v in student_classes(nb).items() if k in final and v != final[k]]
        assert not other, f'{other} of {last.name} are not those of {nb.name}'

def test_reference_chapters_name_the_chapter_that_teaches_them():
    "Each that a course chapter needs, in its first lines, with a badge; and what is named is there"
    for nb in sorted(COURSE.glob('0[1-9]_*.ipynb')):
        needs = re.search(r'^\*\*Needs\*\*.*$', prose(nb), flags=re.M)[0]
        faults = rules.unlinked(needs, rules.cells_of, nb)
        assert not faults, f'"Course chapter N, [title](link), teaches this; here is all of it." is missing: {faults}'
    told = [o for o in notebooks(NBS/'lib') if 'here is all of it.' in prose(o)]
    assert len(told) >= 16
    for o in told:
        assert rules.taught_by(rules.cells_of(o)[:4]), f'{o.name}: at the top'
        badge = f']({rules.COLAB}{o.relative_to(ROOT).as_posix()})'
        assert badge in prose(o), f'{o.name}: a badge with an absolute link'

def test_headings_that_are_linked_are_there():
    none(notebooks(), lambda o: rules.dead_anchors(prose(o), o.parent), 'no such heading')

def test_every_word_of_the_glossary_stands_where_it_leads():
    lines = re.findall(r'^- \*\*(.+?)\*\*:(.*)$', prose(COURSE/'glossary.ipynb'), flags=re.M)
    assert len(lines) >= 40
    lost = []
    for words, said in lines:
        links = re.findall(r'\]\(([^)#]+)#?([^)]*)\)', said)
        texts = [rules.sections(COURSE/file)[a] + a.replace('-', ' ') for file, a in links]
        lost += [w for w in words.split(', ') if not any(rules.has_word(w, o) for o in texts)]
    assert not lost, f'the sections that the glossary links do not know {lost}'

def test_the_cheat_sheet_is_one_page():
    assert sum(len(o.splitlines()) for o in code_cells(COURSE/'cheatsheet.ipynb') if '| hide' not in o) <= 40
