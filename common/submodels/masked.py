"""Masked submodels: single coordinates of the full network, instead of whole channels.

A client of one builds the full network and trains it with everything else held at zero. That saves
bytes on the wire, but no memory and no time: only compact submodels do.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64
from numpy.typing import NDArray

from common.submodels.cuts import neighbours
from common.submodels.layout import Layout, Parameter
from common.submodels.submodel import Submodel, full_submodel


@dataclass(frozen=True, eq=False)
class MaskedSubmodel(Submodel):
    """The full width with only some coordinates kept: those where `mask` is true, at least one.

    Raises:
        ValueError: The mask is not one truth value for each coordinate, or keeps none.
    """

    mask: Bool[np.ndarray, "P"] = field(repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask.shape != (self.layout.size,) or self.mask.dtype != bool:
            raise ValueError(f"a mask needs {self.layout.size} truth values")
        if not self.mask.any():
            raise ValueError("a mask needs to keep something")

    def shape(self, parameter: Parameter) -> tuple[int, ...]:
        """Return the number of coordinates kept of a parameter: they form no block."""
        return (int(self.mask[parameter.span].sum()),)

    def cutout(self, parameter: Parameter) -> "Places":  # type: ignore[override]
        """Return where the kept coordinates of a parameter lie in it."""
        if parameter.name not in self._places:
            self._places[parameter.name] = Places(np.flatnonzero(self.mask[parameter.span]))
        return self._places[parameter.name]

    def bitmask(self) -> bytes:
        """Return the kept coordinates, one bit each."""
        return np.packbits(self.mask).tobytes()

    @cached_property
    def _places(self) -> "dict[str, Places]":
        return {}


@dataclass(frozen=True)
class Places:
    """The kept coordinates of a tensor; see `common.submodels.cuts.Cutout`, whose part it plays.

    Attributes:
        positions: In the tensor's flat order, sorted.
    """

    positions: Int64[np.ndarray, "_"]

    def pairs(self, whole: NDArray, kept: NDArray) -> Iterator[tuple[NDArray, Any, NDArray]]:
        """Yield `array, index, part` such that `array[index]` are the places of `part`."""
        yield whole, self.positions, kept

    @property
    def runs(self) -> tuple[Int64[np.ndarray, "rows"], Int64[np.ndarray, "runs 3"]]:
        """One row, and its runs of kept coordinates; see `common.submodels.cuts.Cutout.runs`."""
        return np.zeros(1, np.int64), neighbours(self.positions)


def masked_submodel(layout: Layout, mask: Bool[np.ndarray, "P"]) -> MaskedSubmodel:
    """Return the submodel of the coordinates where a mask is true."""
    whole = full_submodel(layout)
    return MaskedSubmodel(layout, whole.k, whole.kept, mask)


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
        return masked_submodel(layout, bits.astype(bool))
    if len(bitmask) != -(-sum(sizes) // 8):
        raise ValueError(f"{len(bitmask)} bytes of kept channels for {sum(sizes)} channels")
    bits = np.unpackbits(np.frombuffer(bitmask, dtype=np.uint8), count=sum(sizes))
    runs = np.split(bits, np.cumsum(sizes)[:-1])
    kept = {name: np.flatnonzero(run) for name, run in zip(layout.axes, runs, strict=True)}
    return Submodel(layout, k, kept)


def by_coordinate(layout: Layout) -> Layout:
    """Return the same layout with coverage counted for every coordinate on its own."""
    alone = tuple(replace(parameter, by_coordinate=True) for parameter in layout.parameters)
    return Layout(alone, layout.atom)


def dense(values: Float32[np.ndarray, "kept"], submodel: Submodel) -> Float32[np.ndarray, "n"]:
    """Return the weights of the network that a client builds: masked coordinates are zero."""
    if not isinstance(submodel, MaskedSubmodel):
        return values.copy()
    theta = np.zeros(submodel.layout.size, np.float32)
    theta[submodel.mask] = values
    return theta


def kept(theta: Float32[np.ndarray, "n"], submodel: Submodel) -> Float32[np.ndarray, "kept"]:
    """Return what a client sends back of the weights that `dense` gave it."""
    return theta[submodel.mask] if isinstance(submodel, MaskedSubmodel) else theta
