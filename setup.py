"""Installs the app's folders under one name, `scorequilt`; here they lie where Flower looks.

`common`, `server`, `client` and `simulations` become `scorequilt/app/common` and so on, with
`pyproject.toml` beside them, so that the installed folder is a Flower app as the repository is one.
Everything else about the distribution stands in `pyproject.toml`. `slim` takes the same files for
devices and servers.
"""

import shutil
from os.path import relpath
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

FOLDERS = ("common", "server", "client", "simulations")
APP = "scorequilt.app"
ROOT = relpath(Path(__file__).parent)
INSIDE = find_packages(ROOT, include=[name for each in FOLDERS for name in (each, f"{each}.*")])


class Build(build_py):
    """Takes this file for what it is and no module of the app, and nothing of an earlier build."""

    def run(self) -> None:
        """Copy all files."""
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Return a package's modules."""
        return [] if package == APP else super().find_package_modules(package, package_dir)


LAYOUT = {
    "packages": ["scorequilt", APP, *(f"{APP}.{name}" for name in INSIDE)],
    "package_dir": {"scorequilt": str(Path(ROOT, "scorequilt")), APP: ROOT},
    "package_data": {APP: ["pyproject.toml"], f"{APP}.simulations": ["presets/*.toml"]},
    "include_package_data": False,
    "cmdclass": {"build_py": Build},
}

if __name__ == "__main__":
    setup(**LAYOUT)
