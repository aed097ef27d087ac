"""What the runs of a sweep come to: a row for each combination, mean and spread over seeds."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import UserError
from server.record.history import best_round, columns
from simulations.archive.courses import AGAINST, course
from simulations.archive.record import RunRecord
from simulations.sweep.plan import SEED, Plan

USUAL = ("frechet_ema", "summary.frechet_ema", "held_out_loss", "bytes")
"""The columns of a summary whose file names none."""

SUMMARY = "summary."
PLACES = ("last", "best")
"""A history's columns are taken at its last round, and at the round that sampled best."""

Numbers = tuple[float, ...]
"""One by seed, NaN where a run does not have it."""


@dataclass(frozen=True)
class Line:
    """A combination of everything but the seed.

    Attributes:
        labels: By axis, where it stands.
        runs: Runs that are finished.
        planned: Runs there are to be.
        cells: By column and place the numbers of the finished runs; a summary's have one place.
    """

    labels: Mapping[str, str]
    runs: int
    planned: int
    cells: Mapping[tuple[str, str], Numbers]


def check_columns(names: Sequence[str]) -> None:
    """Refuse a column that no run can have.

    Raises:
        UserError: It is neither of the history, nor a course, nor of the summary.
    """
    for name in names:
        first = name.split(".")[0]
        if first not in columns() and name not in AGAINST and not name.startswith(SUMMARY):
            raise UserError(
                f"columns: '{name}' is neither a column of the history (docs/history.md) nor one "
                f"of {', '.join(AGAINST)}, nor does it begin with {SUMMARY}"
            )


def lines_of(plan: Plan, runs: Mapping[str, RunRecord]) -> list[Line]:
    """Return the summary's rows.

    Args:
        plan: The sweep's.
        runs: The finished runs by name.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for run in plan.runs:
        labels = tuple(label for axis, label in run.labels.items() if axis != SEED)
        groups.setdefault(labels, []).append(run.name)
    axes = [axis for axis in plan.axes if axis != SEED]
    wanted = plan.columns or USUAL
    return [
        Line(
            dict(zip(axes, labels, strict=True)),
            sum(name in runs for name in names),
            len(names),
            _cells(wanted, [runs[name] for name in names if name in runs]),
        )
        for labels, names in groups.items()
    ]


def as_markdown(lines: Sequence[Line]) -> str:
    """Return the rows as a table for people: mean ± standard deviation over seeds."""
    places = _places(lines)
    axes = list(lines[0].labels)
    heads = [*axes, *(_head(*place) for place in places), "runs"]
    rows = [heads, ["---"] * len(heads)]
    for line in lines:
        cells = [_spread(line.cells[place]) for place in places]
        count = f"{line.runs}" if line.runs == line.planned else f"{line.runs} of {line.planned}"
        rows.append([*line.labels.values(), *cells, count])
    return "\n".join(f"| {' | '.join(each)} |" for each in rows) + "\n"


def as_csv(lines: Sequence[Line]) -> str:
    """Return the rows as CSV, with mean and spread in columns of their own."""
    places = _places(lines)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = [f"{_head(*place)} {what}" for place in places for what in ("mean", "spread")]
    writer.writerow([*lines[0].labels, "runs", *heads])
    for line in lines:
        cells = [value for place in places for value in _mean_and_spread(line.cells[place])]
        texts = ["" if math.isnan(value) else f"{value:.10g}" for value in cells]
        writer.writerow([*line.labels.values(), line.runs, *texts])
    return out.getvalue()


def _cells(wanted: Sequence[str], runs: Sequence[RunRecord]) -> dict[tuple[str, str], Numbers]:
    cells = {}
    for column in wanted:
        if column.startswith(SUMMARY):
            path = column.removeprefix(SUMMARY)
            cells[column, ""] = tuple(_number(run.summary, path) for run in runs)
            continue
        for place in PLACES:
            cells[column, place] = tuple(_at(run, column, place) for run in runs)
    return cells


def _at(run: RunRecord, column: str, place: str) -> float:
    round = run.rows[-1]["round"] if place == "last" else best_round(run.rows)
    if round is None:
        return math.nan
    if column in AGAINST:
        return course(run, column)[round]
    return next(_number(row, column) for row in run.rows if row["round"] == round)


def _number(tree: Any, path: str) -> float:
    """Return what stands in nested tables under a dotted path, NaN if it is not a number."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return float(tree) if isinstance(tree, int | float) else math.nan


def _places(lines: Sequence[Line]) -> list[tuple[str, str]]:
    return list(lines[0].cells)


def _head(column: str, place: str) -> str:
    return f"{column} {place}".strip()


def _mean_and_spread(values: Numbers) -> Iterator[float]:
    known = [value for value in values if not math.isnan(value)]
    yield statistics.mean(known) if known else math.nan
    yield statistics.stdev(known) if len(known) > 1 else math.nan


def _spread(values: Numbers) -> str:
    mean, spread = _mean_and_spread(values)
    if math.isnan(mean):
        return ""
    if math.isnan(spread) or spread == 0:
        return f"{mean:.4g}" if math.isnan(spread) else f"{mean:.4g} ± 0"
    decimals = max(0, 1 - math.floor(math.log10(spread)))
    return f"{mean:.{decimals}f} ± {spread:.{decimals}f}"
