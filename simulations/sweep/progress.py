"""What a user sees of a sweep while it goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import progress as rich
from rich.console import Console

from server.record.history import read_rows
from simulations.engine.progress import figures
from simulations.sweep.plan import PlannedRun


class SweepProgress:
    """A bar for the sweep and one for every run that goes on; elsewhere a line for every end.

    Args:
        runs: Those that are to be run.
        planned: How many the sweep has in all.
        folder: The sweep's folder.
        console: Where to.
        quiet: Say nothing.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        planned: int,
        folder: Path,
        console: Console,
        quiet: bool = False,
    ) -> None:
        self._runs = {run.name: run for run in runs}
        self._planned, self._folder = planned, folder
        self._console, self._quiet = console, quiet
        self._begun: dict[str, float] = {}
        self._ended: set[str] = set()
        columns = [
            *(rich.TextColumn("{task.description}", markup=False), rich.BarColumn()),
            *(rich.MofNCompleteColumn(), rich.TextColumn("{task.fields[figures]}")),
            *(rich.TimeElapsedColumn(), rich.TimeRemainingColumn()),
        ]
        hidden = quiet or not console.is_terminal
        self._bar = rich.Progress(*columns, console=console, disable=hidden)
        done = planned - len(runs)
        self._all = self._bar.add_task("runs", total=planned, completed=done, figures="")
        self._tasks: dict[str, rich.TaskID] = {}

    def __enter__(self) -> SweepProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def look(self, ends: Mapping[str, str | None]) -> None:
        """Show how far runs are.

        Args:
            ends: The runs that were started: None while one goes on, then why it failed or "".
        """
        for name, why in ends.items():
            if name in self._ended:
                continue
            self._begun.setdefault(name, time.monotonic())
            rows = read_rows(self._folder / name / "history.jsonl")
            shown = figures(rows[-1]) if rows else ""
            if why is None:
                self._show(name, rows[-1]["round"] if rows else 0, shown)
            else:
                self._end(name, f"failed: {why}" if why else shown)

    def _show(self, name: str, round: int, shown: str) -> None:
        if name not in self._tasks:
            rounds = self._runs[name].config.rounds
            self._tasks[name] = self._bar.add_task(name, total=rounds, figures="")
        self._bar.update(self._tasks[name], completed=round, figures=shown)

    def _end(self, name: str, said: str) -> None:
        self._ended.add(name)
        if name in self._tasks:
            self._bar.remove_task(self._tasks.pop(name))
        number = self._planned - len(self._runs) + len(self._ended)
        self._bar.update(self._all, completed=number)
        if not self._quiet:
            seconds = time.monotonic() - self._begun[name]
            line = f"{number} of {self._planned}  {name}  {said}  {seconds:.0f} s"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
