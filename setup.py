"Reads the facts that are not in pyproject.toml from settings.ini, and the version from the package."
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(here/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
version = re.search(r'__version__\s*=\s*"([^"]+)"', (here/'spade_fastai/__init__.py').read_text(encoding='utf-8'))[1]
extras = {k.removesuffix('_requirements'): v.split() for k, v in cfg.items() if k.endswith('_requirements')}

setup(
    version=version, author=cfg['author'], author_email=cfg['author_email'], license_expression=cfg['license'],
    keywords=[o.strip() for o in cfg['keywords'].split(',')], python_requires=f">={cfg['min_python']}",
    classifiers=[f"Development Status :: {cfg['status']}", 'Intended Audience :: Education', 'Intended Audience :: Science/Research',
                 'Programming Language :: Python :: 3', 'Topic :: Scientific/Engineering :: Artificial Intelligence'],
    install_requires=cfg['requirements'].split(), extras_require=extras)
