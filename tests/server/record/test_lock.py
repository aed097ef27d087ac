"""A run directory has one writer at a time, and a writer that is killed lets go."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from server.record.lock import only_writer
from tests.engines import ROOT

WRITER = """
import sys, time
from pathlib import Path
from server.record.lock import only_writer
with only_writer(Path(sys.argv[1])):
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"writing\n"
        with (
            pytest.raises(UserError, match=f"run-dir: another process writes {tmp_path}; wait"),
            only_writer(tmp_path, patience=0.3),
        ):
            pass
        first.kill()
        with only_writer(tmp_path, patience=5.0):
            assert list(tmp_path.iterdir()) == []  # the lock is no file


def test_a_writer_that_fails_lets_go(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), only_writer(tmp_path):
        raise RuntimeError
    with only_writer(tmp_path, patience=0.0):
        pass
