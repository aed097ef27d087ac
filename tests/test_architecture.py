"""The one-way dependencies of folders and of their wings, and where heavy libraries are imported.

A *wing* is a folder of one purpose inside one of the four packages; a file that lies directly in a
package is a wing of its own. Wings import each other in one direction: the table below lists them
from the ground up, and each may import only what stands before it in its package.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("common", "server", "client", "simulations", "scorequilt", "benchmarks")
MAY_IMPORT = {
    "common": {"common"},
    "server": {"common", "server"},
    "client": {"common", "client"},
    "simulations": {"common", "server", "client", "simulations"},
    "scorequilt": {"simulations", "scorequilt"},
    "benchmarks": set(PACKAGES) | {"tests"},
}
WINGS = {
    "common": "errors files resources seeding cache moments submodels config diffusion data "
    "replay features wire network",
    "client": "batches optimizer flat training capability device feedback evaluation features app",
    "server": "about policies setting pretrained fleet coverage loops aggregation privacy state "
    "replay evaluation record grid live preflight attempt survey strategy app",
    "simulations": "about archive engine trackers pictures planning sources results sweep "
    "restoration deployment theory watch launch api cli",
}
FLOWER = {
    "common/wire/rollcall.py",
    "common/wire/records.py",
    "common/wire/messages.py",
    "common/wire/replay.py",
    "common/wire/evaluation.py",
    "server/app.py",
    "server/attempt.py",
    "server/survey.py",
    "server/fleet/questions.py",
    "server/fleet/roster.py",
    "server/fleet/tasks.py",
    "server/strategy.py",
    "server/grid.py",
    "server/live.py",
    "client/app.py",
    "client/feedback.py",
    "simulations/engine/inline.py",
}
NO_TORCH = ("common/config", "common/submodels", "common/data", "common/wire", "server/policies")


def _files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def _modules(path: Path) -> set[str]:
    """Return the modules that a file imports, anywhere in it, by their dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where things come from"
            # `from server import x` may name a module, `from server.x import y` names one.
            bare = node.module in PACKAGES
            module = node.module or ""
            found |= {f"{module}.{a.name}" for a in node.names} if bare else {module}
    return found


def _imports(path: Path) -> set[str]:
    return {module.split(".")[0] for module in _modules(path)}


def _wing(path: Path) -> str:
    """Return the wing that a file is in, or is."""
    return path.relative_to(ROOT).with_suffix("").parts[1]


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = _imports(path) & {*PACKAGES, "tests"}
    assert ours <= MAY_IMPORT[package]


@pytest.mark.parametrize("package", WINGS)
def test_wings_import_each_other_in_one_direction(package: str) -> None:
    order = WINGS[package].split()
    paths = [path for path in _files() if path.relative_to(ROOT).parts[0] == package]
    assert {_wing(path) for path in paths} - {"__init__"} == set(order)
    for path in paths:
        for module in _modules(path):
            if module.startswith(f"{package}.") and _wing(path) != "__init__":
                theirs = module.split(".")[1]
                up = order.index(theirs) > order.index(_wing(path))
                assert not up, f"{path.relative_to(ROOT)} imports {module}"


def test_every_wing_says_what_it_is_for() -> None:
    folders = {path.parent for path in _files() if path.parent != ROOT / "benchmarks"}
    for folder in folders:
        doc = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert len((doc or "").splitlines()) == 1, folder


def test_flower_is_imported_only_where_it_is_glue() -> None:
    importers = {
        str(path.relative_to(ROOT))
        for path in _files()
        if "flwr" in _imports(path) and path.relative_to(ROOT).parts[0] != "benchmarks"
    }
    assert importers <= FLOWER
    assert "server/strategy.py" in importers  # the walk sees what it should


def test_layouts_and_policies_do_without_torch() -> None:
    quiet = [path for folder in NO_TORCH for path in (ROOT / folder).glob("*.py")]
    assert len(quiet) > 20
    for path in quiet:
        assert "torch" not in _imports(path), path
    assert "torch" in _imports(ROOT / "common/network/unet.py")


def test_no_file_is_too_long_to_read_in_one_sitting() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in _files()}
    assert {str(path): n for path, n in lengths.items() if n > 300} == {}
