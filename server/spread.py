"""Which number of a coverage vector belongs to which coordinate, for compiled loops."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from common.submodel import Layout, Parameter


class Spread(NamedTuple):
    """Numbers for coordinates that are covered alike, and where they belong.

    Attributes:
        numbers: Those of all parameters, one after another.
        table: For each parameter its first coordinate, the one after its last, its first number,
            how many numbers it has, and how many neighbouring coordinates share one. Where its
            numbers are used up, they begin again.
    """

    numbers: Float64[np.ndarray, "numbers"]
    table: Int64[np.ndarray, "parameters 5"]


def spread_out(layout: Layout, parts: Sequence[Float64[np.ndarray, "_"]]) -> Spread:
    """Return where numbers belong in a model.

    Args:
        layout: The model's table.
        parts: For each parameter its part of a coverage vector, or the beginning of it that is
            repeated along the first dimension.

    Raises:
        ValueError: A dimension without channels lies between two that have some.
    """
    starts = accumulate((part.size for part in parts), initial=0)
    rows = [
        (p.span.start, p.span.stop, start, part.size, _group(p))
        for p, start, part in zip(layout.parameters, starts, parts, strict=False)
    ]
    return Spread(np.concatenate(parts), np.array(rows))


def _group(parameter: Parameter) -> int:
    """Return how many neighbouring coordinates are always covered alike."""
    inner = list(zip(parameter.shape, parameter.coverage_shape, strict=True))[1:]
    group = 1
    while inner and inner[-1][1] == 1:
        group *= inner.pop()[0]
    if any(size != coverage for size, coverage in inner):
        raise ValueError(f"{parameter.name}: dimensions without channels must come first or last")
    return group
