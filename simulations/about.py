"""The app itself: where it lies, and of which version it is."""

import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
"""The folder with the Flower app and its `pyproject.toml`: installed, or the repository."""


def version() -> str:
    """Return the version, which stands in `pyproject.toml` and nowhere else."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])
