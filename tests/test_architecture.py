"""The folders' one-way dependencies, and where heavy libraries may be imported."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("common", "server", "client", "simulations", "benchmarks")
MAY_IMPORT = {
    "common": {"common"},
    "server": {"common", "server"},
    "client": {"common", "client"},
    "simulations": {"common", "server", "client", "simulations"},
    "benchmarks": set(PACKAGES) | {"tests"},
}
FLOWER = {
    "common/roll_call.py",
    "common/records.py",
    "common/wire.py",
    "server/app.py",
    "server/roster.py",
    "server/tasks.py",
    "server/parcels.py",
    "server/strategy.py",
    "server/grid.py",
    "client/app.py",
}
NO_TORCH = {
    "common/submodel.py",
    "common/extraction.py",
    "common/config.py",
    "common/sections.py",
}


def _files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def _imports(path: Path) -> set[str]:
    """Return the top-level names that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where things come from"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = _imports(path) & {*PACKAGES, "tests"}
    assert ours <= MAY_IMPORT[package]


def test_flower_is_imported_only_where_it_is_glue() -> None:
    importers = {
        str(path.relative_to(ROOT))
        for path in _files()
        if "flwr" in _imports(path) and path.relative_to(ROOT).parts[0] != "benchmarks"
    }
    assert importers <= FLOWER
    assert "server/strategy.py" in importers  # the walk sees what it should


def test_layouts_and_policies_do_without_torch() -> None:
    policies = {str(p.relative_to(ROOT)) for p in (ROOT / "common/policies").glob("*.py")}
    assert len(policies) > 5
    for name in NO_TORCH | policies:
        assert "torch" not in _imports(ROOT / name), name
    assert "torch" in _imports(ROOT / "common/unet.py")


def test_no_file_is_too_long_to_read_in_one_sitting() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in _files()}
    assert {str(path): n for path, n in lengths.items() if n > 300} == {}
