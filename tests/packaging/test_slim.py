"""The distribution for devices and servers: what it asks for is enough, and no more than that."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from server.record.history import read_rows
from simulations.engine.processes import free_ports
from tests.engines import BIN, ROOT, TINY, as_words, superlink
from tests.test_architecture import _modules
from tests.test_dependencies import _names

SLIM = tomllib.loads((ROOT / "slim/pyproject.toml").read_text())["project"]
FULL = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = ("common", "server", "client", "simulations")
ON_REQUEST = {
    "scikit-learn",
    "flwr-datasets",
    "datasets",
    "dp-accounting",
    "pydicom",
    "pillow-heif",
}
"""Imported where a run or a device asks for what they do, and asked for by one line if missing."""

HEAVY = (
    *("ray", "numba", "llvmlite", "matplotlib", "scipy", "sklearn", "torchmetrics", "ot", "pandas"),
    *("pyarrow", "datasets", "flwr_datasets", "diffusers", "dp_accounting", "pydicom"),
)
MISSING = f"""
import importlib.metadata
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        heavy = name.split(".")[0] in {HEAVY!r}
        return None if heavy else super().find_spec(name, path, target)

known = importlib.metadata.version

def version(name):
    if name == "scikit-learn":
        raise importlib.metadata.PackageNotFoundError(name)
    return known(name)

importlib.metadata.version = version
sys.meta_path = [Without if each is PathFinder else each for each in sys.meta_path]
"""


def _path(module: str) -> Path | None:
    """Return the file of a module of ours, whose last part may be a name in it."""
    for name in (module, module.rpartition(".")[0]):
        place = ROOT / name.replace(".", "/")
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                return path
    return None


def _needs(*roots: str) -> set[str]:
    """Return the distributions that files import, and all files of ours that these import."""
    seen: set[Path] = set()
    waiting, others = [ROOT / root for root in roots], set[str]()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for module in _modules(path):
            parts = module.split(".")
            if parts[0] in OURS:
                packages = (".".join(parts[: i + 1]) for i in range(len(parts)))
                waiting += [found for each in packages if (found := _path(each)) is not None]
            else:
                others.add(parts[0])
    owners = packages_distributions()
    return _names(owners[name][0] for name in others - sys.stdlib_module_names)


def test_a_device_asks_for_all_that_it_may_import_and_nothing_heavy() -> None:
    base = _names(SLIM["dependencies"])
    assert _needs("client/app.py") <= base | ON_REQUEST
    assert {"torch", "flwr", "pillow"} <= _needs("client/app.py")
    assert not base & _names(HEAVY)


def test_a_server_asks_for_all_that_it_may_import() -> None:
    asked = _names(SLIM["dependencies"]) | _names(SLIM["optional-dependencies"]["server"])
    needed = _needs("server/app.py")
    assert needed <= asked | ON_REQUEST
    assert needed >= _names(SLIM["optional-dependencies"]["server"])


def test_both_distributions_ask_for_the_same_versions() -> None:
    extras = SLIM["optional-dependencies"]
    everything = {*FULL["dependencies"], *chain(*FULL["optional-dependencies"].values())}
    asked = [*SLIM["dependencies"], *chain(*extras.values())]
    assert {each.replace("flwr>", "flwr[simulation]>") for each in asked} <= everything
    assert _names(FULL["dependencies"]) == _names(
        [*SLIM["dependencies"], *extras["server"], *extras["plot"]]
    )
    for name in set(extras) - {"server", "plot"}:
        assert extras[name] == FULL["optional-dependencies"][name]


@pytest.fixture
def without(tmp_path: Path) -> str:
    """A PYTHONPATH with which nothing heavy can be imported."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(MISSING)
    return os.pathsep.join([str(tmp_path / "without"), str(ROOT)])


@pytest.mark.slow
def test_commands_of_a_device_start_without_anything_heavy(without: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": without, "SCOREQUILT_CACHE": str(tmp_path / "none")}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", "scorequilt", *words)
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)

    assert run("--help").returncode == 0
    assert run("certs", str(tmp_path / "certs"), "--node", "barn").returncode == 0
    assert "flower-supernode" in run("join", "farm", "--insecure", "--print").stdout
    assert "flower-superlink" in run("serve", "--insecure", "--print").stdout
    Image.new("L", (8, 8), 7).save(tmp_path / "one.png")
    looked = run("data", f"folder:{tmp_path}", "--image-shape", "1,8,8", "--out", str(tmp_path))
    assert looked.returncode == 0, looked.stderr
    assert (tmp_path / "pictures.png").is_file()
    refusals = {
        ("data", "digits"): "data: digits comes with scikit-learn, which is not here",
        ("run", "digits"): "run needs ray, which is not installed: pip install 'scorequilt'",
        ("plot", str(tmp_path)): "plot needs ",
    }
    (tmp_path / "config.toml").touch()
    for words, line in refusals.items():
        failed = run(*words)
        assert (failed.returncode, len(failed.stderr.splitlines())) == (2, 1), failed.stderr
        assert line in failed.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_device_trains_and_judges_without_anything_heavy(without: str, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, levels in enumerate(np.random.default_rng(0).integers(0, 256, (20, 8, 8))):
        Image.fromarray(levels.astype(np.uint8)).save(pictures / f"{number}.png")
    run_dir = tmp_path / "run"
    config = {
        **TINY,
        "data": "clients",
        "image-shape": "1x8x8",
        "fleet": "1x1",
        "policy": "static",
        "rounds": 1,
        "evaluation.features": "untrained",
        "run-dir": str(run_dir),
    }
    with superlink(tmp_path) as (processes, port):
        (own,) = free_ports(1)
        processes.start(
            *("env", f"PYTHONPATH={without}", sys.executable, "-m", "scorequilt"),
            *("join", f"127.0.0.1:{port}", "--insecure", "--port", str(own)),
            *("--name", "barn", "--partition-id", "0", "--data", f"folder:{pictures}"),
        )
        run = processes.start(
            str(BIN / "flwr"), "run", str(ROOT), "--stream", "--run-config", as_words(config)
        )
        assert run.wait() == 0
    rows = read_rows(run_dir / "history.jsonl")
    assert rows[-1]["clients_replied"] == 1
    assert rows[-1]["held_out_by_client"]["0"]
