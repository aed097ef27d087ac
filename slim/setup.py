"""The same files and version as the repository's own distribution, for fewer dependencies."""

import tomllib
from pathlib import Path
from runpy import run_path

from setuptools import setup

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

setup(version=PROJECT["version"], **run_path(str(ROOT / "setup.py"))["LAYOUT"])
