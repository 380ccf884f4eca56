// Who draws for the page of spade-paint: the server that it came from. A folder without a server has onnx.js in this place.
import { socket } from './paint.js'

export function host() {
  const url = new URL('ws' + location.search, location.href)
  url.protocol = location.protocol.replace('http', 'ws')
  return socket(url)
}
