from setuptools import setup  # all fields are in pyproject.toml
setup()
