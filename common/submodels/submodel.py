"""Submodels: which coordinates of the global weights a client holds.

There are two kinds: compact ones (`common.submodels.compact`) keep channels, masked ones
(`common.submodels.masked`) single weights. `extract` cuts the kept coordinates of either out of the
global weights, `scatter` puts them back. Nothing here knows what a UNet is, and nothing branches on
a parameter's name.
"""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64
from numpy.typing import NDArray

from common.submodels.layout import Layout, Parameter


@runtime_checkable
class Places(Protocol):
    """Where the kept coordinates of a parameter lie in it."""

    def pairs(self, whole: NDArray, kept: NDArray) -> Iterator[tuple[NDArray, Any, NDArray]]:
        """Yield `array, index, part` such that `array[index]` are the places of `part`.

        Args:
            whole: The tensor, flat.
            kept: The kept coordinates, flat.
        """

    @property
    def runs(self) -> tuple[Int64[np.ndarray, "rows"], Int64[np.ndarray, "runs 3"]]:
        """Where rows of the flat tensor begin, and the runs of kept coordinates that all have.

        Of each run the start within its row, the length, and the kept coordinates before it.
        """


@runtime_checkable
class Submodel(Protocol):
    """What a client holds of the global weights, and of which network these are the weights."""

    @property
    def layout(self) -> Layout:
        """The full model's table."""

    @property
    def k(self) -> int:
        """Channels that the network has of every atom."""

    @property
    def rate(self) -> Fraction:
        """The model rate: the fraction of channels that the network has of every axis."""

    @property
    def widths(self) -> Mapping[str, int]:
        """Channels that the network has of each axis: all that a client needs to build it."""

    @property
    def size(self) -> int:
        """Number of coordinates kept."""

    @property
    def density(self) -> float:
        """The fraction of coordinates kept, in (0, 1]."""

    @property
    def spans(self) -> Mapping[str, slice]:
        """Where each parameter's kept coordinates lie in the vector of all kept, by name."""

    def cutout(self, parameter: Parameter) -> Places:
        """Return where the kept coordinates of a parameter lie in it."""

    def bitmask(self) -> bytes:
        """Return what is kept, one bit for each channel of every axis, or for each coordinate."""

    def to_network(self, values: Float32[np.ndarray, "kept"]) -> Float32[np.ndarray, "n"]:
        """Return all weights of the network of kept ones, which are copied."""

    def of_network(self, weights: Float32[np.ndarray, "n"]) -> Float32[np.ndarray, "kept"]:
        """Return the kept ones of all weights of the network."""


def spans_of(layout: Layout, sizes: Sequence[int]) -> dict[str, slice]:
    """Return where each parameter's coordinates lie in a vector that holds so many of each."""
    edges = pairwise(accumulate(sizes, initial=0))
    return {p.name: slice(*e) for p, e in zip(layout.parameters, edges, strict=True)}


def extract(theta: Float32[np.ndarray, "P"], submodel: Submodel) -> Float32[np.ndarray, "kept"]:
    """Cut a submodel's coordinates out of the global weights, in the layout's order."""
    out = np.empty(submodel.size, dtype=theta.dtype)
    for full, index, part in pairs(theta, out, submodel):
        part[...] = full[index]
    return out


def pruning_error(theta: Float32[np.ndarray, "P"], values: Float32[np.ndarray, "kept"]) -> float:
    """Return w² = ‖θ − θ⊙m‖²/‖θ‖², the share of the weights' squared norm that a submodel drops.

    `values` are what `extract` kept of `theta`; the result is in [0, 1], and 0 for weights of 0.
    Qiao et al. (2025) and Zhou et al. (2023), assumption on the pruning error.
    """
    whole, kept = (float(np.dot(v, v)) for v in (theta, values))
    return max(0.0, 1.0 - kept / whole) if whole else 0.0


def scatter(
    values: Float32[np.ndarray, "kept"], submodel: Submodel, into: Float32[np.ndarray, "P"]
) -> None:
    """Write a submodel's coordinates back to their places in `into`, leaving all others.

    Raises:
        ValueError: `values` does not have exactly the submodel's size.
    """
    if values.shape != (submodel.size,):
        raise ValueError(f"{values.shape} values for a submodel of {submodel.size} coordinates")
    for full, index, part in pairs(into, values, submodel):
        full[index] = part


def pairs(
    theta: NDArray, values: NDArray, submodel: Submodel
) -> Iterator[tuple[NDArray, Any, NDArray]]:
    """Yield `array, index, part`: `array[index]` are the places in `theta` of a part of `values`.

    All parts together are the kept coordinates; arrays and parts are views.
    """
    for parameter in submodel.layout.parameters:
        full, kept = theta[parameter.span], values[submodel.spans[parameter.name]]
        yield from submodel.cutout(parameter).pairs(full, kept)
