"""Where the kept block of a tensor lies in the whole tensor.

Along a dimension a submodel keeps the same number of channels in every unit: an atom, or a single
entry where nothing is ever dropped. Where neighbouring units keep the same positions, the kept
channels are slices of the dimension split into (units, channels of a unit), and copying or adding
slices is several times faster than indexing with lists of positions. Where every unit keeps its
own, positions it is.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

MAX_PIECES = 16
"""Blocks of more pieces than this are indexed with positions."""

Slices = tuple[slice, ...]

Piece = tuple[Slices, Slices]
"""A part of the whole tensor and the same part of the kept block, both split into units."""


@dataclass(frozen=True)
class Cut:
    """What is kept along one dimension.

    Attributes:
        size: The dimension's full length, a multiple of `unit`.
        unit: Channels of a unit.
        kept: Channels kept of every unit.
        positions: The kept positions, sorted: `kept` for each unit.
    """

    size: int
    unit: int
    kept: int
    positions: Int64[np.ndarray, "_"]

    @property
    def whole(self) -> bool:
        """Whether nothing is dropped."""
        return self.kept == self.unit

    def split(self, kept: bool) -> tuple[int, ...]:
        """Return the dimension's shape as units, in the kept block or in the whole tensor."""
        if self.unit == 1:
            return (self.size,)
        return self.size // self.unit, self.kept if kept else self.unit

    @cached_property
    def runs(self) -> list[Piece]:
        """Slices that together are everything kept; none if they would be too many."""
        if self.whole:
            everything = tuple(slice(0, n) for n in self.split(kept=True))
            return [(everything, everything)]
        inside = self.positions.reshape(-1, self.kept) % self.unit
        (edges,) = (inside[1:] != inside[:-1]).any(axis=1).nonzero()
        if len(edges) >= MAX_PIECES:
            return []
        runs: list[Piece] = []
        for start, stop in pairwise([0, *(edges + 1).tolist(), len(inside)]):
            units, row = slice(start, stop), inside[start].tolist()
            gaps = [i for i in range(1, self.kept) if row[i] > row[i - 1] + 1]
            for i, j in pairwise([0, *gaps, self.kept]):
                runs.append(((units, slice(row[i], row[i] + j - i)), (units, slice(i, j))))
        return runs

    @cached_property
    def single_runs(self) -> list[Piece]:
        """The same, but one channel of every unit at a time."""
        if self.whole:
            return self.runs
        return [
            ((units, slice(i, i + 1)), (units, slice(j, j + 1)))
            for (units, whole), (_, part) in self.runs
            for i, j in zip(_range(whole), _range(part), strict=True)
        ]


@dataclass(frozen=True)
class Cutout:
    """The kept block of a tensor with at least one dimension, as its cuts along them."""

    cuts: tuple[Cut, ...]

    @cached_property
    def row(self) -> int:
        """Coordinates of one unit along the first dimension."""
        return self.cuts[0].unit * math.prod(cut.size for cut in self.cuts[1:])

    @cached_property
    def kept_row(self) -> int:
        """Coordinates kept of one unit along the first dimension."""
        return self.cuts[0].kept * math.prod(len(cut.positions) for cut in self.cuts[1:])

    def kept_span(self, first: int, units: int) -> slice:
        """Return where the kept coordinates of some units lie among all kept ones."""
        return slice(first * self.kept_row, (first + units) * self.kept_row)

    def pairs(
        self, whole: NDArray, kept: NDArray, first: int = 0
    ) -> Iterator[tuple[NDArray, Any, NDArray]]:
        """Yield `array, index, part` such that `array[index]` are the places of `part`.

        Args:
            whole: Consecutive units along the first dimension of the tensor, flat.
            kept: The kept coordinates of these units, flat.
            first: The unit with which both begin.
        """
        units = whole.size // self.row
        if not self._pieces:
            yield (
                whole.reshape(-1, self._tail),
                self._heads(first, units),
                kept.reshape(-1, self._tail),
            )
            return
        whole, kept = whole.reshape(self._shapes[0]), kept.reshape(self._shapes[1])
        for (own, *rest), (_, *kept_rest) in self._pieces:
            here = slice(max(own.start - first, 0), min(own.stop - first, units))
            if here.start < here.stop:
                yield whole, (here, *rest), kept[(here, *kept_rest)]

    @cached_property
    def _shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        whole, kept = (
            tuple(n for cut in self.cuts for n in cut.split(kept=kept)) for kept in (False, True)
        )
        return (-1, *whole[1:]), (-1, *kept[1:])

    @cached_property
    def _pieces(self) -> list[Piece]:
        runs = [cut.runs for cut in self.cuts]
        if self._dropping and self._tail == 1:
            # NumPy's inner loop goes along neighbours in memory. If these are channels of a unit,
            # it is as short as a run; one channel at a time, it goes over the units.
            runs[self._dropping - 1] = self.cuts[self._dropping - 1].single_runs
        if math.prod(map(len, runs)) > MAX_PIECES:
            return []
        return [
            (sum((own for own, _ in chosen), ()), sum((part for _, part in chosen), ()))
            for chosen in product(*runs)
        ]

    @cached_property
    def _dropping(self) -> int:
        """Dimensions up to the last along which something is dropped."""
        return max((i + 1 for i, cut in enumerate(self.cuts) if not cut.whole), default=0)

    @cached_property
    def _tail(self) -> int:
        """Coordinates that follow one another after that dimension."""
        return math.prod(cut.size for cut in self.cuts[self._dropping :])

    def _heads(self, first: int, units: int) -> Int64[np.ndarray, "_"]:
        """Return the kept places of some units, in a tensor seen as runs of `_tail` coordinates."""
        cut, *rest = self.cuts[: self._dropping]
        heads = cut.positions[first * cut.kept : (first + units) * cut.kept] - first * cut.unit
        for cut in rest:
            heads = (heads[:, None] * cut.size + cut.positions).ravel()
        return heads


def _range(run: slice) -> range:
    return range(run.start, run.stop)
