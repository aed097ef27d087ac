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
    "tests/server/loops/test_spread.py",
    "tests/server/state/test_state.py",
]
CHECKED = """
import sys
import numpy as np
from server.loops.kernels import place, read_only
out, values = np.zeros(4, np.float32), np.ones(3, np.float32)
rows, runs = np.array([[0, 0, 0, 1]]), np.array([[0, 4, 0]])
try:
    place(out, 0, read_only(values), read_only(rows), read_only(runs))
except IndexError:
    sys.exit()
sys.exit("a loop took a fourth value of three, so no index is checked here")
"""


@pytest.mark.slow
def test_no_loop_leaves_its_arrays(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "NUMBA_BOUNDSCHECK": "1",
        # Machine code that is kept does not say whether it checks.
        "NUMBA_CACHE_DIR": str(tmp_path / "numba"),
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
