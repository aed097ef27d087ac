"""Submodels as rows of runs of neighbouring coordinates, whatever their kind."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from common.submodel import Submodel


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
    cutouts = [submodel.cutout(parameter) for parameter in submodel.layout.parameters]
    tables = [cutout.runs for cutout in cutouts]
    rows = np.empty((sum(len(starts) for starts, _ in tables), 4), np.int64)
    row = run = 0
    for parameter, (starts, runs) in zip(submodel.layout.parameters, tables, strict=True):
        span = submodel.spans[parameter.name]
        here = rows[row : row + len(starts)]
        here[:, 0] = starts
        here[:, 0] += parameter.offset
        # A parameter that keeps nothing has one row without runs.
        kept = (span.stop - span.start) // len(starts)
        here[:, 1] = np.arange(span.start, span.start + kept * len(starts), kept) if kept else 0
        here[:, 2:] = run, run + len(runs)
        row, run = row + len(starts), run + len(runs)
    return Runs(rows, np.concatenate([runs for _, runs in tables]))
