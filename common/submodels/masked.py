"""Masked submodels: single coordinates of the full network, instead of whole channels.

A client of one builds the full network and trains it with everything else held at zero. That saves
bytes on the wire, but no memory and no time: only compact submodels do.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64
from numpy.typing import NDArray

from common.submodels.compact import CompactSubmodel
from common.submodels.cuts import neighbours
from common.submodels.layout import Layout, Parameter
from common.submodels.submodel import Submodel, spans_of


@dataclass(frozen=True, eq=False)
class MaskedSubmodel:
    """The coordinates where `mask` is true, at least one: a `Submodel` of the full network.

    Raises:
        ValueError: The mask is not one truth value for each coordinate, or keeps none.
    """

    layout: Layout
    mask: Bool[np.ndarray, "P"] = field(repr=False)

    def __post_init__(self) -> None:
        if self.mask.shape != (self.layout.size,) or self.mask.dtype != bool:
            raise ValueError(f"a mask needs {self.layout.size} truth values")
        if not self.mask.any():
            raise ValueError("a mask needs to keep something")

    @property
    def k(self) -> int:
        """Channels of an atom: all, as the network is the full one."""
        return self.layout.atom

    @property
    def rate(self) -> Fraction:
        """The model rate, 1."""
        return Fraction(1)

    @property
    def widths(self) -> dict[str, int]:
        """Channels of each axis: all."""
        return {name: axis.size for name, axis in self.layout.axes.items()}

    @cached_property
    def size(self) -> int:
        """Number of coordinates kept."""
        return int(self.mask.sum())

    @property
    def density(self) -> float:
        """The fraction of coordinates kept, in (0, 1]."""
        return self.size / self.layout.size

    @cached_property
    def spans(self) -> dict[str, slice]:
        """Where each parameter's kept coordinates lie in the vector of all kept, by name."""
        return spans_of(self.layout, [int(self.mask[p.span].sum()) for p in self.layout.parameters])

    def cutout(self, parameter: Parameter) -> "SinglePlaces":
        """Return where the kept coordinates of a parameter lie in it."""
        if parameter.name not in self._places:
            self._places[parameter.name] = SinglePlaces(np.flatnonzero(self.mask[parameter.span]))
        return self._places[parameter.name]

    def bitmask(self) -> bytes:
        """Return the kept coordinates, one bit each."""
        return np.packbits(self.mask).tobytes()

    def to_network(self, values: Float32[np.ndarray, "kept"]) -> Float32[np.ndarray, "P"]:
        """Return all weights of the full network, zero where nothing is kept."""
        theta = np.zeros(self.layout.size, np.float32)
        theta[self.mask] = values
        return theta

    def of_network(self, weights: Float32[np.ndarray, "P"]) -> Float32[np.ndarray, "kept"]:
        """Return the kept ones of all weights of the full network."""
        return weights[self.mask]

    @cached_property
    def _places(self) -> "dict[str, SinglePlaces]":
        return {}


@dataclass(frozen=True)
class SinglePlaces:
    """The kept coordinates of a tensor one by one; `common.submodels.submodel.Places`.

    Attributes:
        positions: In the tensor's flat order, sorted.
    """

    positions: Int64[np.ndarray, "_"]

    def pairs(self, whole: NDArray, kept: NDArray) -> Iterator[tuple[NDArray, Any, NDArray]]:
        """Yield `array, index, part` such that `array[index]` are the places of `part`."""
        yield whole, self.positions, kept

    @property
    def runs(self) -> tuple[Int64[np.ndarray, "rows"], Int64[np.ndarray, "runs 3"]]:
        """One row, and its runs of kept coordinates; see `common.submodels.submodel.Places`."""
        return np.zeros(1, np.int64), neighbours(self.positions)


def submodel_from_bitmask(layout: Layout, k: int, bitmask: bytes) -> Submodel:
    """Rebuild a submodel from its bits, one for each channel, or for each coordinate if masked.

    Raises:
        ValueError: The bits are not those of a submodel of this layout.
    """
    sizes = [axis.size for axis in layout.axes.values()]
    if k == layout.atom and len(bitmask) == -(-layout.size // 8):
        bits = np.unpackbits(np.frombuffer(bitmask, dtype=np.uint8), count=layout.size)
        if not bits.any():
            raise ValueError("the task keeps no coordinate")
        return MaskedSubmodel(layout, bits.astype(bool))
    if len(bitmask) != -(-sum(sizes) // 8):
        raise ValueError(f"{len(bitmask)} bytes of kept channels for {sum(sizes)} channels")
    bits = np.unpackbits(np.frombuffer(bitmask, dtype=np.uint8), count=sum(sizes))
    axes = np.split(bits, np.cumsum(sizes)[:-1])
    kept = {name: np.flatnonzero(axis) for name, axis in zip(layout.axes, axes, strict=True)}
    return CompactSubmodel(layout, k, kept)


def by_coordinate(layout: Layout) -> Layout:
    """Return the same layout with coverage counted for every coordinate on its own."""
    alone = tuple(replace(parameter, by_coordinate=True) for parameter in layout.parameters)
    return Layout(alone, layout.atom)
