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


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What is kept along one dimension.

    Attributes:
        size: The dimension's full length, a multiple of `unit`.
        unit: Channels of a unit.
        k: Channels kept of every unit.
        positions: The kept positions, sorted: `k` for each unit.
    """

    size: int
    unit: int
    k: int
    positions: Int64[np.ndarray, "_"]

    @property
    def whole(self) -> bool:
        """Whether nothing is dropped."""
        return self.k == self.unit

    def split(self, channels: int) -> tuple[int, ...]:
        """Return the dimension's shape as units of so many channels: `k`, or those of a unit."""
        if self.unit == 1:
            return (self.size,)
        return self.size // self.unit, channels

    @cached_property
    def runs(self) -> Int64[np.ndarray, "runs 3"]:
        """Runs of neighbours: each one's start, length, and how much is kept before it."""
        return neighbours(self.positions)

    @cached_property
    def pieces(self) -> list[Piece]:
        """Slices that together are everything kept; none if they would be too many."""
        if self.whole:
            everything = tuple(slice(0, n) for n in self.split(self.k))
            return [(everything, everything)]
        inside = self.positions.reshape(-1, self.k) % self.unit
        (edges,) = (inside[1:] != inside[:-1]).any(axis=1).nonzero()
        if len(edges) >= MAX_PIECES:
            return []
        pieces: list[Piece] = []
        for start, stop in pairwise([0, *(edges + 1).tolist(), len(inside)]):
            units, row = slice(start, stop), inside[start].tolist()
            gaps = [i for i in range(1, self.k) if row[i] > row[i - 1] + 1]
            for i, j in pairwise([0, *gaps, self.k]):
                pieces.append(((units, slice(row[i], row[i] + j - i)), (units, slice(i, j))))
        return pieces

    @cached_property
    def single_pieces(self) -> list[Piece]:
        """The same, but one channel of every unit at a time."""
        if self.whole:
            return self.pieces
        return [
            ((units, slice(i, i + 1)), (units, slice(j, j + 1)))
            for (units, whole), (_, part) in self.pieces
            for i, j in zip(_range(whole), _range(part), strict=True)
        ]


@dataclass(frozen=True)
class Cutout:
    """The kept block of a tensor with at least one dimension, as its cuts along them.

    Its `pairs` and `runs` are those of `common.submodels.submodel.Places`.
    """

    cuts: tuple[Cut, ...]

    def pairs(self, whole: NDArray, kept: NDArray) -> Iterator[tuple[NDArray, Any, NDArray]]:
        """Yield `array, index, part` such that `array[index]` are the places of `part`."""
        if not self._pieces:
            yield (
                whole.reshape(-1, self._tail),
                self._heads(self._dropping),
                kept.reshape(-1, self._tail),
            )
            return
        whole = whole.reshape([n for cut in self.cuts for n in cut.split(cut.unit)])
        kept = kept.reshape([n for cut in self.cuts for n in cut.split(cut.k)])
        for own, part in self._pieces:
            yield whole, own, kept[part]

    @cached_property
    def runs(self) -> tuple[Int64[np.ndarray, "rows"], Int64[np.ndarray, "runs 3"]]:
        """Where rows begin, and the runs of each; see `common.submodels.submodel.Places`."""
        if not self._dropping:
            size = math.prod(cut.size for cut in self.cuts)
            return np.zeros(1, np.int64), np.array([[0, size, 0]])
        cut = self.cuts[self._dropping - 1]
        return self._heads(self._dropping - 1) * (cut.size * self._tail), cut.runs * self._tail

    @cached_property
    def _pieces(self) -> list[Piece]:
        pieces = [cut.pieces for cut in self.cuts]
        if self._dropping and self._tail == 1:
            # NumPy's inner loop goes along neighbours in memory. If these are channels of a unit,
            # it is as short as a run; one channel at a time, it goes over the units.
            pieces[self._dropping - 1] = self.cuts[self._dropping - 1].single_pieces
        if math.prod(map(len, pieces)) > MAX_PIECES:
            return []
        return [
            (sum((own for own, _ in chosen), ()), sum((part for _, part in chosen), ()))
            for chosen in product(*pieces)
        ]

    @cached_property
    def _dropping(self) -> int:
        """Dimensions up to the last along which something is dropped."""
        return max((i + 1 for i, cut in enumerate(self.cuts) if not cut.whole), default=0)

    @cached_property
    def _tail(self) -> int:
        """Coordinates that follow one another after that dimension."""
        return math.prod(cut.size for cut in self.cuts[self._dropping :])

    def _heads(self, dimensions: int) -> Int64[np.ndarray, "_"]:
        """Return the kept places in a tensor of only the first dimensions."""
        heads = np.zeros(1, np.int64)
        for cut in self.cuts[:dimensions]:
            heads = (heads[:, None] * cut.size + cut.positions).ravel()
        return heads


def _range(part: slice) -> range:
    return range(part.start, part.stop)


def neighbours(positions: Int64[np.ndarray, "_"]) -> Int64[np.ndarray, "runs 3"]:
    """Return runs of neighbouring positions: each one's start, length, and how many came before."""
    breaks = np.flatnonzero(positions[1:] != positions[:-1] + 1) + 1
    edges = np.concatenate([[0], breaks, [len(positions)]])
    before = edges[:-1] if len(positions) else edges[:0]
    return np.stack([positions[before], edges[1 : 1 + len(before)] - before, before], axis=1)
