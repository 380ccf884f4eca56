"The chapters of the course: what each must have, and the student's classes, which must not drift apart"
import ast, re
import pytest
from house import NBS, code_cells, prose

COURSE = NBS/'course'
TAUGHT = sorted(o for o in COURSE.glob('0[1-6]_*.ipynb'))      # the chapters in which the student builds her own
REPO = 'https://colab.research.google.com/github/spade-fastai/spade_fastai/blob/main/nbs/course/'

@pytest.mark.parametrize('nb', TAUGHT, ids=lambda o: o.stem)
def test_a_chapter_has_its_parts(nb):
    text = prose(nb)
    assert f']({REPO}{nb.name})' in text, 'a badge with an absolute link to this very chapter'
    parts = '**Aims.**', '**Time**', '**Needs**', 'redict before you run', '## Mine equals the library', '## Next'
    assert not [o for o in parts if o not in text]
    summary = re.search(r'^## Summary\n(.*?)^## ', text, flags=re.M | re.S)[1]
    assert len(re.findall(r'^- ', summary, flags=re.M)) == 5, 'a summary of five lines'
    exercises = re.search(r'^## Exercises\n(.*?)^## ', text, flags=re.M | re.S)[1]
    assert re.findall(r'^(\d)\. ', exercises, flags=re.M) == ['1', '2', '3'], 'three exercises'
    assert f'](solutions/{nb.name})' in exercises and (COURSE/'solutions'/nb.name).exists(), 'with solutions'

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
