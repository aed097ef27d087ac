"""Averages that a few bad clients cannot move: the trimmed mean and the median, coverage-aware.

Of the values that clients trained for a coordinate, the largest and the smallest are left out
before the rest is averaged (Yin et al. 2018, definitions 1 and 2). How many values there are
differs from coordinate to coordinate, and so does how many are left out. As in the plain average, a
coordinate that nobody covers keeps its value bit for bit, and the order of replies is of no
account. Order statistics need all values at once: memory is that of all updates of a round.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64
from numpy.typing import NDArray

from common.submodels import Layout, Submodel
from server.aggregation.fold import Aggregate, check_values
from server.aggregation.mean import CoverageFold
from server.coverage import Coverage
from server.loops import MAGIC, TILE, Runs, place, read_only, runs_of

MEDIAN = 0.5
"""The share to trim that leaves the middle value, or the middle two."""


@dataclass(frozen=True)
class _Update:
    values: NDArray[np.float32]
    mask: bytes
    share: float
    images: int

    @property
    def order(self) -> tuple[bytes, float, int, bytes]:
        """What to sort by, so that equal values are met in the same order in any run."""
        digest = hashlib.sha256(self.values.tobytes()).digest()
        return self.mask, self.share, self.images, digest


class RobustFold:
    """Collects one round's replies and takes their trimmed mean; used as `CoverageFold` is.

    Args:
        layout: The model's table.
        total_weight: The sum of the weights of all clients asked.
        trim: The share of a coordinate's values to leave out at each end, in [0, 0.5); `MEDIAN`
            leaves the middle and weighs all clients alike. A client of weight 0 is left out.

    Raises:
        ValueError: The total weight is not a positive finite number.
    """

    def __init__(self, layout: Layout, total_weight: float, trim: float) -> None:
        if not (np.isfinite(total_weight) and total_weight > 0):
            raise ValueError(f"the clients' weights must sum to a positive number: {total_weight}")
        self.layout = layout
        self.total_weight = total_weight
        self.trim = trim
        self._updates: list[_Update] = []
        self._runs: dict[bytes, Runs] = {}

    def add(
        self, values: Float32[np.ndarray, "kept"], submodel: Submodel, weight: float, images: int
    ) -> None:
        """Keep one client's trained weights.

        Args:
            values: The kept coordinates in the layout's order; not copied, so leave them be.
            submodel: What the server assigned to this client.
            weight: The client's share w_n, 0 or greater and part of `total_weight`.
            images: Images that the client trained on.

        Raises:
            ValueError: As `CoverageFold.add`.
        """
        check_values(values, submodel)
        share = weight / self.total_weight
        if not 0 <= share <= 1:
            raise ValueError(f"weight {weight} is not within 0 … {self.total_weight}")
        share = (share + MAGIC) - MAGIC
        mask = submodel.bitmask()
        if mask not in self._runs:
            self._runs[mask] = runs_of(submodel)
        self._updates.append(_Update(read_only(values), mask, share, images))

    def finish(self, theta: Float32[np.ndarray, "P"]) -> Aggregate:
        """Return the trimmed mean where somebody trained and `theta` everywhere else."""
        updates = sorted(self._updates, key=lambda update: update.order)
        totals = np.array([(u.share, 1, u.images) for u in updates], dtype=np.float64)
        masks = [update.mask for update in updates]
        coverage = Coverage(self.layout, masks, totals.reshape(len(updates), 3))
        new = theta.copy()
        heard = [update for update in updates if update.share > 0]
        if heard:
            self._average(heard, new)
        return Aggregate(new, coverage)

    def _average(self, updates: list[_Update], new: Float32[np.ndarray, "P"]) -> None:
        """Replace values, in tiles, wherever somebody trained them."""
        shares = np.array([update.share for update in updates])
        if self.trim == MEDIAN:
            shares[:] = (1 / len(updates) + MAGIC) - MAGIC
        size = max(1, 4 * TILE // len(updates))
        for first in range(0, new.size, size):
            tile = new[first : first + size]
            values = np.full((len(updates), tile.size), np.nan, np.float32)
            for update, row in zip(updates, values, strict=True):
                place(row, first, update.values, *self._runs[update.mask])
            mean, covered = trimmed_mean(values, shares, self.trim)
            np.copyto(tile, mean, where=covered, casting="same_kind")


def trimmed_mean(
    values: Float32[np.ndarray, "n size"], shares: NDArray[np.float64], trim: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the mean of each column without its extremes, and which columns have one.

    Args:
        values: A row for each client, NaN where it has none; rows in an order that does not depend
            on when they arrived.
        shares: The clients' weights, positive, summing to 1 at most.
        trim: The share of a column's values to leave out at each end.
    """
    order = np.argsort(values, axis=0, kind="stable")  # NaN comes last
    present = len(values) - np.isnan(values).sum(axis=0)
    # A hair more, so that a share such as 0.29 of 100 is what it says; at least one value is left.
    drop = np.minimum((trim * present + 1e-9).astype(np.int64), np.maximum(present - 1, 0) // 2)
    rank: Int64[np.ndarray, "n 1"] = np.arange(len(values))[:, None]
    left = (rank >= drop) & (rank < present - drop)
    weights = np.where(left, shares[order], 0.0)
    terms = np.where(left, np.take_along_axis(values, order, axis=0), 0.0) * weights
    # Rounded as in the plain average: the sum is exact, and without trimming its result the same.
    terms += MAGIC
    terms -= MAGIC
    total = weights.sum(axis=0)
    factors = np.divide(1.0, total, out=np.zeros(total.size), where=total > 0)
    return terms.sum(axis=0) * factors, total > 0


def fold_for(
    layout: Layout, total_weight: float, aggregation: str, trim: float
) -> CoverageFold | RobustFold:
    """Return what averages a round's replies as the configuration says."""
    if aggregation == "mean":
        return CoverageFold(layout, total_weight)
    return RobustFold(layout, total_weight, MEDIAN if aggregation == "median" else trim)
