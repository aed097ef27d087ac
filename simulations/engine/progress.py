"""What a user sees of a run while it goes on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich import progress as rich
from rich.console import Console

from server.record.history import Row, read_rows


class Progress:
    """Shows a run's `history.jsonl` as it grows: a bar on a terminal, else a line per round."""

    def __init__(self, history: Path, rounds: int, console: Console, quiet: bool = False) -> None:
        self._history = history
        self._console = console
        self._quiet = quiet
        self._seen = (0, 0.0)
        self._rows = read_rows(history)  # not empty where a run is resumed
        self._failing: dict[str, str] = {}
        self._started = False
        columns = [
            *(rich.SpinnerColumn(), rich.TextColumn("{task.description}"), rich.BarColumn()),
            *(rich.MofNCompleteColumn(), rich.TextColumn("{task.fields[figures]}")),
            rich.TimeRemainingColumn(),
        ]
        self._bar = rich.Progress(
            *columns, console=console, disable=quiet or not console.is_terminal
        )
        # Its clock starts with the first new row: rounds must not seem as slow as the start.
        self._task = self._bar.add_task("starting", total=rounds, start=False, figures="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, phase: str) -> None:
        """Show `phase` and what is new in the history."""
        new = self._new_rows()
        if new and not self._started:
            self._bar.start_task(self._task)
            self._started = True
        for row in new if not self._quiet else ():
            if not self._console.is_terminal:
                self._console.print(f"round {row['round']}  {figures(row)}", highlight=False)
            for line in self._news(row):
                self._console.print(line, highlight=False, markup=False)
        done = self._rows[-1]["round"] if self._rows else 0
        self._bar.update(self._task, description=phase, completed=done, figures=self.figures())

    def figures(self) -> str:
        """Return the last row's loss, Fréchet distance and ε, as far as there are any."""
        return figures(self._rows[-1]) if self._rows else ""

    def failures(self) -> str:
        """Return a line on the clients that failed in this history, empty if none did."""
        rounds = Counter(client for row in self._rows for client in row.get("failures") or {})
        trained = sum(row["round"] > 0 for row in self._rows)
        if not rounds:
            return ""
        last = {c: why for row in self._rows for c, why in (row.get("failures") or {}).items()}
        each = (
            f"client {client} in {count} of {trained} rounds ({last[client]})"
            for client, count in sorted(rounds.items(), key=lambda item: (-item[1], int(item[0])))
        )
        return f"failed: {', '.join(each)}"

    def _news(self, row: Row) -> list[str]:
        """Return a line for each client that fails now and did not, or otherwise, just before."""
        before, self._failing = self._failing, dict(row.get("failures") or {})
        return [
            f"round {row['round']}: client {client} failed: {why}"
            for client, why in self._failing.items()
            if before.get(client) != why
        ]

    def _new_rows(self) -> list[Row]:
        if not self._history.exists():
            return []
        now = self._history.stat()
        # A resumed run may cut rows off and write others: read all whenever anything changed.
        if self._seen == (now.st_size, now.st_mtime):
            return []
        self._seen = (now.st_size, now.st_mtime)
        known = {row["round"] for row in self._rows}
        self._rows = read_rows(self._history)
        return [row for row in self._rows if row["round"] not in known]


def figures(row: Row) -> str:
    """Return a row's loss, Fréchet distance and ε, as far as there are any, and who is missing."""
    names = {"loss": "loss", "frechet_ema": "Fréchet EMA", "epsilon": "ε"}
    parts = [f"{label} {row[key]:.4g}" for key, label in names.items() if row.get(key) is not None]
    if row.get("clients_failed"):
        parts.append(f"{row['clients_replied']} of {row['clients_asked']} clients")
    return "  ".join(parts)
