"""What a round's replies amount to, and what every reply is held to."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64
from numpy.typing import NDArray

from common.submodels import Submodel
from server.coverage import Coverage
from server.loops import beyond, each_part, read_only

MAX_ABS = 1024.0
"""Weights of this size or more are refused: sums would not be exact, and the client diverged."""


SHARES, CLIENTS, IMAGES = range(3)
"""What is summed up over those who trained a coordinate."""


@dataclass(frozen=True)
class Aggregate:
    """What a round's replies amount to.

    Attributes:
        theta: The new global weights.
        coverage: Who trained what: sums of `SHARES`, `CLIENTS` and `IMAGES`.
    """

    theta: Float32[np.ndarray, "P"]
    coverage: Coverage

    @property
    def counts(self) -> Int64[np.ndarray, "coverage"]:
        """Clients that trained each coordinate, as a coverage vector."""
        return self.coverage.vector(CLIENTS)

    @property
    def images(self) -> Int64[np.ndarray, "coverage"]:
        """Images that trained each coordinate, as a coverage vector."""
        return self.coverage.vector(IMAGES)


def check_values(values: NDArray[np.float32], submodel: Submodel) -> None:
    """Raise ValueError unless these could be a submodel's trained weights."""
    if values.dtype != np.float32 or values.shape != (submodel.size,):
        raise ValueError(
            f"expected {submodel.size} float32 values, got {values.dtype} of shape {values.shape}"
        )
    values, bad = read_only(values), []
    each_part(values.size, lambda part: bad.append(beyond(values[part], MAX_ABS)))
    if any(bad):
        raise ValueError(f"values are not finite or reach {MAX_ABS:g}: the client diverged")
