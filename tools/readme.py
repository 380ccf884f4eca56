"""Writes README.md from nbs/index.ipynb, whose table of rooms gets links to the notebooks that are there.
With --check it only says whether all agree."""
import base64, difflib, json, posixpath, re, sys
from pathlib import Path

# The table of rooms in index.ipynb: the first column names them, the links in the second are written here

def _chapters(room, nbs):
    "Notebooks of `data/`, a folder of nbs/lib, or of `core`, one notebook there; `commands/` is beside lib"
    side = '' if room == 'commands/' else 'lib/'
    found = (nbs/side/room).glob('*.ipynb') if room.endswith('/') else (nbs/side).glob(f'*_{room}.ipynb')
    return sorted(o for o in found if re.fullmatch(r'(\d+[a-z]?_)?\w+', o.stem))

def _row(m, nbs):
    links = [f'[{re.sub(r"^[0-9]+[a-z]?_", "", o.stem)}]({o.relative_to(nbs).as_posix()})'
             for room in re.findall(r'`([\w/]+)`', m[1]) for o in _chapters(room, nbs)]
    return f'| {m[1].strip()} | {" · ".join(links)} |{m[3]}|'

def fill_rooms(src, nbs):
    "Rows `| rooms | links | what |` with the links to the notebooks that are in `nbs`"
    return re.sub(r'^\|([^|\n]*`[^|\n]*)\|([^|\n]*)\|([^|\n]*)\|$', lambda m: _row(m, nbs), src, flags=re.M)

def index(path):
    "The notebook's bytes with its table filled"
    nb = json.loads(path.read_text(encoding='utf-8'))
    for cell in nb['cells']:
        src = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown' and src.startswith('## Three doors'):
            cell['source'] = fill_rooms(src, path.parent).splitlines(keepends=True)
    return (json.dumps(nb, indent=1, ensure_ascii=False) + '\n').encode(), nb

# README.md

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
    if 'text/markdown' in data: return ''.join(data['text/markdown'])
    return '```\n' + ''.join(data['text/plain']).strip() + '\n```'

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
    nb_bytes, nb = index(root/'nbs/index.ipynb')
    text, files = readme(nb)
    files = {'nbs/index.ipynb': nb_bytes, **files, 'README.md': text.encode()}
    old = {o: (root/o).read_bytes() if (root/o).exists() else b'' for o in files}
    stale = [o for o in files if files[o] != old[o]]
    for o in stale:
        if '--check' in sys.argv: print(f'{o} is not what the notebooks say: run python tools/readme.py')
        else: (root/o).write_bytes(files[o])
    if '--check' in sys.argv:
        was = old['README.md'].decode().splitlines()
        for o in difflib.unified_diff(was, text.splitlines(), 'README.md', 'index.ipynb', lineterm=''): print(o)
        sys.exit(bool(stale))
