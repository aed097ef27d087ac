"""A run on a terminal while it goes on: how far it is, its last rounds, who does what."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from common.files import show_bytes
from server.live import LIVE
from server.record.history import Row

LAST_ROUNDS = 6
MOST_CLIENTS = 16
"""Clients with a line of their own, those that fail first; the others are counted."""

RECENT = 5
"""Rounds by which the time left is judged."""

STYLES = {"training": "cyan", "judging": "cyan", "failed": "bold red", "absent": "dim"}


@dataclass(frozen=True)
class Status:
    """What is shown of a run.

    Attributes:
        name: The run's.
        phase: What goes on, such as "running".
        rounds: Rounds there are to be.
        rows: The history's rows so far.
        clients: By partition what `fleet.json` says of a client that takes part.
        live: What `live.json` says, by node; empty where there is none.
        now: Seconds since 1970.
    """

    name: str
    phase: str
    rounds: int
    rows: Sequence[Row]
    clients: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    live: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    now: float = 0.0


def read_status(run_dir: Path, phase: str, rounds: int, rows: Sequence[Row]) -> Status:
    """Return how a run stands, as far as its directory says."""
    fleet, live = _read(run_dir / "fleet.json"), _read(run_dir / LIVE)
    members = [each for each in fleet if "partition" in each] if isinstance(fleet, list) else []
    return Status(
        run_dir.resolve().name,
        phase,
        rounds,
        rows,
        {str(each["partition"]): each for each in members},
        live.get("clients", {}) if isinstance(live, dict) else {},
        time.time(),
    )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or being written by another program
        return None


def render(status: Status) -> RenderableType:
    """Return what is shown: a bar, the last rounds, the clients."""
    parts: list[RenderableType] = [_bar(status)]
    if status.rows:
        parts += ["", _rounds(status.rows[-LAST_ROUNDS:])]
    if status.clients:
        parts += ["", _clients(status)]
    return Group(*parts)


def seconds_left(rows: Sequence[Row], rounds: int) -> float:
    """Return about how long a run still takes, by its last rounds; NaN before the first.

    Clients train while the round before is being judged, so the longer of the two counts.
    """
    each = [
        max(row.get("seconds_train") or 0.0, row.get("seconds_evaluate") or 0.0)
        + (row.get("seconds_aggregate") or 0.0)
        for row in rows
        if row["round"]
    ]
    return (rounds - rows[-1]["round"]) * median(each[-RECENT:]) if each else math.nan


def _bar(status: Status) -> RenderableType:
    done = status.rows[-1]["round"] if status.rows else 0
    left = seconds_left(status.rows, status.rounds)
    line = Table.grid(padding=(0, 2))
    line.add_row(
        Text(status.name, "bold"),
        status.phase,
        ProgressBar(status.rounds, done, width=24),
        f"round {done} of {status.rounds}",
        "" if math.isnan(left) or not left else f"about {_duration(left)} left",
    )
    return line


def _rounds(rows: Sequence[Row]) -> RenderableType:
    widths = sorted({rate for row in rows for rate in _distances(row)}, reverse=True)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    heads = [
        "round",
        "loss",
        *(f"distance {rate}" for rate in widths),
        "uncovered",
        "never trained",
    ]
    for head in [*heads, "sent", "clients", "time"]:
        table.add_column(head, justify="right")
    if any(row.get("epsilon") is not None for row in rows):
        table.add_column("ε", justify="right")
    for row in rows:
        distances = _distances(row)
        sent = None if row.get("bytes_up") is None else row["bytes_up"] + row["bytes_down"]
        asked, replied = row.get("clients_asked"), row.get("clients_replied")
        seconds = (row.get("seconds_train") or 0.0) + (row.get("seconds_aggregate") or 0.0)
        cells = [
            str(row["round"]),
            _number(row.get("loss")),
            *(_number(distances.get(rate)) for rate in widths),
            _percent(row.get("uncovered_fraction")),
            _percent(row.get("never_covered_fraction")),
            "" if not sent else show_bytes(int(sent)),
            "" if not asked else f"{replied} of {asked}",
            "" if not seconds else _duration(seconds),
        ]
        table.add_row(
            *cells, *([_number(row["epsilon"])] if row.get("epsilon") is not None else [])
        )
    return table


def _clients(status: Status) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("client", "rate", "state", "loss", "failed"):
        table.add_column(head, justify="left" if head == "state" else "right")
    failures = Counter(who for row in status.rows for who in row.get("failures") or {})
    states = {who: _state(who, status) for who in status.clients}
    order = sorted(states, key=lambda who: (states[who][0] != "failed", -failures[who], int(who)))
    for who in order[:MOST_CLIENTS]:
        state, more = states[who]
        client = status.clients[who]
        losses = (
            row.get("by_client", {}).get(who, {}).get("loss") for row in reversed(status.rows)
        )
        loss = next((loss for loss in losses if loss is not None), None)
        count = f"{failures[who]} times" if failures[who] else ""
        name = f"{who} {client['device']}" if client.get("device") else who
        text = Text(f"{state}{more}", STYLES.get(state, ""))
        table.add_row(Text(name), str(client.get("rate", "")), text, _number(loss), count)
    if others := Counter(states[who][0] for who in order[MOST_CLIENTS:]):
        counted = ", ".join(f"{count} {state}" for state, count in others.most_common())
        table.add_row("…", "", f"and {others.total()} more: {counted}", "", "")
    return table


def _state(who: str, status: Status) -> tuple[str, str]:
    """Return a client's state, and what more there is to say of it.

    What the last complete round says of a client holds until it is at work again.
    """
    client = status.clients[who]
    now = status.live.get(str(client.get("node")), {})
    state, since = now.get("state"), now.get("since", status.now)
    if state in ("training", "judging", "answering"):
        return state, f" for {_duration(max(0.0, status.now - since))}"
    if state == "failed":
        return state, f": {now.get('why', '')}"
    why = (status.rows[-1].get("failures") or {}).get(who) if status.rows else None
    if why is not None:
        return "failed", f": {why}"
    return ("absent", "") if client.get("present") is False else ("waiting", "")


def _distances(row: Row) -> dict[Fraction, float]:
    """Return a row's distances by width, of those that are known."""
    by_width = row.get("frechet_by_width") or {"1": row.get("frechet_ema")}
    return dict(_known(by_width))


def _known(by_width: Mapping[str, Any]) -> Iterator[tuple[Fraction, float]]:
    for rate, value in by_width.items():
        if value is not None:
            yield Fraction(rate), value


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _duration(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {left:02d} s" if minutes else f"{left} s"
