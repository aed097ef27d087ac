"""Compact submodels: some channels of every axis, so that a client builds a smaller network.

Every axis is cut into *atoms* of `Layout.atom` neighbouring channels. A submodel keeps the same
number `k` of channels in every atom, so that any group of whole atoms (a GroupNorm group, an
attention head) shrinks by exactly the model rate ``k / atom``. It keeps a block of every parameter.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import accumulate

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from numpy.typing import NDArray

from common.submodels.cuts import Cut, Cutout
from common.submodels.layout import Channels, Layout, Parameter
from common.submodels.submodel import spans_of

Index = tuple[NDArray[np.int64], ...]
"""An open mesh, as `numpy.ix_` gives it: selects a block of a parameter."""


@dataclass(frozen=True, eq=False)
class CompactSubmodel:
    """The channels of every axis that one client keeps: sorted, `k` in each atom.

    A `Submodel` whose kept coordinates form a block of every parameter.

    Raises:
        ValueError: An axis is missing, or an atom does not keep exactly `k` channels.
    """

    layout: Layout
    k: int
    kept: Mapping[str, Int64[np.ndarray, "_"]] = field(repr=False)

    def __post_init__(self) -> None:
        if set(self.kept) != set(self.layout.axes):
            odd = sorted(set(self.kept) ^ set(self.layout.axes))
            raise ValueError(f"a submodel needs every axis once; differing: {', '.join(odd)}")
        for name, channels in self.kept.items():
            atoms = np.arange(self.layout.axes[name].size // self.layout.atom)
            if not np.array_equal(channels // self.layout.atom, np.repeat(atoms, self.k)) or (
                np.any(np.diff(channels) <= 0)
            ):
                raise ValueError(f"axis {name}: every atom must keep {self.k} distinct channels")

    @classmethod
    def from_positions(
        cls, layout: Layout, k: int, positions: Mapping[str, NDArray[np.integer]]
    ) -> "CompactSubmodel":
        """Build from positions within atoms, each in ``0 … atom-1``.

        Args:
            layout: The model's table.
            k: Channels kept in every atom.
            positions: For each axis an array (k,), used in every atom, or (atoms, k).

        Raises:
            ValueError: Positions are out of range, repeated, or not `k` to an atom.
        """
        kept: dict[str, NDArray[np.int64]] = {}
        for name, axis in layout.axes.items():
            if name not in positions:
                raise ValueError(f"a submodel needs every axis once; missing: {name}")
            atoms = axis.size // layout.atom
            chosen = np.asarray(positions[name], dtype=np.int64)
            if np.any((chosen < 0) | (chosen >= layout.atom)):
                raise ValueError(f"axis {name}: positions must be in 0 … {layout.atom - 1}")
            if chosen.shape not in ((k,), (atoms, k)):
                raise ValueError(
                    f"axis {name}: positions have shape {chosen.shape}, not {(k,)} or {(atoms, k)}"
                )
            channels = np.arange(atoms)[:, None] * layout.atom + chosen
            kept[name] = np.sort(channels.reshape(-1))
        return cls(layout, k, kept)

    @property
    def rate(self) -> Fraction:
        """The model rate: the fraction of channels kept on every axis."""
        return Fraction(self.k, self.layout.atom)

    @cached_property
    def spans(self) -> dict[str, slice]:
        """Where each parameter's kept block lies in the vector of kept coordinates, by name."""
        return spans_of(self.layout, [math.prod(self.shape(p)) for p in self.layout.parameters])

    @cached_property
    def size(self) -> int:
        """Number of coordinates kept."""
        return sum(math.prod(self.shape(parameter)) for parameter in self.layout.parameters)

    @property
    def density(self) -> float:
        """The fraction of coordinates kept, in (0, 1]."""
        return self.size / self.layout.size

    @property
    def widths(self) -> dict[str, int]:
        """Channels kept on each axis: all that a client needs to build the compact network."""
        return {name: len(channels) for name, channels in self.kept.items()}

    def shape(self, parameter: Parameter) -> tuple[int, ...]:
        """Return the shape of the kept block of a parameter."""
        return tuple(
            sum(len(self.kept[axis.name]) for axis in axes) if axes else n
            for n, axes in zip(parameter.shape, parameter.channels, strict=True)
        )

    def cutout(self, parameter: Parameter) -> Cutout:
        """Return where the kept block of a parameter lies in it; one for all alike."""
        key = parameter.shape, parameter.channels
        if key not in self._cutouts:
            self._cutouts[key] = Cutout(tuple(map(self._cut, *key)))
        return self._cutouts[key]

    def index(self, parameter: Parameter) -> Index:
        """Return the open mesh that selects the kept block of a parameter."""
        return np.ix_(
            *(
                self.along(axes) if axes else np.arange(n)
                for n, axes in zip(parameter.shape, parameter.channels, strict=True)
            )
        )

    def coverage_index(self, parameter: Parameter) -> Index:
        """Return the same mesh for an array of the parameter's `coverage_shape`."""
        return np.ix_(*(self.along(axes) if axes else np.arange(1) for axes in parameter.channels))

    def bitmask(self) -> bytes:
        """Return the kept channels of all axes, one bit each, in the layout's order."""
        axes = tuple(self.layout.axes.values())
        bits = np.zeros(sum(axis.size for axis in axes), dtype=bool)
        bits[self.along(axes)] = True
        packed: UInt8[np.ndarray, _] = np.packbits(bits)
        return packed.tobytes()

    def to_network(self, values: Float32[np.ndarray, "kept"]) -> Float32[np.ndarray, "kept"]:
        """Return a copy of the weights: the network that a client builds has no others."""
        return values.copy()

    def of_network(self, weights: Float32[np.ndarray, "kept"]) -> Float32[np.ndarray, "kept"]:
        """Return the weights of that network as they are."""
        return weights

    def along(self, channels: Channels) -> NDArray[np.int64]:
        """Return the kept positions along a dimension on which several axes may follow."""
        starts = accumulate((axis.size for axis in channels), initial=0)
        return np.concatenate(
            [self.kept[a.name] + start for a, start in zip(channels, starts, strict=False)]
        )

    def _cut(self, size: int, channels: Channels) -> Cut:
        """Return what is kept along a dimension; made once for all that share its axes."""
        if (size, channels) not in self._cuts:
            self._cuts[size, channels] = (
                Cut(size=size, unit=self.layout.atom, k=self.k, positions=self.along(channels))
                if channels
                else Cut(size=size, unit=1, k=1, positions=np.arange(size))
            )
        return self._cuts[size, channels]

    @cached_property
    def _cuts(self) -> dict[tuple[int, Channels], Cut]:
        return {}

    @cached_property
    def _cutouts(self) -> dict[tuple[tuple[int, ...], tuple[Channels, ...]], Cutout]:
        return {}


def full_submodel(layout: Layout) -> CompactSubmodel:
    """Return the submodel that keeps everything."""
    return CompactSubmodel.from_positions(
        layout, layout.atom, {name: np.arange(layout.atom) for name in layout.axes}
    )


def submodel_of_rate(layout: Layout, rate: Fraction) -> CompactSubmodel:
    """Return the width of a model rate: the first positions of every atom, so widths are nested.

    Raises:
        UserError: The rate does not fit the model's atoms.
    """
    return narrowed(full_submodel(layout), layout.kept_per_atom(rate))


def nested_coordinates(
    inner: CompactSubmodel, outer: CompactSubmodel
) -> Int64[np.ndarray, " inner"]:
    """Return where a submodel's coordinates stand in the vector of one that contains it.

    Raises:
        ValueError: `inner` keeps a channel that `outer` does not.
    """
    if any(np.setdiff1d(inner.kept[name], outer.kept[name]).size for name in inner.kept):
        raise ValueError("the inner submodel keeps channels that the outer one does not")
    parts, start = [], 0
    for parameter in inner.layout.parameters:
        shape = outer.shape(parameter)
        # Both are sorted, so a channel's place among those kept is found by bisection.
        places = [
            np.searchsorted(outer_index.ravel(), inner_index.ravel())
            for outer_index, inner_index in zip(
                outer.index(parameter), inner.index(parameter), strict=True
            )
        ]
        parts.append(start + np.ravel_multi_index(np.ix_(*places), shape).ravel())
        start += math.prod(shape)
    return np.concatenate(parts)


def narrowed(submodel: CompactSubmodel, k: int) -> CompactSubmodel:
    """Return the submodel that keeps, in every atom, the first `k` of the channels kept here."""
    kept = {name: c.reshape(-1, submodel.k)[:, :k].ravel() for name, c in submodel.kept.items()}
    return CompactSubmodel(submodel.layout, k, kept)
