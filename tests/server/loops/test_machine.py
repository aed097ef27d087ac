"""Machine code is found again by an app that is unpacked elsewhere, if it was made of the same."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from server.loops.machine import compiled

ROOT = Path(__file__).resolve().parents[3]
CALL = """
import numpy as np
from server.loops import kernels
assert kernels.__file__.startswith(ROOT), kernels.__file__
assert kernels.below(kernels.read_only(np.ones(3, np.float32)), 2.0)
print(sum(kernels.below.stats.cache_hits.values()))
"""


def _unpacked(folder: Path) -> Path:
    for package in ("common", "server"):
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, folder / package, ignore=skipped)
    return folder


def _found(app: Path, cache: Path, **variables: str) -> bool:
    environment = {**os.environ, "PYTHONPATH": str(app), "SCOREQUILT_CACHE": str(cache)}
    command = [sys.executable, "-c", f"ROOT = {str(app)!r}{CALL}"]
    done = subprocess.run(
        command, env=environment | variables, cwd=app, check=True, capture_output=True, text=True
    )
    return done.stdout.strip() == "1"


@pytest.mark.slow
def test_another_copy_of_the_app_finds_what_was_compiled(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first, second = _unpacked(tmp_path / "first"), _unpacked(tmp_path / "second")
    assert not _found(first, cache)
    assert _found(second, cache)
    # Code that checks its indices is another.
    assert not _found(second, cache, NUMBA_BOUNDSCHECK="1")
    kernels = second / "server" / "loops" / "kernels.py"
    kernels.write_text(kernels.read_text() + "\n")
    assert not _found(second, cache)


def test_loops_are_compiled_also_where_machine_code_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {}
    exec("def twice(x):\n    return 2 * x", names)  # a function from no file
    assert compiled(names["twice"])(21) == 42
    (tmp_path / "file").touch()
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "file"))  # where no folder can be
    assert compiled(_half)(42) == 21


def _half(x: int) -> int:
    return x // 2
