"The oldest versions that pyproject.toml promises, as constraints for pip: `PIP_CONSTRAINT=oldest.txt pip install .`"
import tomllib
from pathlib import Path

if __name__ == '__main__':
    file = Path(__file__).resolve().parent.parent/'pyproject.toml'
    needs = tomllib.loads(file.read_text(encoding='utf-8'))['project']['dependencies']
    print(*(o.replace('>=', '==') for o in needs if '>=' in o), sep='\n')
