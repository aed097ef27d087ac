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
