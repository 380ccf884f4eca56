// What scrolls sideways can be reached and scrolled by keyboard
function reach() {
  for (const o of document.querySelectorAll('article pre, article .table-wrapper, article div.output, article .math, article mjx-container')) {
    if (o.scrollWidth <= o.clientWidth || o.hasAttribute('tabindex')) continue
    o.tabIndex = 0
  }
}
addEventListener('load', reach); addEventListener('resize', reach)
