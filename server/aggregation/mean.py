"""The coverage average: each coordinate is averaged over the clients that trained it.

    θ_i = Σ w_n θ_{n,i} / Σ w_n   over the clients n that were assigned coordinate i and replied,

and a coordinate that no such client has keeps its value bit for bit (Zhou et al. 2023, Algorithm 1,
with the uncovered case made explicit). Replies are folded in as they arrive and then freed.

The result does not depend on the order of replies. Floating-point addition is not associative, so
every contribution is first rounded to a multiple of 2^-42; below 2^10, sums of such numbers are
exact in float64 in any order (pre-rounding, Demmel and Nguyen 2013).

Memory is what takes time here. So the work goes tile by tile: a tile's sums stay in cache while all
replies at hand are added to them. Tiles are shared out among threads.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy.typing import NDArray

from common.submodels import Layout, Submodel
from server.aggregation.fold import CLIENTS, SHARES, Aggregate, check_values
from server.coverage import Coverage
from server.loops import (
    MAGIC,
    Runs,
    Spread,
    add_pair,
    each_part,
    each_tile,
    in_order,
    read_only,
    runs_of,
    scale,
    spread_out,
)


@dataclass
class _Cohort:
    """The clients that were assigned one and the same submodel, and their replies on hold."""

    runs: Runs
    share: float = 0.0
    clients: int = 0
    images: int = 0
    held: list[tuple[NDArray[np.float32], float]] = field(default_factory=list)


class CoverageFold:
    """A running coverage average over one round's replies.

    Memory is that of the sums, two models, and of the replies on hold, whatever the number of
    clients. While all replies are on hold there are no sums.

    Args:
        layout: The model's table.
        total_weight: The sum of the weights of all clients asked. Weights are divided by it, which
            bounds every sum by the largest single value.
        hold: How many coordinates may wait to be folded together, as a multiple of the model's; the
            more, the faster.

    Raises:
        ValueError: The total weight is not a positive finite number.
    """

    def __init__(self, layout: Layout, total_weight: float, hold: float = 0.5) -> None:
        if not (np.isfinite(total_weight) and total_weight > 0):
            raise ValueError(f"the clients' weights must sum to a positive number: {total_weight}")
        self.layout = layout
        self.total_weight = total_weight
        self.hold = hold
        self._cohorts: dict[bytes, _Cohort] = {}
        self._held = 0
        self._sums: NDArray[np.float64] | None = None

    def add(
        self, values: Float32[np.ndarray, "kept"], submodel: Submodel, weight: float, images: int
    ) -> None:
        """Fold one client's trained weights in.

        Args:
            values: The kept coordinates in the layout's order; not copied, so leave them be.
            submodel: What the server assigned to this client.
            weight: The client's share w_n, 0 or greater and part of `total_weight`.
            images: Images that the client trained on.

        Raises:
            ValueError: A value is not finite or is `MAX_ABS` or more, the length is wrong, or the
                weight is negative; nothing has been folded then.
        """
        check_values(values, submodel)
        share = weight / self.total_weight
        if not 0 <= share <= 1:
            raise ValueError(f"weight {weight} is not within 0 … {self.total_weight}")
        share = (share + MAGIC) - MAGIC
        mask = submodel.bitmask()
        if mask not in self._cohorts:
            self._cohorts[mask] = _Cohort(runs_of(submodel))
        cohort = self._cohorts[mask]
        cohort.share += share
        cohort.clients += 1
        cohort.images += images
        cohort.held.append((read_only(values), share))
        self._held += values.size
        if self._held > self.hold * self.layout.size:
            self._fold_held()

    @property
    def counts(self) -> Int64[np.ndarray, "coverage"]:
        """Clients so far that trained each coordinate, as a coverage vector."""
        return self._coverage().vector(CLIENTS)

    def finish(self, theta: Float32[np.ndarray, "P"]) -> Aggregate:
        """Return the average where there is one and `theta` everywhere else.

        Raises:
            ValueError: `theta` is not a vector of this model's.
        """
        if theta.shape != (self.layout.size,):
            raise ValueError(f"weights of shape {theta.shape} for {self.layout.size} coordinates")
        coverage = self._coverage()
        factors = [
            np.divide(1.0, shares, out=np.zeros(shares.size), where=shares > 0)
            for shares in (coverage.sums(p)[SHARES].ravel() for p in self.layout.parameters)
        ]
        spread = spread_out(self.layout, factors)
        old = read_only(theta)
        if self._sums is None:
            return Aggregate(self._average_held(old, spread), coverage)
        self._fold_held()
        return Aggregate(self._average_sums(old, spread), coverage)

    def _average_held(self, old: NDArray[np.float32], spread: Spread) -> NDArray[np.float32]:
        """Sum and average tile by tile, so that sums never leave the cache."""
        new = np.empty_like(old)

        def work(tile: slice, sums: NDArray[np.float64]) -> None:
            sums.fill(0)
            self._add_held(sums, tile.start)
            scale(sums, tile.start, *spread, old[tile], new[tile])

        each_tile(old.size, work)
        return new

    def _average_sums(self, old: NDArray[np.float32], spread: Spread) -> NDArray[np.float32]:
        """Average in place: half as wide as the sums, the averages never catch up with them."""
        sums, self._sums = self._sums, None
        assert sums is not None
        new = sums.view(np.float32)

        def average(tile: slice) -> NDArray[np.float32]:
            mean = np.empty(tile.stop - tile.start, np.float32)
            scale(sums[tile], tile.start, *spread, old[tile], mean)
            return mean

        # In order: a tile's mean is written where sums were whose own means are already made.
        for tile, mean in in_order(old.size, average):
            new[tile] = mean
        del new
        # Nobody else has seen the sums; what is cut off goes back to the system.
        sums.resize(-(-old.size // 2), refcheck=False)
        return sums.view(np.float32)[: old.size]

    def _coverage(self) -> Coverage:
        """Return the sums of shares, clients and images over the submodels."""
        cohorts = self._cohorts.values()
        totals = np.array([(c.share, c.clients, c.images) for c in cohorts], dtype=np.float64)
        return Coverage(self.layout, list(self._cohorts), totals.reshape(len(cohorts), 3))

    def _fold_held(self) -> None:
        """Add the replies on hold to the sums and let go of them."""
        if self._sums is None:
            self._sums = np.zeros(self.layout.size)
        sums = self._sums
        each_part(sums.size, lambda part: self._add_held(sums[part], part.start))
        self._held = 0
        for cohort in self._cohorts.values():
            cohort.held.clear()

    def _add_held(self, sums: Float64[np.ndarray, "tile"], first: int) -> None:
        for cohort in self._cohorts.values():
            held = iter(cohort.held)
            for a, share_a in held:
                b, share_b = next(held, (a, 0.0))
                add_pair(sums, first, a, b, share_a, share_b, *cohort.runs)
