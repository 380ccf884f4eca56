// Paint a map of class ids and see the picture that a network draws of it. No dependencies. The state is ids, not colours.
//   mount(element, host)   builds the page; host = {send(head, bytes), on(callback(head, bytes))} is who draws
//   socket(url)            a host behind a WebSocket;  export default: a host in a notebook (anywidget)
// To the host:   open {w,h}+ids · land {w,h,seed} · patch {n,box}+ids · seed {seed} · renew {n,box,seed}+0/1 · style {mix}+file
// From the host: model {…} · mask {w,h,grid}+ids · picture {n,box,left}+RGB · file {name}+bytes · error {text}.  A box is [top, left, height, width].

const make = (tag, props = {}, ...kids) => {
  const el = document.createElement(tag)
  for (const [k, v] of Object.entries(props)) k in el && k !== 'list' ? el[k] = v : el.setAttribute(k, v)
  el.append(...kids)
  return el
}
const icons = {
  brush: 'M9 14c-3 0-4 2-4 4 0 1-1 2-2 2 5 1 9-1 9-4M9 14l3 3M9 14 19 3c1-1 3 1 2 2L12 17', line: 'M4 20 20 4',
  bucket: 'M10 3 19 12l-7 7c-1 1-3 1-4 0l-4-4c-1-1-1-3 0-4l7-7M4 13h14M21 15c1 2 1 4 0 4s-1-2 0-4',
  replace: 'M4 9h13l-4-4M20 15H7l4 4', pick: 'M14 6l4 4M12 8l4 4-8 8H4v-4zM15 5c1-2 5 2 4 4l-3 3-4-4z',
  renew: 'M8 8h.1M16 8h.1M8 16h.1M16 16h.1M12 12h.1M5 3h14a2 2 0 0 1 2 2v14a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2V5a2 2 0 0 1 2-2',
  undo: 'M8 5 4 9l4 4M4 9h10a5 5 0 0 1 0 10h-3', redo: 'M16 5l4 4-4 4M20 9H10a5 5 0 0 0 0 10h3', less: 'M5 12h14',
  more: 'M5 12h14M12 5v14', fit: 'M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5', open: 'M3 19V5h6l2 3h9v11zM3 12h17',
  save: 'M12 4v11M7 11l5 5 5-5M4 20h16', photo: 'M3 5h18v14H3zM3 17l5-6 4 4 3-3 6 5M16 9h.1',
  keep: 'M6 3h12v18l-6-5-6 5z', land: 'M3 19 10 7l4 7 2-3 5 8zM17 5h.1', blank: 'M4 4h16v16H4z', style: 'M12 3a9 9 0 1 0 0 18c3 0 1-4 3-5s6 0 6-5-4-8-9-8M8 9h.1M13 7h.1M7 14h.1' }
const icon = name => {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg')
  svg.setAttribute('viewBox', '0 0 24 24'); svg.setAttribute('aria-hidden', 'true')
  svg.innerHTML = `<path d="${icons[name]}"/>`
  return svg
}
const tools = { brush: ['Brush', 'b'], line: ['Line', 'l'], bucket: ['Fill', 'f'], replace: ['Replace', 'r'],
                pick: ['Pick', 'i'], renew: ['New noise', 'n'] }
const views = { beside: 'Mask beside picture', over: 'Mask over picture', before: 'Before beside after' }
const join = (a, b) => !a ? b : !b ? a : [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])]
const dice = () => crypto.getRandomValues(new Uint32Array(1))[0]

// ---- The map ------------------------------------------------------------------------------------------------------
export class Ids {   // boxes in here are [x0, y0, x1, y1], the ends excluded
  constructor(w, h, data = new Uint8Array(w*h)) { Object.assign(this, { w, h, data, done: [], undone: [], box: null }) }
  at(x, y) { return this.data[y*this.w + x] }
  begin() { this.before = this.data.slice(); this.box = null }
  grow(box) { this.box = join(this.box, box); return box }
  back() {           // what this stroke has done so far is taken back; gives its box
    if (this.box) this.put(this.box, this.cut(this.box, this.before))
    return this.box
  }
  cut([x0, y0, x1, y1], data = this.data) {
    const res = new Uint8Array((x1 - x0)*(y1 - y0))
    for (let y = y0; y < y1; y++) res.set(data.subarray(y*this.w + x0, y*this.w + x1), (y - y0)*(x1 - x0))
    return res
  }
  put([x0, y0, x1, y1], part) {
    for (let y = y0; y < y1; y++) this.data.set(part.subarray((y - y0)*(x1 - x0), (y - y0 + 1)*(x1 - x0)), y*this.w + x0)
    return [x0, y0, x1, y1]
  }
  stroke(xa, ya, xb, yb, size, id) {   // discs along a line
    const r = size/2, R = Math.floor(r), n = Math.max(Math.abs(xb - xa), Math.abs(yb - ya), 1)
    for (let i = 0; i <= n; i++) {
      const cx = Math.round(xa + (xb - xa)*i/n), cy = Math.round(ya + (yb - ya)*i/n)
      for (let y = Math.max(cy - R, 0); y <= Math.min(cy + R, this.h - 1); y++) {
        const d = Math.floor(Math.sqrt(r*r - (y - cy)**2))
        const from = Math.max(cx - d, 0), to = Math.min(cx + d, this.w - 1)
        if (from <= to) this.data.fill(id, y*this.w + from, y*this.w + to + 1)
      }
    }
    const ends = (a, b, most) => [Math.max(Math.min(a, b) - R, 0), Math.min(Math.max(a, b) + R + 1, most)]
    const [x0, x1] = ends(xa, xb, this.w), [y0, y1] = ends(ya, yb, this.h)
    return x0 < x1 && y0 < y1 ? this.grow([x0, y0, x1, y1]) : null
  }
  region(x, y) {     // 1 where the class is that of (x, y) and one can walk there; and its box
    const { w, h, data } = this, id = this.at(x, y), in_ = new Uint8Array(w*h), todo = [[x, y]]
    let box = [x, y, x + 1, y + 1]
    while (todo.length) {
      let [a, b] = todo.pop(), row = b*w
      if (in_[row + a]) continue
      while (a > 0 && data[row + a - 1] === id) a--
      for (let up = false, down = false, first = a; a < w && data[row + a] === id; a++) {
        in_[row + a] = 1
        if (a === first) box = join(box, [a, b, a + 1, b + 1])
        const above = b > 0 && data[row - w + a] === id && !in_[row - w + a]
        const below = b < h - 1 && data[row + w + a] === id && !in_[row + w + a]
        if (above && !up) todo.push([a, b - 1])
        if (below && !down) todo.push([a, b + 1])
        up = above; down = below; box[2] = Math.max(box[2], a + 1)
      }
    }
    return { in_, box }
  }
  fill(x, y, id) {
    const { in_, box } = this.region(x, y)
    for (let i = box[1]*this.w; i < box[3]*this.w; i++) if (in_[i]) this.data[i] = id
    return this.grow(box)
  }
  replace(x, y, id) {
    const old = this.at(x, y)
    for (let i = 0; i < this.data.length; i++) if (this.data[i] === old) this.data[i] = id
    return this.grow([0, 0, this.w, this.h])
  }
  end() {            // the stroke is done; one that changed nothing is no step
    const { box, before } = this, was = box && this.cut(box, before), is = box && this.cut(box)
    this.before = this.box = null
    if (!box || is.every((v, i) => v === was[i])) return
    this.done.push({ box, before: was, after: is })
    this.undone = []
    let n = this.done.reduce((sum, o) => sum + o.before.length, 0)
    while (n > 1e8) n -= this.done.shift().before.length
  }
  undo(from = 'done', to = 'undone', what = 'before') {
    const step = this[from].pop()
    if (!step) return null
    this[to].push(step)
    return this.put(step.box, step[what])
  }
  redo() { return this.undo('undone', 'done', 'after') }
}

// ---- Files: PNG with ids as they are, read and written byte by byte, since a browser only gives colours ------------------
const crcs = Uint32Array.from({ length: 256 }, (_, n) => { for (let k = 8; k--;) n = n & 1 ? 0xedb88320 ^ n >>> 1 : n >>> 1; return n })
const crc = bytes => { let c = -1; for (const b of bytes) c = crcs[(c ^ b) & 255] ^ c >>> 8; return ~c >>> 0 }
const through = async (bytes, stream) =>
  new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer())
const latin = s => Uint8Array.from(s, c => c.charCodeAt(0) < 256 ? c.charCodeAt(0) : 63)
const glue = parts => { const res = new Uint8Array(parts.reduce((n, p) => n + p.length, 0)); let i = 0; for (const p of parts) { res.set(p, i); i += p.length } return res }
const word = n => Uint8Array.of(n >>> 24, n >>> 16, n >>> 8, n)
const MAGIC = [137, 80, 78, 71, 13, 10, 26, 10]
const isTIFF = bytes => /^(II[*+]\0|MM\0[*+])/.test(String.fromCharCode(...bytes.subarray(0, 4)))

export async function writePNG(w, h, data, colors = null, text = {}) {   // ids with their colours, or RGB without
  const chunk = (name, body) => { const b = glue([latin(name), body]); return [word(body.length), b, word(crc(b))] }
  const n = colors ? w : 3*w, rows = new Uint8Array(h*(n + 1))
  for (let y = 0; y < h; y++) rows.set(data.subarray(y*n, (y + 1)*n), y*(n + 1) + 1)
  const texts = Object.entries(text).flatMap(([k, v]) => chunk('tEXt', latin(`${k}\0${v}`)))
  return glue([Uint8Array.from(MAGIC), ...chunk('IHDR', glue([word(w), word(h), Uint8Array.of(8, colors ? 3 : 2, 0, 0, 0)])),
    ...(colors ? chunk('PLTE', Uint8Array.from(colors.flat())) : []), ...texts,
    ...chunk('IDAT', await through(rows, new CompressionStream('deflate'))), ...chunk('IEND', new Uint8Array())])
}

export async function readPNG(bytes) {   // {w, h, ids} or, of a colour picture, {w, h, rgb}
  if (MAGIC.some((v, i) => bytes[i] !== v)) throw Error('this is no PNG file; save the mask as PNG')
  const num = i => new DataView(bytes.buffer, bytes.byteOffset).getUint32(i), parts = []
  for (let i = 8; i + 8 <= bytes.length; i += num(i) + 12)
    if (String.fromCharCode(...bytes.subarray(i + 4, i + 8)) === 'IDAT') parts.push(bytes.subarray(i + 8, i + 8 + num(i)))
  const w = num(16), h = num(20), depth = bytes[24], kind = bytes[25], samples = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }[kind]
  if (!samples || depth > 8 || bytes[28]) throw Error('this PNG has 16 bits, or is interlaced; save it with 8 bits')
  if (w*h > 2**26) throw Error(`a mask of ${w}×${h} pixels is too large`)
  const raw = await through(glue(parts), new DecompressionStream('deflate'))
  const bpp = Math.max(samples*depth >> 3, 1), n = Math.ceil(w*samples*depth/8), rows = new Uint8Array(h*n)
  if (raw.length < h*(n + 1)) throw Error('this PNG is cut short; copy it again')
  for (let y = 0; y < h; y++) for (let x = 0, f = raw[y*(n + 1)]; x < n; x++) {
    const a = x < bpp ? 0 : rows[y*n + x - bpp], b = y ? rows[(y - 1)*n + x] : 0, c = y && x >= bpp ? rows[(y - 1)*n + x - bpp] : 0
    const p = a + b - c, [pa, pb, pc] = [a, b, c].map(o => Math.abs(p - o))
    rows[y*n + x] = raw[y*(n + 1) + 1 + x] + [0, a, b, a + b >> 1, pa <= pb && pa <= pc ? a : pb <= pc ? b : c][f]
  }
  if (samples > 2) return { w, h, rgb: Array.from({ length: w*h }, (_, i) => rows[i*samples] << 16 | rows[i*samples + 1] << 8 | rows[i*samples + 2]) }
  const per = 8/depth, mask = 2**depth - 1   // of less than 8 bits, several a byte, the first on the left
  return { w, h, ids: Uint8Array.from({ length: w*h }, (_, i) => {
    const x = i % w, y = i/w | 0
    return depth === 8 ? rows[y*n + x*samples] : rows[y*n + (x/per | 0)] >> 8 - depth*(x % per + 1) & mask }) }
}

// ---- The page -----------------------------------------------------------------------------------------------------
export function mount(root, host) { return new Paint(root, host) }

class Paint {
  constructor(root, host) {
    Object.assign(this, { root, host, id: 0, tool: 'brush', size: 16, zoom: 0, n: 0, asked: 0, todo: null, keys: [0, 0] })
    root.classList.add('spade-paint')
    this.say = make('p', { className: 'say', role: 'status' }, 'Waiting for the network …')
    root.replaceChildren(this.say)
    host.on((head, bytes) => this[`on_${head.is}`]?.(head, bytes))
  }
  tell(text, bad = false) { this.say.textContent = text; this.say.classList.toggle('bad', bad) }
  on_error({ text }) { this.asked = 0; this.tell(text, true) }

  on_model(model) {
    const again = this.model && this.map, { codes, sizes } = model
    this.model = model
    if (again) return this.open(this.map.w, this.map.h, this.map.data, this.grid)    // the host was away: nothing is lost
    this.seed = model.seed
    this.build()
    this.choose(Math.max(codes.findIndex(o => /water|sea|lake|river/i.test(o)), 0))
    this.host.send({ do: 'land', w: sizes[0], h: sizes[0], seed: 1 })
  }
  on_mask({ w, h, grid = null }, bytes) {
    this.begin(w, h, bytes.slice())
    this.grid = grid                 // of a GeoTIFF: what is saved lies there, too
  }
  on_file({ name }, bytes) { this.download(bytes, name, 'image/tiff') }
  on_picture({ n, box: [top, left, h, w], left: rest }, rgb) {
    if (!this.map || top + h > this.map.h || left + w > this.map.w) return
    const img = new ImageData(w, h)
    for (let i = 0, j = 0; j < rgb.length; j += 3, i += 4) {
      img.data[i] = rgb[j]; img.data[i + 1] = rgb[j + 1]; img.data[i + 2] = rgb[j + 2]; img.data[i + 3] = 255
    }
    this.picture.putImageData(img, left, top)
    if (!rest && !this.kept) this.keep()
    this.show([left, top, left + w, top + h])
    if (n >= this.asked) this.asked = 0
    this.push()
    if (rest) return this.tell(`Drawing … ${Math.ceil(100*rest/this.map.data.length)} % to go`)
    if (!this.asked && !this.todo && !this.down) this.drawn()
  }
  drawn() {
    const ms = this.since && Math.round(performance.now() - this.since)
    this.since = 0
    this.tell(ms ? `Drawn in ${ms} ms` : 'Drawn')
    this.root.dataset.ms = ms
    this.root.dataset.drawn = +(this.root.dataset.drawn || 0) + 1
  }

  // -- what is on it
  build() {
    const { model, root } = this, button = (name, label, act, key) =>
      make('button', { type: 'button', title: label + (key ? ` (${key})` : ''), 'data-do': name, onclick: act }, icon(name), make('span', {}, label))
    const group = (label, ...kids) => make('div', { className: 'group', role: 'group', 'aria-label': label }, ...kids)
    const range = (name, label, props, act) => make('label', { className: 'range' }, make('span', {}, label),
      this[name] = make('input', { type: 'range', ...props, oninput: e => act(+e.target.value) }))
    const choice = (label, options, act) => make('label', { className: 'choice' }, make('span', {}, label), make('select', { onchange: e => act(e.target.value) },
      ...Object.entries(options).map(([value, text]) => make('option', { value }, text))))
    const radio = (name, value, label, act, ...kids) => make('label', { title: label, [`data-${name}`]: value },
      make('input', { type: 'radio', name: `${name}-${this.uid ??= dice()}`, value, onchange: act }), ...kids)
    const file = (accept, act) => { const o = make('input', { type: 'file', accept, onchange: () => act(o.files[0]) }); return () => { o.value = ''; o.click() } }
    const some = Object.entries(tools).filter(([k]) => k !== 'renew' || model.field)
    const head = make('header', {}, make(root.closest('.spade-page') ? 'h1' : 'strong', { className: 'name' }, model.name || 'Paint'), group('Files',
      button('land', 'New land', () => this.host.send({ do: 'land', w: this.map.w, h: this.map.h, seed: dice() })),
      button('blank', 'Blank', () => this.open(this.map.w, this.map.h, new Uint8Array(this.map.w*this.map.h).fill(this.id))),
      choice('Size', Object.fromEntries(model.sizes.map(o => [o, `${o} px`])), o => this.host.send({ do: 'land', w: +o, h: +o, seed: dice() })),
      button('open', 'Open mask', file('.png,image/png' + (model.tiff ? ',.tif,.tiff,image/tiff' : ''), f => this.load(f))), button('save', 'Save mask', () => this.save()),
      button('photo', 'Save picture', () => this.save(true))))
    const bar = make('div', { className: 'bar' }, make('fieldset', { className: 'tools' }, make('legend', {}, 'Tool'),
        ...some.map(([k, [label, key]]) => radio('tool', k, `${label} (${key})`, () => this.use(k), icon(k), make('span', {}, label)))),
      range('sizer', 'Brush', { min: 1, max: 96, value: this.size }, v => this.resize(v)),
      group('Steps', button('undo', 'Undo', () => this.step('undo'), 'Ctrl Z'), button('redo', 'Redo', () => this.step('redo'), 'Ctrl Y')))
    const classes = make('fieldset', { className: 'classes' }, make('legend', {}, 'Class'), ...model.codes.map((code, i) => {
      const key = i < 10 ? `${(i + 1) % 10}` : i < 20 ? `⇧${(i + 1) % 10}` : ''
      return radio('class', i, code, () => this.choose(i), make('i', { style: `background:rgb(${model.colors[i]})` }),
        make('span', {}, code), key ? make('kbd', { 'aria-hidden': 'true' }, key) : '') }))
    const look = make('div', { className: 'look' }, choice('View', views, v => this.view(v)),
      range('veil', 'Mask over picture', { min: 0, max: 100, value: 35 }, () => this.show()),
      button('keep', 'Keep as before', () => { this.keep(); this.show(); this.tell('This picture is “before” now') }),
      group('Zoom', button('less', 'Smaller', () => this.enlarge(1/1.5), '−'), button('fit', 'Fit', () => this.enlarge(0), '0'), button('more', 'Larger', () => this.enlarge(1.5), '+')),
      ...(model.noise ? [group('Noise', button('renew', 'Roll the dice', () => this.roll(dice()), 'd'),
        make('label', { className: 'choice' }, make('span', {}, 'Seed'), this.seeder = make('input', { type: 'number', min: 0, max: 2**32 - 1, value: this.seed, onchange: e => this.roll(+e.target.value) })))] : []),
      ...(model.style ? [group('Style', button('style', 'Style picture', file('image/*', async f => f && this.restyle({}, new Uint8Array(await f.arrayBuffer())))),
        range('mixer', 'Style', { min: 0, max: 100, value: 100 }, v => this.restyle({ mix: v/100 })))] : []))
    this.panes = make('div', { className: 'panes' })
    root.replaceChildren(head, bar, classes, make('div', { className: 'stage' }, this.panes), look, this.say)
    const ears = root.closest('.spade-page') ? document : root   // in a notebook, other cells have keys, too
    ears.onkeydown = e => this.key(e)
    new ResizeObserver(() => this.fit()).observe(this.panes.parentElement)
    this.view(root.clientWidth > 720 ? 'beside' : 'over'); this.use('brush'); this.resize(this.size)
  }
  begin(w, h, data) {   // a new map
    this.map = new Ids(w, h, data)
    const layer = () => new OffscreenCanvas(w, h).getContext('2d', { willReadFrequently: true })
    Object.assign(this, { mask: layer(), picture: layer(), before: layer(), kept: false, todo: null, asked: 0, keys: [w >> 1, h >> 1] })
    const select = this.root.querySelector('header select')
    if (w === h && this.model.sizes.includes(w)) select.value = w
    this.arrange(); this.paint([0, 0, w, h]); this.enlarge(0)
    this.tell('Drawing …')
  }
  keep() { this.before.drawImage(this.picture.canvas, 0, 0); this.kept = true }
  view(kind) {
    this.kind = kind
    this.root.querySelector('.look select').value = kind
    this.veil.parentElement.hidden = kind !== 'over'
    this.root.querySelector('[data-do=keep]').hidden = kind !== 'before'
    if (this.map) { this.arrange(); this.fit(); this.show() }
  }
  arrange() {   // one pane, or two
    const kinds = { beside: ['Mask', 'Picture'], over: ['Mask over picture'], before: ['Before', 'After'] }[this.kind]
    this.panes.replaceChildren(...kinds.map(label => {
      const canvas = make('canvas', { width: this.map.w, height: this.map.h, tabIndex: 0, role: 'application', 'aria-roledescription': 'map',
        'aria-label': `${label}. Arrow keys move, space paints, numbers choose a class.` })
      const ring = make('div', { className: 'ring', hidden: true })
      const on = (name, act) => canvas.addEventListener(name, e => act(e))
      on('pointerdown', e => this.press(e)); on('pointermove', e => this.move(e)); on('pointerup', e => this.lift(e))
      on('pointercancel', e => this.lift(e)); on('pointerleave', () => this.ring()); on('contextmenu', e => e.preventDefault())
      on('wheel', e => { if (e.ctrlKey) { e.preventDefault(); this.enlarge(e.deltaY < 0 ? 1.2 : 1/1.2) } })
      return make('figure', { 'data-pane': label }, make('div', { className: 'sheet' }, canvas, ring), make('figcaption', {}, label)) }))
  }
  paint(box) {   // ids become colours
    const [x0, y0, x1, y1] = box, part = this.map.cut(box), img = new ImageData(x1 - x0, y1 - y0)
    const table = Uint32Array.from({ length: 256 }, (_, i) => { const [r, g, b] = this.model.colors[i] || [128, 128, 128]; return (255 << 24 | b << 16 | g << 8 | r) >>> 0 })
    new Uint32Array(img.data.buffer).set(Uint32Array.from(part, v => table[v]))
    this.mask.putImageData(img, x0, y0)
    this.show(box)
  }
  show([x0, y0, x1, y1] = [0, 0, this.map.w, this.map.h]) {
    for (const pane of this.panes.children) {
      const c = pane.querySelector('canvas').getContext('2d'), label = pane.dataset.pane, w = x1 - x0, h = y1 - y0
      const lay = (from, alpha) => { c.globalAlpha = alpha; c.drawImage(from.canvas, x0, y0, w, h, x0, y0, w, h) }
      if (label === 'Mask') lay(this.mask, 1)
      else if (label === 'Before') lay(this.before, 1)
      else { c.clearRect(x0, y0, w, h); lay(this.picture, 1); if (this.kind === 'over') lay(this.mask, this.veil.value/100) }
    }
  }
  enlarge(by) { this.zoom = by ? Math.min(Math.max((this.zoom || this.scale)*by, .05), 32) : 0; this.fit() }
  fit() {
    if (!this.map) return
    const room = this.panes.parentElement, n = this.panes.children.length, side = room.clientWidth > 640
    const across = (room.clientWidth - 24 - 12*(n - 1))/(side ? n : 1), high = (room.clientHeight - 40)/(side ? 1 : n) - (side ? 0 : 24)
    this.scale = this.zoom || Math.max(Math.min(across/this.map.w, high/this.map.h), 64/this.map.w)
    this.panes.style.setProperty('--w', `${this.map.w*this.scale}px`)
    this.panes.style.setProperty('--ratio', `${this.map.w} / ${this.map.h}`)
    this.panes.classList.toggle('crisp', this.scale >= 2)
  }

  // -- what is done
  choose(i) {
    if (!this.model.codes[i]) return
    this.id = i
    this.root.querySelector(`[data-class="${i}"] input`).checked = true
    this.tell(this.model.codes[i])
  }
  use(tool) {
    if (tool === 'renew' && !this.model.field) return
    this.tool = tool
    this.root.querySelector(`[data-tool=${tool}] input`).checked = true
    this.panes.dataset.tool = tool
  }
  resize(v) { this.size = Math.min(Math.max(v, 1), 96); this.sizer.value = this.size; this.sizer.setAttribute('aria-valuetext', `${this.size} pixels`) }
  where(e) {
    const r = e.currentTarget.getBoundingClientRect()
    return [Math.floor((e.clientX - r.left)/r.width*this.map.w), Math.floor((e.clientY - r.top)/r.height*this.map.h)]
  }
  ring(x = -1, y = -1) {   // the brush, seen in each pane
    for (const o of this.panes.querySelectorAll('.ring')) {
      o.hidden = x < 0
      const d = ['brush', 'line'].includes(this.tool) ? Math.max(this.size*this.scale, 4) : 10
      Object.assign(o.style, { width: `${d}px`, height: `${d}px`, left: `${(x + .5)*this.scale}px`, top: `${(y + .5)*this.scale}px` })
    }
  }
  press(e) {
    if (e.button > 0 || !this.map || this.down) return
    try { e.currentTarget.setPointerCapture(e.pointerId) } catch { /* a pointer that is gone */ }
    this.start(...this.where(e), e.altKey)
  }
  move(e) {
    const [x, y] = this.where(e)
    this.ring(x, y)
    if (this.down) this.drag(x, y)
  }
  lift(e) { if (this.down) { this.drag(...this.where(e)); this.finish() } }
  start(x, y, alt = false) {
    const { map, tool } = this
    if (x < 0 || y < 0 || x >= map.w || y >= map.h) return
    if (tool === 'pick' || alt) return this.choose(map.at(x, y))
    if (tool === 'renew') return this.renew(x, y)
    this.down = this.last = [x, y]
    map.begin()
    this.changed(tool === 'bucket' ? map.fill(x, y, this.id) : tool === 'replace' ? map.replace(x, y, this.id) : map.stroke(x, y, x, y, this.size, this.id))
  }
  drag(x, y) {
    const { map, tool, down, last } = this
    if (x === last[0] && y === last[1]) return
    if (tool === 'brush') this.changed(map.stroke(...last, x, y, this.size, this.id))
    if (tool === 'line') { const old = map.back(); map.box = null; this.changed(join(old, map.stroke(...down, x, y, this.size, this.id))); map.grow(old || map.box) }
    this.last = [x, y]
  }
  finish() {
    this.down = null; this.since = performance.now(); this.map.end(); this.push()
    if (!this.asked) this.drawn()      // all of it was answered while the brush moved
  }
  changed(box) { if (box) { this.paint(box); this.todo = join(this.todo, box); this.push() } }
  push() {   // one patch is on its way at a time; what comes meanwhile goes together
    if (this.asked || !this.todo) return
    const [x0, y0, x1, y1] = this.todo
    this.asked = ++this.n
    this.host.send({ do: 'patch', n: this.n, box: [y0, x0, y1 - y0, x1 - x0] }, this.map.cut(this.todo))
    this.todo = null
  }
  step(what) { if (this.map && !this.down) { this.since = performance.now(); const box = this.map[what](); box ? this.changed(box) : this.tell(`Nothing to ${what}`) } }
  roll(seed) { this.seed = seed >>> 0; this.seeder.value = this.seed; this.since = performance.now(); this.host.send({ do: 'seed', seed: this.seed }) }
  renew(x, y) {
    const { in_, box: [x0, y0, x1, y1] } = this.map.region(x, y)
    this.since = performance.now()
    this.host.send({ do: 'renew', n: ++this.n, box: [y0, x0, y1 - y0, x1 - x0], seed: dice() }, this.map.cut([x0, y0, x1, y1], in_))
  }
  restyle(head, bytes) { this.since = performance.now(); this.host.send({ do: 'style', ...head }, bytes) }
  open(w, h, data, grid = null) {
    this.host.send({ do: 'open', w, h, seed: this.seed, ...(grid && { grid }) }, data)
    this.grid = grid
    this.begin(w, h, data)
  }
  async load(f) {
    if (!f) return
    try {
      const bytes = new Uint8Array(await f.arrayBuffer())
      if (isTIFF(bytes)) return this.place(f.name, bytes)
      this.open(...this.fitting(await readPNG(bytes)))
      this.tell(`${f.name} is open`)
    }
    catch (e) { this.tell(`${f.name}: ${e.message}`, true) }
  }
  place(name, bytes) {             // the host reads it, and knows where it lies
    if (!this.model.tiff) throw Error('this page cannot read GeoTIFF; spade-paint can, with pip install "spade-fastai[geo]". Or save the mask as PNG')
    this.since = performance.now()
    this.host.send({ do: 'tiff', seed: this.seed }, bytes)
    this.tell(`${name} is read …`)
  }
  fitting({ w, h, ids, rgb }) {   // ids that the network knows, in a size that it draws
    const { colors, codes, scale, sizes, most } = this.model, known = new Map(colors.map(([r, g, b], i) => [r << 16 | g << 8 | b, i]))
    ids ??= Uint8Array.from(rgb, (c, i) => { if (!known.has(c)) throw Error(`pixel ${i % w}, ${i/w | 0} has a colour of no class`); return known.get(c) })
    const odd = ids.findIndex(v => v >= codes.length)
    if (odd >= 0) throw Error(`pixel ${odd % w}, ${odd/w | 0} has id ${ids[odd]}; classes are 0 to ${codes.length - 1}`)
    const W = w - w % scale, H = h - h % scale
    if (!W || !H || W*H > most || this.model.fixed && (W !== sizes[0] || H !== sizes[0])) throw Error(`${w}×${h} pixels is a size that this network does not draw`)
    return [W, H, new Ids(w, h, ids).cut([0, 0, W, H])]
  }
  async save(picture = false) {
    const { w, h, data } = this.map, { codes, colors, name } = this.model
    if (this.grid) return this.host.send({ do: 'save', what: picture ? 'picture' : 'mask' }, picture ? undefined : data)
    const rgb = picture && this.picture.getImageData(0, 0, w, h).data.filter((_, i) => i % 4 < 3)
    const text = { SYNTHETIC: 'YES', DIGITALSOURCETYPE: 'http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia',
      SOFTWARE: `spade_fastai, ${name}`, SEED: this.seed, Software: `spade_fastai, ${name}`, Comment: 'Synthetic: drawn by a network from a painted mask', Seed: this.seed }
    const bytes = picture ? await writePNG(w, h, rgb, null, text) : await writePNG(w, h, data, colors, { Classes: codes.join(', ') })
    this.download(bytes, picture ? 'picture.png' : 'mask.png', 'image/png')
  }
  download(bytes, name, type) {
    const url = URL.createObjectURL(new Blob([bytes], { type }))
    make('a', { href: url, download: name }).click()
    setTimeout(() => URL.revokeObjectURL(url), 1e4)
  }
  key(e) {
    const k = e.key.toLowerCase(), tag = e.target.tagName, mod = e.ctrlKey || e.metaKey
    if (mod && (k === 'z' || k === 'y')) { e.preventDefault(); return this.step(k === 'y' || e.shiftKey ? 'redo' : 'undo') }
    if (mod || e.altKey || tag === 'SELECT' || tag === 'INPUT' && e.target.type === 'number' || !this.map) return
    const digit = /^Digit(\d)$/.exec(e.code), tool = Object.keys(tools).find(o => tools[o][1] === k)
    const at = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] }[k]
    if (digit) this.choose((+digit[1] + 9) % 10 + (e.shiftKey ? 10 : 0))
    else if (tool) this.use(tool)
    else if (k === 'd' && this.model.noise) this.roll(dice())
    else if (k === '[' || k === ']') this.resize(this.size + (k === ']' ? 4 : -4))
    else if (k === '+' || k === '-') this.enlarge(k === '+' ? 1.5 : 1/1.5)
    else if (tag !== 'CANVAS') return
    else if (at) {
      const by = e.shiftKey ? 32 : 4, stop = (v, most) => Math.min(Math.max(v, 0), most - 1), { map } = this
      this.keys = [stop(this.keys[0] + by*at[0], map.w), stop(this.keys[1] + by*at[1], map.h)]
      this.ring(...this.keys); if (this.down) this.drag(...this.keys)
      this.tell(`${this.model.codes[map.at(...this.keys)]} at ${this.keys[0]}, ${this.keys[1]}`)
    }
    else if (k === ' ' || k === 'enter') { if (this.down) this.finish(); else { this.start(...this.keys); if (this.down && this.tool !== 'line') this.finish() } }
    else return
    e.preventDefault()
  }
}

// ---- Hosts --------------------------------------------------------------------------------------------------------
export function socket(url) {
  const calls = [], hear = (head, bytes) => calls.forEach(f => f(head, bytes))
  let ws, away = 0
  const dial = () => {
    ws = new WebSocket(url); ws.binaryType = 'arraybuffer'
    ws.onmessage = ({ data }) => {
      const n = new DataView(data).getUint32(0)
      away = 0; hear(JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, n))), new Uint8Array(data, 4 + n))
    }
    ws.onclose = e => {
      const final = e.code === 4003
      hear({ is: 'error', text: e.reason || 'The connection is lost; trying again …' })
      if (!final) setTimeout(dial, Math.min(500*2**away++, 8000))
    }
  }
  dial()
  return { on: f => calls.push(f), send: (head, bytes = new Uint8Array()) => {
    const text = new TextEncoder().encode(JSON.stringify(head))
    if (ws.readyState === 1) ws.send(glue([word(text.length), text, bytes])) } }
}

export default { render({ model, el }) {   // in a notebook
  mount(el.appendChild(make('div')), {
    on: f => { model.on('msg:custom', (head, [data]) => f(head, data ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array())); model.send({ do: 'hello' }) },
    send: (head, bytes = new Uint8Array()) => model.send(head, undefined, [bytes]) })
} }
