"""What is imported is declared, pinned and explained, and nothing else is."""

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions

from tests.test_architecture import ROOT, _imports

OURS = ("common", "server", "client", "simulations", "scorequilt")
# Development tools that nothing imports.
TOOLS = {"mypy", "pre-commit", "ruff", "beartype", "pytest-timeout", "pytest-xdist"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _names(requirements: Iterable[str]) -> set[str]:
    """Return the packages that requirements are for, spelt as indices compare them."""
    words = [re.split(r"[^\w.-]", each.strip())[0] for each in requirements]
    return {re.sub(r"[-_.]+", "-", word).lower() for word in words}


DECLARED = _names(PROJECT["dependencies"])
OPTIONAL = PROJECT["optional-dependencies"]
DEV = _names(OPTIONAL["dev"])
EXTRAS = _names(each for name in OPTIONAL if name != "dev" for each in OPTIONAL[name])


def _imported(*folders: str) -> set[str]:
    """Return the packages of others that the files of folders import."""
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    modules = {module for path in paths for module in _imports(path)}
    modules -= {*sys.stdlib_module_names, *OURS, "tests", "benchmarks"}
    owners = packages_distributions()
    return _names(owners[module][0] for module in modules)


def test_the_packages_import_all_that_is_declared_and_nothing_else() -> None:
    assert _imported(*OURS) == DECLARED | EXTRAS
    assert DEV >= EXTRAS  # the tests need them all


def test_tests_and_benchmarks_need_what_development_adds() -> None:
    imported = _imported("tests", "benchmarks")
    assert imported - DECLARED == DEV - TOOLS
    assert not DECLARED & (DEV | EXTRAS)
    assert DEV >= EXTRAS, "tests cover the extras"


def test_every_dependency_is_pinned_and_explained() -> None:
    pinned = _names((ROOT / "constraints.txt").read_text().split())
    assert pinned >= DECLARED | DEV
    page = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| (.+?) \|", page.partition("| package |")[2], re.MULTILINE)
    explained = _names(name for row in rows[1:] for name in row.split(",") if "*" not in name)
    assert explained == DECLARED | DEV
