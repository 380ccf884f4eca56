"Writes README.md from nbs/index.ipynb; with --check it only says whether the two agree."
import base64, difflib, json, posixpath, re, sys
from pathlib import Path

def _link(m):
    "Links of the notebook start in nbs/, those of the README one folder higher"
    return m[1] + (m[2] if re.match(r'\w+:|#|/', m[2]) else posixpath.normpath('nbs/' + m[2]))

def _markdown(cell, src, files):
    for name, kinds in cell.get('attachments', {}).items():
        files[f'nbs/images/{name}'] = base64.b64decode(*kinds.values())
        src = src.replace(f'attachment:{name}', f'images/{name}')
    pieces = re.split(r'(^```.*?^```$)', src, flags=re.M | re.S)  # every second piece is a code block
    return ''.join(o if i % 2 else re.sub(r'(\]\(|src=")([^)"\s]+)', _link, o) for i, o in enumerate(pieces))

def _output(out, files):
    data = out.get('data') or {'text/plain': out.get('text', '')}
    if 'image/png' in data:
        files[name := f'nbs/images/index-{len(files)}.png'] = base64.b64decode(''.join(data['image/png']))
        return f'![]({name})'
    return ''.join(data['text/markdown']) if 'text/markdown' in data else '```\n' + ''.join(data['text/plain']).strip() + '\n```'

def readme(nb):
    "The text of README.md, and a dict of the pictures that were inside the notebook"
    parts, files = ['<!-- Written by tools/readme.py from nbs/index.ipynb: edit the notebook. -->'], {}
    for cell in nb['cells']:
        flags, src = re.fullmatch(r'((?:#\|[^\n]*\n?)*)(.*)', ''.join(cell['source']), flags=re.S).groups()
        if cell['cell_type'] == 'raw' or re.search(r'\bhide\b|include: *false', flags): continue
        if cell['cell_type'] == 'markdown': parts.append(_markdown(cell, src.strip(), files))
        elif 'echo: false' not in flags: parts.append(f'```python\n{src.strip()}\n```')
        parts += [_output(o, files) for o in cell.get('outputs', [])]
    return '\n\n'.join(parts) + '\n', files

if __name__ == '__main__':
    root = Path(__file__).resolve().parent.parent
    text, files = readme(json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8')))
    files['README.md'] = text.encode()
    old = {o: (root/o).read_bytes() if (root/o).exists() else b'' for o in files}
    stale = [o for o in files if files[o] != old[o]]
    for o in stale:
        if '--check' in sys.argv: print(f'{o} is not what nbs/index.ipynb says: run python tools/readme.py')
        else: (root/o).write_bytes(files[o])
    if '--check' in sys.argv:
        for o in difflib.unified_diff(old['README.md'].decode().splitlines(), text.splitlines(), 'README.md', 'index.ipynb', lineterm=''): print(o)
        sys.exit(bool(stale))
