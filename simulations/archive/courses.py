"""How far a run had come at each round: in rounds, images, seconds, bytes, operations and ε."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import accumulate
from typing import Any

from server.record.history import Row
from simulations.archive.record import RunRecord
from simulations.archive.work import step_flops

MIB = 2.0**20

AGAINST = {
    "rounds": "round",
    "images": "images trained on by all clients",
    "seconds": "seconds of training and averaging",
    "bytes": "MiB sent and received by all clients",
    "flops": "TFLOP of all clients",
    "epsilon": "ε",
}
"""What a course can be counted in, and how an axis is then labelled."""


def course(run: RunRecord, against: str) -> dict[int, float]:
    """Return by round how far the run had come after it, in the unit that `AGAINST` names.

    What a history does not say, as that of a run with differential privacy does not tell what
    clients sent, is NaN from there on.
    """
    if against in _STANDS:
        values = [row.get(_STANDS[against]) for row in run.rows]
        known = (math.nan if value is None else float(value) for value in values)
        return dict(zip((row["round"] for row in run.rows), known, strict=True))
    each = _EACH[against]
    totals = accumulate(each(run, row) for row in run.rows)
    return dict(zip((row["round"] for row in run.rows), totals, strict=True))


def _images(run: RunRecord, row: Row) -> float:
    config = run.config
    return config.batch_size * math.fsum(steps for _, steps in _trained(run, row))


def _flops(run: RunRecord, row: Row) -> float:
    shape = run.setting.image_shape
    trained = _trained(run, row)
    return math.fsum(n * step_flops(run.config, shape, rate) for rate, n in trained) / 1e12


def _trained(run: RunRecord, row: Row) -> list[tuple[Fraction, float]]:
    """Return the rate of every client whose update was taken in, and its local steps."""
    if row["round"] and not row.get("by_client") and run.config.privacy.on:
        return [(Fraction(1), math.nan)]
    return [
        (Fraction(did["rate"]), float(did.get("steps") or run.config.local_steps))
        for did in row.get("by_client", {}).values()
        if did.get("loss") is not None
    ]


def _sum(*keys: str, unit: float = 1.0) -> Callable[[RunRecord, Mapping[str, Any]], float]:
    def total(run: RunRecord, row: Mapping[str, Any]) -> float:
        # Nothing is sent before the first round; later a null is something not told.
        missing = math.nan if row["round"] else 0.0
        values = (row.get(key) for key in keys)
        return math.fsum(missing if value is None else value for value in values) / unit

    return total


_STANDS = {"rounds": "round", "epsilon": "epsilon"}
"""Columns that say how far a run had come; what the others say of a round adds up."""

_EACH: dict[str, Callable[[RunRecord, Row], float]] = {
    "images": _images,
    "seconds": _sum("seconds_train", "seconds_aggregate"),
    "bytes": _sum("bytes_up", "bytes_down", unit=MIB),
    "flops": _flops,
}
