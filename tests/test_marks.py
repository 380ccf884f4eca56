"What is synthetic says so in its file; what is only partly drawn says that; official weights come with their licence"
import io
from functools import partial
import numpy as np, pytest
from PIL import Image
from spade_fastai.apps.marks import read_mark, save_marked
from spade_fastai.drawing import generate
from spade_fastai.nets.generator import SPADEGenerator
from spade_fastai.nets.norms import SPADE
from spade_fastai.nets.starts import MapNoiseStart
from spade_fastai.synthetic import COMPOSITE, SOURCE_TYPE, unmarked
from spade_fastai import official

def network(): return SPADEGenerator(3, 8, (2, 2), (1,), partial(SPADE, hidden=8), start=partial(MapNoiseStart, nz=4))

@pytest.mark.parametrize('ending', ['png', 'jpg', 'webp', 'tif'])
def test_a_drawn_picture_is_marked_when_it_is_saved(tmp_path, ending):
    pic = generate(network(), np.zeros((8, 8), np.uint8), seed=3)
    pic.save(tmp_path/f'a.{ending}')
    mark = read_mark(tmp_path/f'a.{ending}')
    assert (mark['SYNTHETIC'], mark['SEED'], mark['DIGITALSOURCETYPE']) == ('YES', '3', SOURCE_TYPE)
    with open(tmp_path/f'b.{ending}', 'wb') as f: pic.save(f)
    assert read_mark(tmp_path/f'b.{ending}') == mark
    with pytest.warns(UserWarning, match='WITHOUT'), unmarked(): pic.save(tmp_path/f'c.{ending}')
    assert read_mark(tmp_path/f'c.{ending}') == {}

def test_a_format_without_a_place_for_a_mark_is_saved_as_ever():
    generate(network(), np.zeros((8, 8), np.uint8), seed=3).save(buf := io.BytesIO(), 'BMP')
    assert Image.open(buf).size == (8, 8)

def test_a_jpeg_says_it_in_the_words_of_iptc(tmp_path):
    text = save_marked(Image.new('RGB', (8, 8)), tmp_path/'a.jpg', COMPOSITE).read_bytes()
    assert f'Iptc4xmpExt:DigitalSourceType="{COMPOSITE}"'.encode() in text and b'http://ns.adobe.com/xap/1.0/' in text

def test_terms_are_printed_once_for_each_code(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(official, '_told', set())
    norm = partial(SPADE, hidden=128)
    gen = SPADEGenerator(3, 1, (16, 16, 16, 16, 8, 4, 2, 1), (1, 0, 1, 1, 1, 1, 0), norm).eval()
    file = official.save_official(gen, tmp_path/'latest_net_G.pth')
    for _ in range(2): official.load_official(file, upsampling='normal')
    said = capsys.readouterr().out
    assert said.count('CC BY-NC-SA 4.0') == 1 and str(file) in said and 'to check' in said
    official.tell_terms('x.pth', "OASIS' critic")
    assert 'AGPL-3.0' in capsys.readouterr().out
