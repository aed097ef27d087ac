"""Runs side by side, each in a process of its own that starts with everything imported.

Python's fork server imports once and forks for every run, which then begins at once and shares no
memory with the runs beside it. What a process writes goes to its run's `log.txt`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from common.config import RunConfig
from simulations.engine.processes import signals_interrupt
from simulations.sweep.plan import PlannedRun

PACKAGES = str(Path(__file__).resolve().parents[2])
"""Where `simulations` and the app's folders are."""

TICK = 0.5
"""Seconds between two looks at what runs have written."""


def execute(
    runs: Sequence[PlannedRun],
    folder: Path,
    jobs: int,
    look: Callable[[Mapping[str, str | None]], None],
) -> dict[str, str]:
    """Start or go on with runs, so many at once, and return by name why one failed.

    Args:
        runs: What to run; each has its directory `folder`/name.
        folder: The sweep's folder.
        jobs: Most runs at once, at least 1.
        look: Called often, with the runs that were started: None while one goes on, then why it
            failed or an empty text.

    Raises:
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP, after all runs have been stopped.
    """
    # What the fork server starts with; by itself it does not know where our packages are.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if PACKAGES not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [PACKAGES, *paths]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["simulations.engine.inline"])
    waiting, going = list(runs), dict[str, BaseProcess]()
    ends: dict[str, str | None] = {}
    with signals_interrupt():
        try:
            while waiting or going:
                while waiting and len(going) < jobs:
                    run = waiting.pop(0)
                    arguments = (run.config.to_flat(), str(folder / run.name))
                    going[run.name] = context.Process(target=_run, args=arguments, name=run.name)
                    going[run.name].start()
                    ends[run.name] = None
                wait([process.sentinel for process in going.values()], TICK)
                for name in [name for name, each in going.items() if not each.is_alive()]:
                    ends[name] = _failure(going.pop(name), folder / name)
                look(ends)
        finally:
            for process in going.values():
                process.kill()
            for process in going.values():
                process.join()
    return {name: why for name, why in ends.items() if why}


def _run(flat: Mapping[str, Any], run_dir: str) -> None:
    """Be the process of one run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which then ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    path = Path(run_dir)
    path.mkdir(parents=True, exist_ok=True)
    log = os.open(path / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for output in (1, 2):
        os.dup2(log, output)
    from simulations.engine.inline import run_inline

    run_inline(RunConfig.from_flat(flat), path)


def _end_with_parent() -> None:
    """End this process when the one that asked for it has ended, however it did."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _failure(process: BaseProcess, run_dir: Path) -> str:
    """Return why a process failed that has ended, empty if it did not."""
    process.join()
    code = process.exitcode or 0
    if code == 0:
        return ""
    with suppress(OSError):
        if said := (run_dir / "failure.txt").read_text(encoding="utf-8").split("\n")[0]:
            return f"{said} (log: {run_dir / 'log.txt'})"
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return f"its process {how}; see {run_dir / 'log.txt'}"
