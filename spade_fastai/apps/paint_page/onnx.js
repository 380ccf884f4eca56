// A host of paint.js without a server: this file, called host.js there, draws in a worker of the browser, by ONNX Runtime Web.
// Beside it lie model.onnx, page.json (what the network is), maps/*.png and ort/, ONNX Runtime's own files.
import { readPNG } from './paint.js'

export function host() {
  const calls = [], worker = new Worker(import.meta.url, { type: 'module' })
  worker.onmessage = ({ data: [head, bytes] }) => calls.forEach(f => f(head, bytes))
  worker.onerror = e => calls.forEach(f => f({ is: 'error', text: `The network could not be loaded: ${e.message}` }))
  worker.postMessage([{ do: 'hello' }])
  return { on: f => calls.push(f), send: (head, bytes = new Uint8Array()) => worker.postMessage([head, bytes]) }
}

function randoms(seed, n) {   // normal numbers: mulberry32, then Box and Muller
  const next = () => { let t = seed = seed + 0x6d2b79f5 | 0; t = Math.imul(t ^ t >>> 15, t | 1); t ^= t + Math.imul(t ^ t >>> 7, t | 61); return ((t ^ t >>> 14) >>> 0)/2**32 }
  return Float32Array.from({ length: n }, () => Math.sqrt(-2*Math.log(1 - next()))*Math.cos(2*Math.PI*next()))
}

async function work() {
  const near = name => new URL(name, import.meta.url), about = await (await fetch(near('page.json'))).json()
  const ort = await import(near('ort/ort.wasm.min.mjs'))
  ort.env.wasm.wasmPaths = near('ort/').href
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 4) : 1
  const net = await ort.InferenceSession.create(near('model.onnx').href), { scale: s, halo, nz, field } = about
  let w = 0, h = 0, ids, z, waits, n = 1, seed = 0, busy = false, most = 256
  const tell = (head, bytes = new Uint8Array()) => postMessage([head, bytes])

  function add([top, left, high, wide], stroke) {   // the box and its halo are out of date
    const far = halo ?? Math.max(w, h), W = w/s
    for (let y = Math.max(top - far, 0)/s | 0; y < Math.min(top + high + far, h)/s; y++)
      for (let x = Math.max(left - far, 0)/s | 0; x < Math.min(left + wide + far, w)/s; x++) waits[y*W + x] = Math.max(waits[y*W + x], stroke)
  }
  function next() {   // the newest stroke first, at most `most` pixels wide and high
    const W = w/s, H = h/s, stroke = waits.reduce((a, b) => Math.max(a, b), 0), most_ = (halo === null ? Math.max(w, h) : most)/s | 0
    if (!stroke) return null
    const top = waits.indexOf(stroke)/W | 0, bottom = Math.min((waits.lastIndexOf(stroke)/W | 0) + 1, top + most_)
    let left = W, right = 0
    for (let y = top; y < bottom; y++) for (let x = 0; x < W; x++) if (waits[y*W + x] === stroke) { left = Math.min(left, x); right = Math.max(right, x + 1) }
    right = Math.min(right, left + most_)
    for (let y = top; y < bottom; y++) waits.fill(0, y*W + left, y*W + right)
    return { stroke, box: [top*s, left*s, (bottom - top)*s, (right - left)*s] }
  }
  async function draw({ stroke, box: [top, left, high, wide] }) {
    const far = halo ?? Math.max(w, h), mine = ids
    const y0 = Math.max(top - far, 0), x0 = Math.max(left - far, 0), H = Math.min(top + high + far, h) - y0, W = Math.min(left + wide + far, w) - x0
    const mask = new Int32Array(H*W), given = {}
    for (let y = 0; y < H; y++) mask.set(ids.subarray((y0 + y)*w + x0, (y0 + y)*w + x0 + W), y*W)
    given.mask = new ort.Tensor('int32', mask, [1, H, W])
    if (nz && field) {
      const h1 = H/s, w1 = W/s, part = new Float32Array(nz*h1*w1)
      for (let c = 0; c < nz; c++) for (let y = 0; y < h1; y++) {
        const at = (c*h/s + y0/s + y)*w/s + x0/s
        part.set(z.subarray(at, at + w1), (c*h1 + y)*w1)
      }
      given.z = new ort.Tensor('float32', part, [1, nz, h1, w1])
    } else if (nz) given.z = new ort.Tensor('float32', z, [1, nz])
    const pic = (await net.run(given)).picture.data, rgb = new Uint8ClampedArray(3*high*wide)
    for (let c = 0; c < 3; c++) for (let y = 0; y < high; y++) for (let x = 0; x < wide; x++)
      rgb[3*(y*wide + x) + c] = (pic[(c*H + top - y0 + y)*W + left - x0 + x] + 1)*127.5
    const rest = waits.reduce((a, b) => a + (b > 0), 0)*s*s
    if (mine === ids) tell({ is: 'picture', n: stroke, box: [top, left, high, wide], left: rest }, new Uint8Array(rgb.buffer))
  }
  async function go() {
    if (busy) return
    busy = true
    try { for (let o; ids && (o = next());) { await draw(o); await new Promise(f => setTimeout(f)) } }   // listen between two pieces
    catch (e) { tell({ is: 'error', text: `Drawing failed: ${e.message ?? e}` }) }
    busy = false
  }
  const noise = () => { z = randoms(seed, field ? nz*h*w/s/s : nz); add([0, 0, h, w], n) }
  const begin = (head, data) => { w = head.w; h = head.h; ids = data; waits = new Float64Array(w*h/s/s); noise() }
  const acts = {
    hello: () => tell({ is: 'model', ...about, seed }),
    open: (head, data) => { seed = head.seed ?? seed; begin(head, data) },
    async land(head) {
      const file = near(`maps/${head.seed % about.maps}.png`), map = await readPNG(new Uint8Array(await (await fetch(file)).arrayBuffer()))
      const data = new Uint8Array(head.w*head.h), [x0, y0] = [map.w - head.w, map.h - head.h].map((o, i) => Math.max(o, 0)*((head.seed >>> 8*i + 3) % 9)/8 | 0)
      for (let y = 0; y < head.h; y++) for (let x = 0; x < head.w; x++) data[y*head.w + x] = map.ids[(y0 + y) % map.h*map.w + (x0 + x) % map.w]
      begin(head, data); tell({ is: 'mask', w, h }, data.slice())
    },
    patch({ n: stroke, box }, data) {
      const [top, left, high, wide] = box
      for (let y = 0; y < high; y++) ids.set(data.subarray(y*wide, (y + 1)*wide), (top + y)*w + left)
      n = Math.max(n, stroke); add(box, n)
    },
    seed: head => { seed = head.seed; noise() },
    renew({ n: stroke, box, seed }, data) {
      const [top, left, , wide] = box, other = randoms(seed, z.length), plane = w*h/s/s, seen = new Uint8Array(plane)
      data.forEach((v, i) => { if (v) seen[((top + i/wide | 0)/s | 0)*w/s + ((left + i % wide)/s | 0)] = 1 })
      for (let i = 0; i < z.length; i++) if (seen[i % plane]) z[i] = other[i]
      n = Math.max(n, stroke); add(box, n)
    } }
  return async ([head, data]) => { await acts[head.do]?.(head, data); go() }
}

if (typeof WorkerGlobalScope !== 'undefined' && self instanceof WorkerGlobalScope) {
  const ready = work()
  let last = ready.catch(e => postMessage([{ is: 'error', text: `The network could not be loaded: ${e.message ?? e}` }, new Uint8Array()]))
  self.onmessage = ({ data }) => { last = last.then(async () => (await ready)(data)).catch(() => {}) }
}
