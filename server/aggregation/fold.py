"""What every average of a round's replies has in common: checks, and sums of who trained what."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64
from numpy.typing import NDArray

from common.submodels import Layout, Submodel
from server.coverage import Coverage
from server.loops import MAGIC, below, each_tile, read_only

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


class Fold(ABC):
    """Takes in one round's replies, in any order, and returns their average.

    Args:
        layout: The model's table.
        total_weight: The sum of the weights of all clients asked. Weights are divided by it, which
            bounds every sum by the largest single value.

    Raises:
        ValueError: The total weight is not a positive finite number.
    """

    def __init__(self, layout: Layout, total_weight: float) -> None:
        if not (np.isfinite(total_weight) and total_weight > 0):
            raise ValueError(f"the clients' weights must sum to a positive number: {total_weight}")
        self.layout = layout
        self.total_weight = total_weight
        self._totals: dict[bytes, NDArray[np.float64]] = {}

    def add(
        self, values: Float32[np.ndarray, "kept"], submodel: Submodel, weight: float, images: int
    ) -> None:
        """Take one client's trained weights in.

        Args:
            values: The kept coordinates in the layout's order; not copied, so leave them be.
            submodel: What the server assigned to this client.
            weight: The client's share w_n, 0 or greater and part of `total_weight`.
            images: Images that the client trained on.

        Raises:
            ValueError: A value is not finite or is `MAX_ABS` or more, the length is wrong, or the
                weight is negative; nothing has been taken in then.
        """
        check_values(values, submodel)
        share = weight / self.total_weight
        if not 0 <= share <= 1:
            raise ValueError(f"weight {weight} is not within 0 … {self.total_weight}")
        share = (share + MAGIC) - MAGIC
        mask = submodel.bitmask()
        total = self._totals.setdefault(mask, np.zeros(3))
        total += (share, 1, images)
        self._take(read_only(values), submodel, mask, share)

    def finish(self, theta: Float32[np.ndarray, "P"]) -> Aggregate:
        """Return the average where there is one and `theta` everywhere else.

        Raises:
            ValueError: `theta` is not a vector of this model's.
        """
        if theta.shape != (self.layout.size,):
            raise ValueError(f"weights of shape {theta.shape} for {self.layout.size} coordinates")
        coverage = self._coverage()
        return Aggregate(self._average(read_only(theta), coverage), coverage)

    @property
    def counts(self) -> Int64[np.ndarray, "coverage"]:
        """Clients so far that trained each coordinate, as a coverage vector."""
        return self._coverage().vector(CLIENTS)

    def _coverage(self) -> Coverage:
        totals = np.array(list(self._totals.values())).reshape(-1, 3)
        return Coverage(self.layout, list(self._totals), totals)

    @abstractmethod
    def _take(
        self, values: NDArray[np.float32], submodel: Submodel, mask: bytes, share: float
    ) -> None:
        """Take in what has passed the checks, at its share rounded to a multiple of 2^-42."""

    @abstractmethod
    def _average(
        self, theta: Float32[np.ndarray, "P"], coverage: Coverage
    ) -> Float32[np.ndarray, "P"]:
        """Return the new weights."""


def check_values(values: NDArray[np.float32], submodel: Submodel) -> None:
    """Raise ValueError unless these could be a submodel's trained weights."""
    if values.dtype != np.float32 or values.shape != (submodel.size,):
        raise ValueError(
            f"expected {submodel.size} float32 values, got {values.dtype} of shape {values.shape}"
        )
    values = read_only(values)
    if not all(each_tile(values.size, lambda tile: below(values[tile], MAX_ABS))):
        raise ValueError(f"values are not finite or reach {MAX_ABS:g}: the client diverged")
