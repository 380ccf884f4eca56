"The page of spade-paint in a real browser, and its server against nonsense and crowds"
import asyncio, os, random, shutil, subprocess, sys, threading, urllib.error, urllib.request
from functools import partial
from importlib.resources import files
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from spade_fastai.apps.paint import PaintSession, Painted
from spade_fastai.commands.paint import packed, unpacked
from spade_fastai.data.readers import MaskReader
from spade_fastai.nets.critic import MultiscaleDiscriminator
from spade_fastai.nets.generator import SPADEGenerator
from spade_fastai.nets.norms import SPADE
from spade_fastai.nets.starts import MapFieldStart
from spade_fastai.saving import load_spade, save_spade
from spade_fastai.train.step import GAN

CODES = ['grass', 'water', 'wood', 'road']
FLAGS = '''--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync'''.split()
BROWSERS = 'chromium', 'chromium-browser', 'google-chrome'

def missing(what):
    "A browser that is not there is a failure where CI=true, else a skip"
    (pytest.fail if os.environ.get('CI') == 'true' else pytest.skip)(f'{what}, for the tests of the page')

@pytest.fixture(scope='module')
def model(tmp_path_factory):
    "A tiny network with large random weights, in which water is blue"
    torch.manual_seed(1)
    gen = SPADEGenerator(4, nf=8, mults=(2, 2, 1), ups=(1, 1), norm=partial(SPADE, hidden=8),
                         start=partial(MapFieldStart, nz=4))
    for p in gen.parameters(): torch.nn.init.normal_(p, 0, .07)
    for _ in range(20): gen.train()(torch.randint(0, 4, (4, 32, 32)))                 # its norms settle
    gan = GAN(gen.eval(), MultiscaleDiscriminator(3 + 4, nf=4, n_layers=2))
    return save_spade(gan, tmp_path_factory.mktemp('paint')/'toy.safetensors', MaskReader(CODES))

@pytest.fixture(scope='module')
def server(model):
    "Address of a running spade-paint, and its process"
    code = 'from spade_fastai.commands.paint import main; main()'
    p = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code, str(model), '--quiet', '--side', '512'],
                         stdout=subprocess.PIPE, text=True)
    line = p.stdout.readline()
    assert line.startswith('Paint at http://127.0.0.1:'), line
    yield line.split()[2], p
    p.terminate()
    p.wait(20)

# The server, without a browser

def talk(url, do, **kw):
    "`do(ws)` with an open socket, in a loop of its own"
    from websockets.asyncio.client import connect
    async def go():
        kw.update(max_size=None, max_queue=None)
        async with connect(url.replace('http', 'ws') + 'ws', **kw) as ws: return await do(ws)
    return asyncio.run(go())

async def answers(ws, *messages, until=lambda head: head['is'] in ('error', 'picture') and not head.get('left')):
    "Send messages; the heads and bytes of what comes until `until`"
    got = []
    for m in messages: await ws.send(m)
    while not got or not until(got[-1][0]): got.append(unpacked(await asyncio.wait_for(ws.recv(), 60)))
    return got

class DrawnTo:
    "True from the piece on that leaves nothing to draw, once one of stroke `n` has come: the newest is drawn first"
    def __init__(self, n): self.n, self.seen = n, False
    def __call__(self, head):
        if head['is'] != 'picture': return False
        self.seen |= head['n'] == self.n
        return self.seen and not head['left']

def memory(p): return int(Path(f'/proc/{p.pid}/statm').read_text().split()[1])*4096

def test_a_stroke_over_the_wire_is_the_stroke_of_a_session(server, model):
    ids = np.random.default_rng(0).integers(0, 4, (64, 64), dtype=np.uint8)
    s = PaintSession(Painted(load_spade(model)))
    s.do(dict(do='open', w=64, h=64), ids.tobytes())
    s.piece()
    got = talk(server[0], lambda ws: answers(ws, packed(dict(do='open', w=64, h=64), ids.tobytes())))
    assert [o['is'] for o, _ in got] == ['model', 'picture'] and got[0][0]['codes'] == CODES
    assert np.abs(np.frombuffer(got[1][1], np.uint8).astype(int) - s.picture.ravel()).max() <= 1

def nonsense(rng):
    "A message that nobody could mean"
    junk = lambda n: bytes(rng.getrandbits(8) for _ in range(n))
    odd = lambda: rng.choice([None, -1, 1e99, 'x', [], {}, True, 2**70, [0]*4, [1, 2, 3, 10**9], '\0', float('nan')])
    head = {rng.choice(['do', 'w', 'h', 'seed', 'box', 'n', 'mix', 'is']): odd() for _ in range(rng.randrange(5))}
    what = rng.choice(['hello', 'land', 'open', 'patch', 'seed', 'renew', 'style', '__class__', 'do'])
    if rng.random() < .6: head['do'] = what
    good = packed(head, junk(rng.randrange(40)))
    cut = good[:rng.randrange(1, len(good))]
    return rng.choice([junk(rng.randrange(60)), good, cut, b'', '{"do": "open"}', '['*3000])

def test_a_thousand_malformed_messages(server):
    url, p = server
    rng, ids = random.Random(0), bytes(64*64)
    async def annoy(ws):
        await answers(ws, packed(dict(do='open', w=64, h=64), ids))
        for i in range(500): await ws.send(nonsense(rng))
        last = packed(dict(do='open', w=64, h=64), ids), packed(dict(do='patch', n=7, box=[0, 0, 1, 1]), b'\2')
        mine = await answers(ws, *last, until=DrawnTo(7))
        return [o['text'] for o, _ in mine if o['is'] == 'error']
    first, before = talk(url, annoy), memory(p)
    second = talk(url, annoy)
    assert len(first) + len(second) > 600 and not [o for o in first + second if 'Traceback' in o or '/' in o]
    assert memory(p) < before + 30e6, 'memory grows'

@pytest.mark.parametrize('patch_first', [True, False])
def test_the_newest_stroke_is_drawn_first_and_the_rest_follows(model, patch_first):
    "Whether the patch comes before or after the map is drawn, the wait of these tests ends"
    s, heads, done = PaintSession(Painted(load_spade(model))), [], DrawnTo(7)
    s.do(dict(do='open', w=128, h=128), bytes(128*128))
    if not patch_first: heads.append(s.piece()[0])
    s.do(dict(do='patch', n=7, box=[0, 0, 1, 1]), b'\2')
    heads += [head for head, _ in iter(s.piece, None)]
    assert [o['n'] for o in heads] == ([7, 1] if patch_first else [1, 7]) and not heads[-1]['left']
    assert [done(o) for o in heads] == [False]*(len(heads) - 1) + [True]

def test_a_message_that_is_too_large_ends_only_its_own_line(server):
    from websockets.exceptions import ConnectionClosed
    async def huge(ws):
        await ws.send(bytes(2_000_000))
        while True: await ws.recv()
    with pytest.raises(ConnectionClosed): talk(server[0], huge)
    assert urllib.request.urlopen(server[0]).status == 200

def test_strangers_do_not_come_in(server):
    from websockets.exceptions import ConnectionClosed
    async def listen(ws): return await ws.recv()
    with pytest.raises(ConnectionClosed, match='4003'): talk(server[0], listen, origin='http://evil.example')
    ask = urllib.request.Request(server[0], headers={'Host': 'evil.example'})
    with pytest.raises(urllib.error.HTTPError, match='403'): urllib.request.urlopen(ask)

def test_twenty_painters_at_once(server):
    from websockets.asyncio.client import connect
    async def one(i):
        async with connect(server[0].replace('http', 'ws') + 'ws', max_size=None) as ws:
            await answers(ws, packed(dict(do='open', w=64, h=64), bytes([i % 4])*64*64))
            for n in range(1, 6):
                stroke = packed(dict(do='patch', n=n, box=[0, 8*n, 8, 8]), bytes([(i + n) % 4])*64)
                got = await answers(ws, stroke, until=DrawnTo(n))
            return [o['is'] for o, _ in got]
    async def all_of_them(): return await asyncio.gather(*map(one, range(20)))
    assert all(o[-1] == 'picture' and 'error' not in o for o in asyncio.run(all_of_them()))

# The page

@pytest.fixture(scope='module')
def browser():
    try: from playwright.sync_api import sync_playwright
    except ImportError: missing('needs playwright: pip install "spade-fastai[dev]"')
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found: missing(f'needs a browser: install one of {", ".join(BROWSERS)}')
    with sync_playwright() as pw:
        b = pw.chromium.launch(executable_path=found, args=FLAGS)
        yield b
        b.close()

@pytest.fixture
def page(browser, server):
    "The page with a map of 256², drawn"
    page = browser.new_page(viewport=dict(width=1280, height=800))
    page.faults = []
    page.on('pageerror', lambda e: page.faults.append(str(e)))
    page.on('console', lambda m: m.type == 'error' and page.faults.append(m.text))
    page.goto(server[0])
    page.wait_for_selector('#paint[data-drawn]')
    yield page
    assert not page.faults
    page.close()

def pixels(page, pane='Picture'):
    "[H,W,3] of a pane"
    js = '''p => { const c = document.querySelector(`[data-pane="${p}"] canvas`)
        return [c.width, c.height, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]] }'''
    w, h, data = page.evaluate(js, pane)
    return np.array(data, np.uint8).reshape(h, w, 4)[..., :3]

def same(a, b): return np.abs(a.astype(int) - b).max() <= 1      # where a number lay in the middle of two

def wait(page, act):
    "Do something, and wait until it is drawn"
    n = page.evaluate('+document.querySelector("#paint").dataset.drawn')
    act()
    page.wait_for_function(f'+document.querySelector("#paint").dataset.drawn > {n}')

def drag(page, *points, pane='Mask'):
    "Press at the first of the (x, y) pixels of the map, move over the others, release"
    box = page.locator(f'[data-pane="{pane}"] canvas').bounding_box()
    at = [(box['x'] + (x + .5)*box['width']/256, box['y'] + (y + .5)*box['height']/256) for x, y in points]
    page.mouse.move(*at[0])
    page.mouse.down()
    for o in at[1:]: page.mouse.move(*o, steps=4)
    page.mouse.up()

def saved(page, name):
    with page.expect_download() as d: page.get_by_role('button', name=name).click()
    return Path(d.value.path())

def test_paint_a_lake(page):
    page.keyboard.press('1')
    wait(page, page.get_by_role('button', name='Blank').click)
    before, mask = pixels(page), pixels(page, 'Mask')
    page.locator('[data-class="1"]').click()
    wait(page, lambda: drag(page, (100, 100), (130, 120)))
    after, painted = pixels(page), (pixels(page, 'Mask') != mask).any(-1)
    blue = MaskReader(CODES).palette.colors[1]
    assert painted.sum() > 200 and (pixels(page, 'Mask')[painted] == blue).all()
    rows, cols = np.argwhere((np.abs(before.astype(int) - after) > 1).any(-1)).T
    halo = SPADEGenerator(4, nf=8, mults=(2, 2, 1), ups=(1, 1)).halo
    assert rows.min() >= 92 - halo and rows.max() <= 128 + halo and cols.min() >= 92 - halo and cols.max() <= 138 + halo
    assert (before != after).any(-1)[painted].mean() > .2
    wait(page, lambda: page.keyboard.press('Control+z'))
    assert same(pixels(page), before) and (pixels(page, 'Mask') == mask).all()
    wait(page, lambda: page.keyboard.press('Control+y'))
    assert same(pixels(page), after)

def test_every_tool_changes_the_ids_that_it_should(page, tmp_path):
    ids = np.zeros((256, 256), np.uint8)
    ids[:, 128:], ids[200:, 200:] = 2, 0
    Image.fromarray(ids).save(tmp_path/'mask.png')
    with page.expect_file_chooser() as f: page.get_by_role('button', name='Open mask').click()
    wait(page, lambda: f.value.set_files(tmp_path/'mask.png'))
    load = lambda: np.array(Image.open(saved(page, 'Save mask')))
    assert (load() == ids).all()
    page.keyboard.press('4')
    page.keyboard.press('f'), wait(page, lambda: drag(page, (10, 10)))
    assert (load() == np.where(np.arange(256) < 128, 3, ids)).all()
    page.keyboard.press('r'), page.keyboard.press('1'), wait(page, lambda: drag(page, (10, 10)))
    assert (load() == ids).all()
    page.keyboard.press('i'), drag(page, (150, 10))
    assert page.evaluate('document.querySelector("[data-class] :checked").value') == '2'
    page.keyboard.press('l'), page.locator('.bar input[type=range]').fill('1')
    wait(page, lambda: drag(page, (20, 20), (60, 50), (40, 20)))
    line = np.argwhere(load() != ids)
    assert [line[:, 0].tolist(), line[:, 1].tolist()] == [[20]*21, [*range(20, 41)]]

def test_save_and_load_ids_equal(page, tmp_path):
    file = saved(page, 'Save mask')
    img = Image.open(file)
    assert img.mode == 'P' and img.info['Classes'] == ', '.join(CODES)
    ids = np.array(img)
    for name, kw in (('one bit', dict(bits=1)), ('grey', {}), ('colours', {})):
        some = (ids > 1).astype(np.uint8)
        pic = Image.fromarray(some)
        if name == 'one bit': pic = Image.fromarray(some*255).convert('1')
        if name == 'colours': pic = Image.open(file).convert('RGB')
        pic.save(tmp_path/'x.png')
        with page.expect_file_chooser() as f: page.get_by_role('button', name='Open mask').click()
        wait(page, lambda: f.value.set_files(tmp_path/'x.png'))
        assert (np.array(Image.open(saved(page, 'Save mask'))) == (ids if name == 'colours' else some)).all(), name
    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(tmp_path/'bad.png')
    with page.expect_file_chooser() as f: page.get_by_role('button', name='Open mask').click()
    f.value.set_files(tmp_path/'bad.png')
    page.get_by_text('has id 9; classes are 0 to 3').wait_for()
    picture = Image.open(saved(page, 'Save picture'))
    assert (np.array(picture) == pixels(page)).all() and picture.info['Comment'].startswith('Synthetic')
    assert picture.info['SYNTHETIC'] == 'YES' and picture.info['DIGITALSOURCETYPE'].endswith('/trainedAlgorithmicMedia')

def test_a_geotiff_keeps_its_grid(page, tmp_path):
    rasterio = pytest.importorskip('rasterio', reason='needs rasterio: pip install "spade-fastai[geo]"')
    where = dict(crs='EPSG:32633', transform=rasterio.Affine(2, 0, 500000, 0, -2, 4600000))
    ids = np.arange(64*96, dtype=np.uint8).reshape(64, 96)//96 % 4
    kw = dict(driver='GTiff', height=64, width=96, count=1, dtype='uint8')
    with rasterio.open(tmp_path/'x.tif', 'w', **kw, **where) as f: f.write(ids, 1)
    with page.expect_file_chooser() as f: page.get_by_role('button', name='Open mask').click()
    wait(page, lambda: f.value.set_files(tmp_path/'x.tif'))
    wait(page, lambda: drag(page, (30, 20), (40, 20)))
    with rasterio.open(saved(page, 'Save mask')) as f: got, at = f.read(1), (f.transform, f.crs.to_epsg())
    assert at == (where['transform'], 32633) and got.shape == ids.shape
    assert (got != ids).any() and (got[40:] == ids[40:]).all() and set(got[got != ids]) == {1}
    with rasterio.open(saved(page, 'Save picture')) as f:
        assert (np.moveaxis(f.read(), 0, -1) == pixels(page)).all() and f.crs.to_epsg() == 32633
        assert f.tags()['SYNTHETIC'] == 'YES'
    (tmp_path/'bad.tif').write_bytes(b'II*\0 nonsense')
    with page.expect_file_chooser() as f: page.get_by_role('button', name='Open mask').click()
    f.value.set_files(tmp_path/'bad.tif')
    page.get_by_text('cannot read raster').wait_for()

def test_by_keyboard_alone(page):
    before = pixels(page, 'Mask')
    page.locator('[data-pane="Mask"] canvas').focus()
    page.keyboard.press('3'), page.keyboard.press('Shift+ArrowLeft'), page.keyboard.press('ArrowUp')
    page.get_by_text('at 96, 124').wait_for()
    wait(page, lambda: page.keyboard.press('Space'))
    changed = np.argwhere((pixels(page, 'Mask') != before).any(-1))
    assert not len(changed) or np.abs(changed - [124, 96]).max() <= 8
    page.keyboard.press('Shift+ArrowRight')
    seed = page.locator('input[type=number]')
    wait(page, lambda: page.keyboard.press('d'))
    assert seed.input_value() != '0'

def test_before_beside_after_and_over(page):
    first = pixels(page)
    page.locator('.look select').select_option('before')
    page.keyboard.press('2')
    wait(page, lambda: drag(page, (50, 50), (80, 80), pane='After'))
    assert (pixels(page, 'Before') == first).all() and (pixels(page, 'After') != first).any()
    page.locator('.look select').select_option('over')
    page.locator('.look input[type=range]').first.fill('0')
    assert page.locator('figure').count() == 1

def test_on_a_phone(browser, server):
    page = browser.new_page(viewport=dict(width=390, height=844), has_touch=True)
    page.goto(server[0])
    page.wait_for_selector('#paint[data-drawn]')
    assert page.evaluate('document.documentElement.scrollWidth') <= 390
    wait(page, lambda: (page.get_by_role('radio', name='water').check(force=True), page.locator('canvas').tap()))
    page.close()

def test_nobody_is_shut_out(page):
    "axe-core finds no fault, in each view"
    try: import axe_playwright_python as axe
    except ImportError: missing('needs axe-core: pip install "spade-fastai[dev]"')
    page.add_script_tag(path=files(axe)/'axe.min.js')
    faults = 'axe.run().then(r => r.violations.map(v => [v.id, v.nodes.map(n => n.html.slice(0, 120))]))'
    for view in ('beside', 'over', 'before'):
        page.locator('.look select').select_option(view)
        assert not (found := page.evaluate(faults)), (view, found)
    page.evaluate('{ const o = document.querySelector("button"); o.removeAttribute("title"); o.textContent = "" }')
    assert [o[0] for o in page.evaluate(faults)] == ['button-name']          # it would have found one

def test_without_a_server_and_without_a_connection(browser, model, tmp_path):
    "The static page, by ONNX Runtime Web: SPADE_ORT is the unpacked package onnxruntime-web, which .ci/run fetches"
    if not (runtime := os.environ.get('SPADE_ORT')):
        missing('needs onnxruntime-web: set SPADE_ORT to its folder (npm pack onnxruntime-web)')
    from spade_fastai.apps.page import paint_page
    drawer = load_spade(model, fast=False)
    paint_page(drawer, tmp_path/'page', runtime)
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=tmp_path/'page'))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    context = browser.new_context()
    page = context.new_page()
    page.goto(f'http://127.0.0.1:{server.server_address[1]}/')
    page.wait_for_selector('#paint[data-drawn]', timeout=60000)
    context.set_offline(True), server.shutdown()
    before, mask = pixels(page), pixels(page, 'Mask')
    for key in '12':                           # one of the two is another class than what lies there
        page.keyboard.press(key), wait(page, lambda: drag(page, (100, 100), (130, 120)))
    rows, cols = np.argwhere((pixels(page) != before).any(-1)).T
    halo = drawer.halo
    assert (pixels(page, 'Mask') != mask).any()
    assert rows.min() >= 92 - halo and rows.max() <= 128 + halo and cols.min() >= 92 - halo and cols.max() <= 138 + halo
    context.close()
