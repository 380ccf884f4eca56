"Prints the oldest versions that pyproject.toml promises, one a line, as constraints for pip: `PIP_CONSTRAINT=oldest.txt pip install .`"
import tomllib
from pathlib import Path

if __name__ == '__main__':
    proj = tomllib.loads((Path(__file__).resolve().parent.parent/'pyproject.toml').read_text(encoding='utf-8'))['project']
    print(*(o.replace('>=', '==') for o in proj['dependencies'] if '>=' in o), sep='\n')
