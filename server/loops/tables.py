"""Tables that tell compiled loops which coordinates a submodel keeps, and each one's factor."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from common.submodels import Layout, Parameter, Submodel


class Factors(NamedTuple):
    """A number for every coordinate: one for all that are always covered alike.

    Attributes:
        numbers: Those of all parameters, one after another.
        table: For each parameter its first coordinate, the one after its last, its first number,
            how many numbers it has, and how many neighbouring coordinates share one. Where its
            numbers are used up, they begin again.
    """

    numbers: Float64[np.ndarray, "numbers"]
    table: Int64[np.ndarray, "parameters 5"]


def factors_of(layout: Layout, parts: Sequence[Float64[np.ndarray, "_"]]) -> Factors:
    """Return the numbers of a model's coordinates.

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
    return Factors(np.concatenate(parts), np.array(rows))


def _group(parameter: Parameter) -> int:
    """Return how many neighbouring coordinates are always covered alike."""
    inner = list(zip(parameter.shape, parameter.coverage_shape, strict=True))[1:]
    group = 1
    while inner and inner[-1][1] == 1:
        group *= inner.pop()[0]
    if any(size != coverage for size, coverage in inner):
        raise ValueError(f"{parameter.name}: dimensions without channels must come first or last")
    return group


class Runs(NamedTuple):
    """Where the kept coordinates of a submodel lie in the whole model.

    Rows of a tensor that keep the same places share their runs, so the table is small.

    Attributes:
        rows: For each row its first coordinate, where its values start in the vector of kept
            coordinates, its first run, and the run after its last. First coordinates ascend.
        runs: For each run its start within the row, its length, and how many values of the row
            come before it. Starts ascend within a row.
    """

    rows: Int64[np.ndarray, "rows 4"]
    runs: Int64[np.ndarray, "runs 3"]


def runs_of(submodel: Submodel) -> Runs:
    """Return the runs of a submodel."""
    parameters = submodel.layout.parameters
    tables = [submodel.cutout(parameter).runs for parameter in parameters]
    count = np.array([len(starts) for starts, _ in tables])  # rows of each parameter
    length = np.array([len(runs) for _, runs in tables])
    kept = [submodel.spans[parameter.name] for parameter in parameters]
    size = np.array([span.stop - span.start for span in kept]) // count
    rows = np.empty((count.sum(), 4), np.int64)
    rows[:, 0] = np.concatenate([starts for starts, _ in tables])
    rows[:, 0] += np.repeat([parameter.offset for parameter in parameters], count)
    rows[:, 1] = np.repeat(size, count).cumsum() - np.repeat(size, count)
    rows[:, 3] = np.repeat(length.cumsum(), count)
    rows[:, 2] = rows[:, 3] - np.repeat(length, count)
    return Runs(rows, np.concatenate([runs for _, runs in tables]))
