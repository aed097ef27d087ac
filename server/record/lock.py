"""One writer to a run directory: whoever writes it holds a lock, which ends with its process."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError

PATIENCE = 60.0
"""Seconds to wait for the writer before: one that lost its SuperLink takes some to notice."""

PAUSE = 0.2


@contextmanager
def only_writer(run_dir: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold a run directory's lock; the kernel frees it when the process ends, however it does.

    Args:
        run_dir: An existing directory.
        patience: Seconds to wait while another process holds it.

    Raises:
        UserError: Another process still holds it.
    """
    folder = os.open(run_dir, os.O_RDONLY)
    try:
        deadline = time.monotonic() + patience
        while not _lock(folder):
            if time.monotonic() >= deadline:
                raise UserError(
                    f"run-dir: another process writes {run_dir}; wait until it has ended, or choose"
                    " another run-dir"
                )
            time.sleep(PAUSE)
        yield
    finally:
        os.close(folder)


def is_written(run_dir: Path) -> bool:
    """Say whether a process holds a run directory's lock, that is, whether the run goes on."""
    folder = os.open(run_dir, os.O_RDONLY)
    try:
        return not _lock(folder)
    finally:
        os.close(folder)


def _lock(folder: int) -> bool:
    """Take the lock unless somebody has it; file systems without locks have none to refuse."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
    return True
