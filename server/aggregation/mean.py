"""The coverage average: each coordinate is averaged over the clients that trained it.

    θ_i = Σ w_n θ_{n,i} / Σ w_n   over the clients n that were assigned coordinate i and replied,

and a coordinate that no such client has keeps its value bit for bit (Zhou et al. 2023, Algorithm 1,
with the uncovered case made explicit). Replies wait for each other, are added to sums and freed.

The result does not depend on the order of replies. Floating-point addition is not associative, so
every contribution is first rounded to a multiple of 2^-42; below 2^10, sums of such numbers are
exact in float64 in any order (pre-rounding, Demmel and Nguyen 2013).

Memory is what takes time here. So the work goes tile by tile: a tile's sums stay in cache while all
replies that wait are added to them. Tiles are shared out among threads.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from common.submodels import Layout, Submodel
from server.aggregation.fold import SHARES, Fold
from server.coverage import Coverage
from server.loops import AT_ONCE, Runs, add, each_tile, factors_of, runs_of, scale


@dataclass
class _Cohort:
    """Clients that were assigned one and the same submodel, and their replies that wait."""

    runs: Runs
    replies: list[NDArray[np.float32]] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def calls(self) -> Iterator[tuple]:
        """Yield what `add` is called with, some replies at a time."""
        for i in range(0, len(self.replies), AT_ONCE):
            replies, shares = self.replies[i : i + AT_ONCE], self.shares[i : i + AT_ONCE]
            none = AT_ONCE - len(replies)
            filled = (*replies, *replies[:1] * none), (*shares, *[0.0] * none)
            yield len(replies), *filled, *self.runs


class CoverageFold(Fold):
    """A running coverage average over one round's replies.

    Memory is that of the replies that wait and of the sums, two models, whatever the number of
    clients. While all replies wait there are no sums.

    Args:
        layout: The model's table.
        total_weight: The sum of the weights of all clients asked.
        waiting: How many coordinates may wait to be added together, as a multiple of the model's;
            the more, the faster.

    Raises:
        ValueError: The total weight is not a positive finite number.
    """

    def __init__(self, layout: Layout, total_weight: float, waiting: float = 4.0) -> None:
        super().__init__(layout, total_weight)
        self.waiting = waiting
        self._cohorts: dict[bytes, _Cohort] = {}
        self._size = 0
        self._sums: NDArray[np.float64] | None = None

    def _take(
        self, values: NDArray[np.float32], submodel: Submodel, mask: bytes, share: float
    ) -> None:
        if mask not in self._cohorts:
            self._cohorts[mask] = _Cohort(runs_of(submodel))
        self._cohorts[mask].replies.append(values)
        self._cohorts[mask].shares.append(share)
        self._size += values.size
        if self._size > self.waiting * self.layout.size:
            self._sum_up()

    def _sum_up(self) -> None:
        """Add what waits to the sums, and let go of it."""
        fresh, calls = self._sums is None, self._calls()
        sums = self._sums = np.empty(self.layout.size) if self._sums is None else self._sums

        def work(tile: slice) -> None:
            if fresh:
                sums[tile] = 0
            for call in calls:
                add(sums[tile], tile.start, *call)

        each_tile(sums.size, work)

    def _average(
        self, theta: Float32[np.ndarray, "P"], coverage: Coverage
    ) -> Float32[np.ndarray, "P"]:
        shares = [coverage.sums(p)[SHARES].ravel() for p in self.layout.parameters]
        factors = factors_of(
            self.layout,
            [np.divide(1.0, each, out=np.zeros(each.size), where=each > 0) for each in shares],
        )
        if self._sums is not None:  # so that what waits is let go of before there are new weights
            self._sum_up()
        sums, self._sums = self._sums, None
        calls, new = self._calls(), np.empty_like(theta)

        def work(tile: slice) -> None:
            part = np.zeros(tile.stop - tile.start) if sums is None else sums[tile]
            for call in calls:
                add(part, tile.start, *call)
            scale(part, tile.start, *factors, theta[tile], new[tile])

        each_tile(new.size, work)
        return new

    def _calls(self) -> list[tuple]:
        """Take what waits, as arguments of `add`."""
        calls = [call for cohort in self._cohorts.values() for call in cohort.calls()]
        self._cohorts.clear()
        self._size = 0
        return calls
