"""The coverage average: each coordinate is averaged over the clients that trained it.

    θ_i = Σ w_n θ_{n,i} / Σ w_n   over the clients n that were assigned coordinate i and replied,

and a coordinate that no such client has keeps its value bit for bit (Zhou et al. 2023, Algorithm 1,
with the uncovered case made explicit). Replies are folded in as they arrive and then freed.

The result does not depend on the order of replies. Floating-point addition is not associative, so
every contribution is first rounded to a multiple of 2^-42; below 2^10, sums of such numbers are
exact in float64 in any order (pre-rounding, Demmel and Nguyen 2013).

Memory is what takes time here. So the work goes tile by tile: a tile's sums stay in cache while all
replies at hand are added to them. Parameters are shared out among threads.
"""

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Int64
from numpy.typing import NDArray

from common.submodel import Layout, Parameter, Submodel
from server.coverage import Coverage, fill

MAX_ABS = 1024.0
"""Weights of this size or more are refused: sums would not be exact, and the client diverged."""

MAGIC = 1.5 * 2.0**10
"""Adding and subtracting this rounds a float64 below 2^9 to the nearest multiple of 2^-42."""

TILE = 1 << 17
"""Coordinates of a tile, about: few enough for the cache, enough to make NumPy's calls cheap."""

_THREAD = 1 << 20
"""Coordinates that make another thread worth its while."""


@dataclass(frozen=True)
class Aggregate:
    """What a round's replies amount to.

    Attributes:
        theta: The new global weights.
        counts: Clients that trained each coordinate, as a coverage vector.
        images: Images that trained each coordinate, as a coverage vector.
    """

    theta: Float32[np.ndarray, "P"]
    counts: Int64[np.ndarray, "coverage"]
    images: Int64[np.ndarray, "coverage"]


@dataclass
class _Cohort:
    """The clients that were assigned one and the same submodel, and their replies on hold."""

    submodel: Submodel
    share: float = 0.0
    clients: int = 0
    images: int = 0
    replies: list[tuple[NDArray[np.float32], float]] = field(default_factory=list)


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
        self._sums: dict[str, NDArray[np.float64]] = {}

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
        cohort = self._cohorts.setdefault(submodel.bitmask(), _Cohort(submodel))
        cohort.share += share
        cohort.clients += 1
        cohort.images += images
        cohort.replies.append((values, share))
        self._held += values.size
        if self._held > self.hold * self.layout.size:
            self._fold_held()

    @property
    def counts(self) -> Int64[np.ndarray, "coverage"]:
        """Clients so far that trained each coordinate, as a coverage vector."""
        counts, coverage = np.empty(self.layout.coverage_size, np.int64), self._coverage()
        for parameter, view in self.layout.coverage_views(counts):
            fill(view, coverage.sums(parameter)[1])
        return counts

    def finish(self, theta: Float32[np.ndarray, "P"]) -> Aggregate:
        """Return the average where there is one and `theta` everywhere else."""
        coverage = self._coverage()
        counts, images = (np.empty(self.layout.coverage_size, np.int64) for _ in range(2))
        count_views, image_views = (
            {parameter.name: view for parameter, view in self.layout.coverage_views(vector)}
            for vector in (counts, images)
        )
        # Sums are freed one by one before the averages are one vector, so the peak is behind us.
        new = None if self._sums else np.empty_like(theta)
        means: dict[str, NDArray[np.float32]] = {}

        def average(parameter: Parameter, scratch: _Scratch) -> None:
            weights, clients, trained = coverage.sums(parameter)
            fill(count_views[parameter.name], clients)
            fill(image_views[parameter.name], trained)
            weights = weights.reshape(-1, *parameter.coverage_shape[1:])
            weights = np.broadcast_to(weights, (len(weights), *parameter.shape[1:])).ravel()
            factors = np.divide(1.0, weights, out=np.zeros(weights.size), where=weights > 0)
            mean = np.empty(parameter.size, np.float32) if new is None else new[parameter.span]
            old = theta[parameter.span]
            for tile, sums in self._tiles(parameter, scratch):
                factor = factors if factors.size <= sums.size else factors[tile]
                rows = (-1, factor.size)
                np.multiply(sums.reshape(rows), factor, out=sums.reshape(rows))
                np.copyto(mean[tile], sums, casting="same_kind")
                if not factor.all():
                    kept = factor == 0
                    np.copyto(mean[tile].reshape(rows), old[tile].reshape(rows), where=kept)
            means[parameter.name] = mean
            self._sums.pop(parameter.name, None)

        self._each_parameter(average)
        if new is None:
            new = np.concatenate([means[parameter.name] for parameter in self.layout.parameters])
        return Aggregate(new, counts, images)

    def _coverage(self) -> Coverage:
        """Return the sums of shares, clients and images over the submodels."""
        cohorts = self._cohorts.values()
        totals = np.array([(c.share, c.clients, c.images) for c in cohorts], dtype=np.float64)
        return Coverage(self.layout, list(self._cohorts), totals.reshape(len(cohorts), 3))

    def _fold_held(self) -> None:
        """Add the replies on hold to the sums and let go of them."""

        def fold(parameter: Parameter, scratch: _Scratch) -> None:
            if parameter.name not in self._sums:
                self._sums[parameter.name] = np.zeros(parameter.size)
            for _ in self._tiles(parameter, scratch):
                pass

        self._each_parameter(fold)
        self._held = 0
        for cohort in self._cohorts.values():
            cohort.replies.clear()

    def _tiles(
        self, parameter: Parameter, scratch: "_Scratch"
    ) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Yield a parameter's tiles, each with its sums, in which all replies on hold then are."""
        cohorts = [cohort for cohort in self._cohorts.values() if cohort.replies]
        stored = self._sums.get(parameter.name)
        row = row_size(parameter, self.layout.atom)
        units = max(1, TILE // row)
        for first in range(0, parameter.size // row, units):
            tile = slice(first * row, min((first + units) * row, parameter.size))
            if stored is None:
                sums = scratch.sums[: tile.stop - tile.start]
                sums.fill(0)
            else:
                sums = stored[tile]
            for cohort in cohorts:
                cutout = cohort.submodel.cutout(parameter)
                start = cohort.submodel.spans[parameter.name].start
                span = cutout.kept_span(first, sums.size // row)
                kept = slice(start + span.start, start + span.stop)
                total = _total(cohort.replies, kept, scratch)
                for array, index, part in cutout.pairs(sums, total, first):
                    array[index] += part
            yield tile, sums

    def _each_parameter(self, work: Callable[[Parameter, "_Scratch"], None]) -> None:
        """Do the work for every parameter, the largest first; each thread has its own scratch."""
        rows = [row_size(parameter, self.layout.atom) for parameter in self.layout.parameters]
        queue = iter(sorted(self.layout.parameters, key=lambda parameter: -parameter.size))

        def drain() -> None:
            scratch = _Scratch(min(max(TILE, *rows), self.layout.size))
            for parameter in queue:
                work(parameter, scratch)

        threads = min(os.cpu_count() or 1, 1 + self.layout.size // _THREAD)
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(drain) for _ in range(threads)]:
                done.result()


class _Scratch:
    """Room for one tile, used over and over so that it stays in cache."""

    def __init__(self, size: int) -> None:
        self.sums, self.total, self.rounded = (np.empty(size) for _ in range(3))


def _total(
    replies: list[tuple[NDArray[np.float32], float]], kept: slice, scratch: _Scratch
) -> NDArray[np.float64]:
    """Return the sum of some coordinates of replies times their shares, each rounded to 2^-42."""
    total, rounded = (room[: kept.stop - kept.start] for room in (scratch.total, scratch.rounded))
    for i, (values, share) in enumerate(replies):
        out = rounded if i else total
        np.multiply(values[kept], share, out=out, dtype=np.float64)
        out += MAGIC
        out -= MAGIC
        if i:
            total += rounded
    return total


def check_values(values: NDArray[np.float32], submodel: Submodel) -> None:
    """Raise ValueError unless these could be a submodel's trained weights."""
    if values.dtype != np.float32 or values.shape != (submodel.size,):
        raise ValueError(
            f"expected {submodel.size} float32 values, got {values.dtype} of shape {values.shape}"
        )
    # No value exceeds the norm, which takes one pass and nearly always settles it. A NaN fails
    # every comparison, so bounds catch it together with infinities.
    with np.errstate(over="ignore", invalid="ignore"):
        square = np.dot(values, values)
    if not square < MAX_ABS**2 / 2 and not (values.min() > -MAX_ABS and values.max() < MAX_ABS):
        raise ValueError(f"values are not finite or reach {MAX_ABS:g}: the client diverged")


def row_size(parameter: Parameter, atom: int) -> int:
    """Return the least coordinates a tile can hold: those of an atom of the first dimension."""
    return (atom if parameter.channels[0] else 1) * math.prod(parameter.shape[1:])
