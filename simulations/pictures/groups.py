"""Runs that belong together: the same but for the seed; what tells groups apart; who compares."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from server.record.about import read_kept
from server.record.history import widest_trained
from simulations.archive.courses import course
from simulations.archive.record import RunRecord

NOT_WHAT_IS_RUN = ("name", "run-dir", "seed")
MOST_KEYS = 2
"""Keys in a label; runs that differ in more are told apart by their names."""


@dataclass(frozen=True)
class Curve:
    """Numbers over rounds of runs that belong together, where all of them have one.

    Attributes:
        x: How far the runs had come, on average.
        mean: The numbers' mean.
        low: The least.
        high: The largest.
    """

    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class Group:
    """Runs that are the same but for the seed.

    Attributes:
        label: What tells them from other groups.
        runs: At least one.
    """

    label: str
    runs: Sequence[RunRecord]

    @property
    def title(self) -> str:
        """The label, with the number of seeds where there are several."""
        return f"{self.label} ({len(self.runs)} seeds)" if len(self.runs) > 1 else self.label

    def curve(self, against: str, values: Callable[[RunRecord], Mapping[int, float]]) -> Curve:
        """Return the mean and range of something that each run has by round.

        Args:
            against: A key of `AGAINST`.
            values: What a run has.
        """
        by_run = [values(run) for run in self.runs]
        courses = [course(run, against) for run in self.runs]
        rounds = sorted(set.intersection(*(set(each) for each in by_run)))
        at = [[each[round] for each in by_run] for round in rounds]
        x = [statistics.fmean(each[round] for each in courses) for round in rounds]
        return Curve(x, *([pick(v) for v in at] for pick in (statistics.fmean, min, max)))

    def widths(self) -> list[Fraction]:
        """Return the widths that every run has been judged at, the product first.

        That is the width whose least distances, whenever they were, are least on average.
        """
        by_run = [distances(run) for run in self.runs]
        shared = set.intersection(*(set(each) for each in by_run))
        least = {
            rate: statistics.fmean(min(each[rate].values()) for each in by_run) for rate in shared
        }
        return sorted(least, key=lambda rate: (least[rate], -rate))


def grouped(runs: Sequence[RunRecord], labels: Mapping[str, str] | None = None) -> list[Group]:
    """Return runs by all of their configuration but the seed, in the order of the first of each.

    Args:
        runs: Runs.
        labels: What to call some, by the name of their directory.
    """
    together: dict[tuple[Any, ...], list[RunRecord]] = {}
    for run in runs:
        together.setdefault(tuple(_compared(run).items()), []).append(run)
    found = [(dict(key), members) for key, members in together.items()]
    differing = [
        key for key in found[0][0] if len({each[key] for each, _ in found}) > 1
    ] if found else []  # fmt: skip
    groups = []
    for keys, members in found:
        given = (labels or {}).get(members[0].name)
        said = ", ".join(f"{key} {keys[key]}" for key in differing)
        named = not differing or len(differing) > MOST_KEYS
        groups.append(Group(given or (_stem(members) if named else said), members))
    return groups


def distances(run: RunRecord) -> dict[Fraction, dict[int, float]]:
    """Return by width the Fréchet distance of averaged weights after each round that has one.

    Widths that no client has trained are left out, unless none has been. Histories of earlier
    versions know the full width only, of the others there is what the summary says of the end.
    """
    found: dict[Fraction, dict[int, float]] = {}
    for row in run.rows:
        for rate, value in (row.get("frechet_by_width") or {"1": row.get("frechet_ema")}).items():
            if value is not None:
                found.setdefault(Fraction(rate), {})[row["round"]] = value
    for rate, judged in run.summary.get("widths", {}).items():
        value = judged.get("frechet_ema")
        if value is not None:
            found.setdefault(Fraction(rate), {}).setdefault(run.rows[-1]["round"], value)
    widest = widest_trained(run.rows)
    return {rate: each for rate, each in found.items() if rate <= widest} or found


def incomparable(runs: Sequence[RunRecord]) -> str:
    """Say in one line why distances of runs cannot be compared, nothing if they can."""
    reasons = []
    for what, of in _JUDGED.items():
        values = sorted({str(of(run)) for run in runs})
        if len(values) > 1:
            reasons.append(f"other {what} ({', '.join(values)})")
    return f"distances cannot be compared: {'; '.join(reasons)}" if reasons else ""


def _network(run: RunRecord) -> str:
    kept = read_kept(run.path)
    digest = run.summary.get("classifier") or (kept.scores.get("digest") if kept else None)
    return f"{run.config.evaluation.features.partition(':')[0]} {str(digest or '')[:8]}".strip()


def _data(run: RunRecord) -> str:
    return " ".join(filter(None, (run.config.data, run.config.image_shape)))


_JUDGED: dict[str, Callable[[RunRecord], Any]] = {
    "data": _data,
    "features": _network,
    "sample counts": lambda run: run.config.evaluation.samples,
}


def _compared(run: RunRecord) -> dict[str, Any]:
    flat = run.config.to_flat()
    return {key: value for key, value in flat.items() if key not in NOT_WHAT_IS_RUN}


def _stem(runs: Sequence[RunRecord]) -> str:
    """Return the first run's name, without the seed that a sweep puts at its end."""
    return re.sub(r"_seed-\d+$", "", runs[0].name) if len(runs) > 1 else runs[0].name
