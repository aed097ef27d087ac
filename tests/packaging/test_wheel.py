"""The wheel in an environment of its own: what it holds, that it runs and leaves nothing."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.engines import ROOT, TINY, linux

BUILT_OF = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "scorequilt")
FOLDERS = ("common", "server", "client", "simulations")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def _sources(folder: Path) -> Path:
    """Copy what the distribution is made of: a build leaves folders behind where it works."""
    folder.mkdir()
    for name in (*BUILT_OF, *FOLDERS):
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built with the setuptools that are installed."""
    base = tmp_path_factory.mktemp("wheel")
    sources = _sources(base / "sources")
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir", str(base / "dist"))
    subprocess.run([*PIP, "wheel", *options, str(sources)], check=True)
    (built,) = (base / "dist").glob("*.whl")
    return built


def _environment(folder: Path) -> Path:
    """Make an environment that sees the packages of the running one, and return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    import torch

    # Files with paths to add, such as that of an editable install, are not followed from here.
    (site / "packages.pth").write_text(str(Path(torch.__file__).parents[1]))
    python = folder / "bin" / "python"
    for each in entry_points(group="console_scripts"):
        if each.value.startswith(("flwr", "ray")):
            script = folder / "bin" / each.name
            module, _, name = each.value.partition(" ")[0].partition(":")
            script.write_text(
                f"#!{python}\nimport sys\nfrom {module} import {name}\nsys.exit({name}())\n"
            )
            script.chmod(0o755)
    return python


def _files(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)) for path in found if path.is_file()}


def _run(*words: str | Path, cwd: Path, **variables: str) -> str:
    environment: Mapping[str, str] = {**os.environ, **variables}
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_puts_one_name_into_an_environment(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top.split("-")[0] for top in tops} == {"scorequilt"}
    assert {name.split("/")[2] for name in names if name.startswith("scorequilt/app/")} == {
        *FOLDERS,
        "pyproject.toml",
    }
    ours = {
        f"scorequilt/app/{path.relative_to(ROOT)}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".toml")
    }
    assert ours <= set(names)


@linux
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_installed_wheel_runs_a_job_beside_another_common_and_goes_without_a_trace(
    wheel: Path, tmp_path: Path
) -> None:
    python = _environment(tmp_path / "environment")
    before = _files(tmp_path / "environment")
    target = ("--python", str(python))
    subprocess.run([*PIP, *target, "install", "--no-deps", str(wheel)], check=True)
    (site,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    theirs = site / "common"
    theirs.mkdir()
    (theirs / "__init__.py").write_text("THEIRS = 1\n")

    elsewhere = tmp_path / "Blüten und Gräser"
    elsewhere.mkdir()
    # Nothing of the repository may be found, and another's `common` even comes first.
    variables = {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    scorequilt = python.parent / "scorequilt"
    changes = [f"--set={key}={value}" for key, value in (TINY | {"rounds": 1}).items()]
    _run(scorequilt, "run", "digits", *changes, cwd=elsewhere, **variables)
    rows = (elsewhere / "runs/tiny/history.jsonl").read_text().splitlines()
    assert [json.loads(row).get("clients_replied") for row in rows] == [0, 2]
    _run(scorequilt, "export", "latest", "--out", "a model", cwd=elsewhere, **variables)
    assert (elsewhere / "a model/model_index.json").is_file()
    _run(scorequilt, "plot", "tiny", cwd=elsewhere, **variables)
    both = "import common, scorequilt.folders as f; print(common.THEIRS, f.APP)"
    said = _run(python, "-c", both, cwd=elsewhere, **variables).split()
    assert said == ["1", str(site / "scorequilt" / "app")]

    shutil.rmtree(theirs)
    subprocess.run([*PIP, *target, "uninstall", "--yes", "scorequilt"], check=True)
    assert _files(tmp_path / "environment") == before
    assert not (site / "scorequilt").exists()


@pytest.mark.slow
def test_an_editable_install_runs_from_any_folder(tmp_path: Path) -> None:
    sources = _sources(tmp_path / "sources")
    python = _environment(tmp_path / "environment")
    options = ("--no-deps", "--no-build-isolation", "--editable", str(sources))
    subprocess.run([*PIP, "--python", str(python), "install", *options], check=True)
    said = _run(
        *(python, "-c", "import scorequilt.folders as f; print(f.APP)"),
        cwd=tmp_path,
        PYTHONPATH="",
    )
    assert said.strip() == str(sources)
    scorequilt = python.parent / "scorequilt"
    assert "density_mean" in _run(
        scorequilt, "coverage", "--rounds", "1", cwd=tmp_path, PYTHONPATH=""
    )
