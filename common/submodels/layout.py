"""Layouts: which slice of the global weights is which parameter, and where channels run in it.

A model is one flat float32 vector `theta`. Its `Layout` lists the parameters in order, and for each
dimension of each the *channel axes* that run along it. Nothing here knows what a UNet is.
"""

import hashlib
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from common.errors import UserError


@dataclass(frozen=True)
class Axis:
    """Channels that every layer reading or writing it must cut the same way."""

    name: str
    size: int


Channels = tuple[Axis, ...]
"""The axes that follow one another along a dimension: two after a concatenation, none if fixed."""


@dataclass(frozen=True)
class Parameter:
    """One tensor of the model: its place in `theta` and the axes along each dimension.

    `by_coordinate` tells whether coordinates of the same channels may be covered differently.
    """

    name: str
    shape: tuple[int, ...]
    channels: tuple[Channels, ...]
    offset: int
    by_coordinate: bool = False

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return math.prod(self.shape)

    @property
    def span(self) -> slice:
        """Where it lies in `theta`."""
        return slice(self.offset, self.offset + self.size)

    @property
    def coverage_shape(self) -> tuple[int, ...]:
        """The shape with dimensions of 1 where no axis runs: coverage is constant along those."""
        if self.by_coordinate:
            return self.shape
        return tuple(n if axes else 1 for n, axes in zip(self.shape, self.channels, strict=True))


@dataclass(frozen=True)
class Layout:
    """A model's table: parameters in the order of `theta`, axes, and channels per atom."""

    parameters: tuple[Parameter, ...]
    atom: int

    @cached_property
    def axes(self) -> dict[str, Axis]:
        """Every axis by name, in order of first appearance."""
        return {
            axis.name: axis
            for parameter in self.parameters
            for channels in parameter.channels
            for axis in channels
        }

    @cached_property
    def size(self) -> int:
        """Number of coordinates of `theta`."""
        return sum(parameter.size for parameter in self.parameters)

    @cached_property
    def by_coordinate(self) -> bool:
        """Whether coverage is counted for every coordinate on its own."""
        return any(parameter.by_coordinate for parameter in self.parameters)

    @cached_property
    def mask_bits(self) -> int:
        """Bits that say what a client keeps: one for each channel, or for each coordinate."""
        return self.size if self.by_coordinate else sum(a.size for a in self.axes.values())

    def view(self, theta: NDArray, parameter: Parameter) -> NDArray:
        """Return the slice of `theta` that is this parameter, shaped, without copying."""
        return theta[parameter.span].reshape(parameter.shape)

    @cached_property
    def coverage_size(self) -> int:
        """Length of a *coverage vector*: one entry for each block of coordinates covered alike."""
        return sum(math.prod(parameter.coverage_shape) for parameter in self.parameters)

    def coverage_views(self, vector: NDArray) -> list[tuple[Parameter, NDArray]]:
        """Return each parameter with its part of a coverage vector, ready to broadcast."""
        parts, start = [], 0
        for parameter in self.parameters:
            stop = start + math.prod(parameter.coverage_shape)
            parts.append((parameter, vector[start:stop].reshape(parameter.coverage_shape)))
            start = stop
        return parts

    @cached_property
    def coverage_sizes(self) -> Int64[np.ndarray, "_"]:
        """How many coordinates each entry of a coverage vector stands for."""
        sizes = np.empty(self.coverage_size, dtype=np.int64)
        for parameter, view in self.coverage_views(sizes):
            view[...] = parameter.size // view.size
        return sizes

    def kept_per_atom(self, rate: Fraction) -> int:
        """Return `k`, the channels that a model rate keeps in every atom.

        Raises:
            UserError: The rate is not a multiple of ``1 / atom``; the line lists those that are.
        """
        k = rate * self.atom
        if k.denominator != 1 or not 1 <= k <= self.atom:
            allowed = ", ".join(str(Fraction(i, self.atom)) for i in range(1, self.atom + 1))
            raise UserError(
                f"rate {rate}: this model's atoms of {self.atom} channels allow {allowed}"
            )
        return int(k)

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits that agree exactly when two layouts do."""
        text = repr([(p.name, p.shape, p.channels) for p in self.parameters]) + str(self.atom)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
