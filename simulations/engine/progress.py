"""What a user sees of a run while it goes on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.live import Live

from server.record.history import Row, read_rows
from simulations.engine.view import read_status, render

PAUSE = 0.5
"""Seconds between two pictures in which nothing is new but times."""


class Progress:
    """Shows a run's directory as it grows: a live view on a terminal, else a line per round.

    Args:
        history: The run's `history.jsonl`.
        rounds: Rounds there are to be.
        console: Where to.
        quiet: Say nothing.
        on_rows: Called with the rows that are new.
    """

    def __init__(
        self,
        history: Path,
        rounds: int,
        console: Console,
        quiet: bool = False,
        on_rows: Callable[[list[Row]], None] | None = None,
    ) -> None:
        self._history = history
        self._rounds = rounds
        self._console = console
        self._quiet = quiet
        self._on_rows = on_rows or (lambda rows: None)
        self._seen = (0, 0.0)
        self._rows = read_rows(history)  # not empty where a run is resumed
        self._failing: dict[str, str] = {}
        self._phase, self._drawn = "starting", 0.0
        shown = console.is_terminal and not quiet
        # Drawn when asked to: a thread of its own would read files that nobody waits for.
        self._live = Live(console=console, auto_refresh=False) if shown else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
            self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._draw()
            self._live.stop()

    def update(self, phase: str) -> None:
        """Show `phase` and what is new in the history."""
        new, self._phase = self._new_rows(), phase
        for row in new if not self._quiet else ():
            if not self._console.is_terminal:
                self._console.print(f"round {row['round']}  {figures(row)}", highlight=False)
            for line in self._news(row):
                self._console.print(line, highlight=False, markup=False)
        if new:
            self._on_rows(new)
        if new or time.monotonic() > self._drawn + PAUSE:
            self._draw()

    def _draw(self) -> None:
        if self._live:
            self._drawn = time.monotonic()
            folder = self._history.parent
            status = read_status(folder, self._phase, self._rounds, self._rows)
            self._live.update(render(status), refresh=True)

    @property
    def rows(self) -> list[Row]:
        """The rows so far."""
        return list(self._rows)

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
