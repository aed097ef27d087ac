"""Installs the app's folders under one name, `scorequilt`; here they lie where Flower looks.

`common`, `server`, `client` and `simulations` become `scorequilt/app/common` and so on, with
`pyproject.toml` beside them, so that the installed folder is a Flower app as the repository is one.
Everything else about the distribution stands in `pyproject.toml`.
"""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

FOLDERS = ("common", "server", "client", "simulations")
APP = "scorequilt.app"
inside = find_packages(include=[name for folder in FOLDERS for name in (folder, f"{folder}.*")])


class Build(build_py):
    """Takes this file for what it is, and no module of the app."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Return a package's modules."""
        return [] if package == APP else super().find_package_modules(package, package_dir)


setup(
    packages=["scorequilt", APP, *(f"{APP}.{name}" for name in inside)],
    package_dir={APP: "."},
    package_data={APP: ["pyproject.toml"], f"{APP}.simulations": ["presets/*.toml"]},
    include_package_data=False,
    cmdclass={"build_py": Build},
)
