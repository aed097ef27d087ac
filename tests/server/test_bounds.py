"""The compiled loops check no index; here they do, while tests that run them all run once more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = [
    "tests/server/aggregation/test_aggregation_tiles.py",
    "tests/server/aggregation/test_robust.py",
    "tests/server/loops/test_tables.py",
    "tests/server/state/test_state.py",
]
CHECKED = """
import sys
import numpy as np
from server.loops import add, read_only
sums, values = np.zeros(4), read_only(np.ones(3, np.float32))
rows, runs = np.array([[0, 0, 0, 1]]), np.array([[0, 4, 0]])
try:
    add(sums, 0, 1, (values,) * 4, (1.0, 0.0, 0.0, 0.0), rows, runs)
except IndexError:
    sys.exit()
sys.exit("a loop took a fourth value of three, so no index is checked here")
"""


@pytest.mark.slow
def test_no_loop_leaves_its_arrays(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "NUMBA_BOUNDSCHECK": "1",
        "SCOREQUILT_CACHE": str(tmp_path / "cache"),
    }
    options = ["-x", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "tests")]
    for words in (["-c", CHECKED], ["-m", "pytest", *options, *TESTS]):
        done = subprocess.run(
            [sys.executable, *words],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
