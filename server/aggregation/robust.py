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
from jaxtyping import Float32, Int64, UInt8
from numpy.typing import NDArray

from common.config import RunConfig
from common.submodels import Layout, Submodel, scatter
from server.aggregation.fold import Fold
from server.aggregation.mean import CoverageFold
from server.coverage import Coverage
from server.loops import MAGIC, TILE, tiles_of

MEDIAN = 0.5
"""The share to trim that leaves the middle value, or the middle two."""


@dataclass(frozen=True)
class _Update:
    values: NDArray[np.float32]
    mask: bytes
    share: float
    kept: UInt8[np.ndarray, "bits"]

    @property
    def order(self) -> tuple[bytes, float, bytes]:
        """What to sort by, so that equal values are met in the same order in any run."""
        return self.mask, self.share, hashlib.sha256(self.values.tobytes()).digest()


class RobustFold(Fold):
    """Collects one round's replies and takes their trimmed mean.

    Args:
        layout: The model's table.
        total_weight: The sum of the weights of all clients asked.
        trim: The share of a coordinate's values to leave out at each end, in [0, 0.5); `MEDIAN`
            leaves the middle and weighs all clients alike. A client of weight 0 is left out.

    Raises:
        ValueError: The total weight is not a positive finite number.
    """

    def __init__(self, layout: Layout, total_weight: float, trim: float) -> None:
        super().__init__(layout, total_weight)
        self.trim = trim
        self._updates: list[_Update] = []

    def _take(
        self, values: NDArray[np.float32], submodel: Submodel, mask: bytes, share: float
    ) -> None:
        if share > 0:
            whole = np.zeros(self.layout.size, np.float32)
            scatter(np.ones_like(values), submodel, whole)
            self._updates.append(_Update(values, mask, share, np.packbits(whole > 0)))

    def _average(
        self, theta: Float32[np.ndarray, "P"], coverage: Coverage
    ) -> Float32[np.ndarray, "P"]:
        """Replace values, in tiles, wherever somebody trained them."""
        new = theta.copy()
        if not self._updates:
            return new
        updates = sorted(self._updates, key=lambda update: update.order)
        shares = np.array([update.share for update in updates])
        if self.trim == MEDIAN:
            shares[:] = (1 / len(updates) + MAGIC) - MAGIC
        rest = [update.values for update in updates]
        for part in tiles_of(new.size, max(8, 4 * TILE // len(updates) // 8 * 8)):
            tile = new[part]
            values = np.full((len(updates), tile.size), np.nan, np.float32)
            for i, update in enumerate(updates):
                kept = np.unpackbits(update.kept[part.start // 8 :], count=tile.size).astype(bool)
                here = int(kept.sum())
                values[i, kept], rest[i] = rest[i][:here], rest[i][here:]
            mean, covered = trimmed_mean(values, shares, self.trim)
            np.copyto(tile, mean, where=covered, casting="same_kind")
        return new


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


def fold_for(layout: Layout, total_weight: float, config: RunConfig) -> Fold:
    """Return what averages a round's replies as the configuration says."""
    if config.aggregation == "mean":
        return CoverageFold(layout, total_weight, config.reply_memory)
    return RobustFold(
        layout, total_weight, MEDIAN if config.aggregation == "median" else config.trim
    )
