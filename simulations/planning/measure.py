"""Measurements of time and memory that bear a busy machine."""

import multiprocessing
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError

MIB = 2**20


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Return the least time in seconds of each function, called by turns.

    Turns spread a disturbance over all functions, and what is left of it the minimum removes, so
    ratios within one call of this function can be trusted before the times themselves. `progress`
    is called between them with the calls done and in total.
    """
    least, done = dict.fromkeys(functions, float("inf")), 0
    for _ in range(repeats):
        for name, function in functions.items():
            started = clock()
            function()
            least[name] = min(least[name], clock() - started)
            done += 1
            if progress is not None:
                progress(done, repeats * len(functions))
    return least


class PeakMemory:
    """Counts a process's resident memory from now on.

    Linux only: no other system forgets a peak, and psutil, which reads them all, knows of none.
    Resident memory is what the kernel has given, whoever in the process asked for it: arrays,
    PyTorch's activations and workspaces alike, and what the allocator keeps for later.

    Raises:
        UserError: This is not Linux.
    """

    def __init__(self) -> None:
        self.baseline = _status("VmRSS")
        self.restart()

    def restart(self) -> None:
        """Forget the peak so far."""
        Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        """Return the largest number of bytes since the last restart beyond those at the start."""
        return _status("VmHWM") - self.baseline


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """Return a function's result, computed in a new interpreter."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def _status(key: str) -> int:
    status = Path("/proc/self/status")
    found = re.search(rf"{key}:\s*(\d+) kB", status.read_text() if status.exists() else "")
    if found is None:
        raise UserError(f"peak memory can be measured on Linux alone: {status} does not tell {key}")
    return int(found[1]) * 1024
