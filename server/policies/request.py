"""What an extraction policy is, what it is asked, and what it answers."""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float32, Float64
from numpy.typing import NDArray

from common.submodels import Layout, by_coordinate

Positions = Mapping[str, NDArray[np.integer]]
"""For each axis, the positions kept in every atom (k,) or in each atom (atoms, k)."""


class GlobalWeights:
    """The global weights, fetched when a policy first looks at them.

    Args:
        layout: The model's table.
        fetch: Returns the weights.
    """

    def __init__(
        self,
        layout: Layout,
        fetch: Callable[[], Float32[np.ndarray, "P"]],
    ) -> None:
        self.layout = layout
        self._fetch = fetch

    @cached_property
    def theta(self) -> Float32[np.ndarray, "P"]:
        """The weights in the layout's order, read-only."""
        return _read_only(self._fetch())

    @cached_property
    def channel_norms(self) -> dict[str, Float64[np.ndarray, "_"]]:
        """For each axis the Euclidean norm of all weights that read or write a channel."""
        squares = {name: np.zeros(axis.size) for name, axis in self.layout.axes.items()}
        for parameter in self.layout.parameters:
            view = np.square(self.layout.view(self.theta, parameter), dtype=np.float64)
            for dimension, channels in enumerate(parameter.channels):
                others = tuple(i for i in range(view.ndim) if i != dimension)
                sums, start = view.sum(axis=others), 0
                for axis in channels:
                    squares[axis.name] += sums[start : start + axis.size]
                    start += axis.size
        return {name: np.sqrt(total) for name, total in squares.items()}


@dataclass(frozen=True, kw_only=True)
class Request:
    """All that a policy may see.

    Attributes:
        layout: The model's table.
        k: Channels to keep in every atom, 1 … ``layout.atom``.
        index: The client's place among the clients of its rate, from 0.
        count: The number of clients of its rate.
        stretch: The number, from 1, of the stretch of rounds in which nobody moves; these are
            `refresh-every` rounds, by default one.
        rng: A stream of this client in this stretch alone.
        seed: The run's, for streams that several clients or stretches share.
        widths: The `k` of every rate in the fleet.
        code: The client's type in a fleet written as Zhou's code, 1 … 7; else 0.
        weights: The global weights before this stretch, for a policy that chooses by them.
    """

    layout: Layout
    k: int
    index: int
    count: int
    stretch: int
    rng: np.random.Generator
    seed: int = 0
    widths: tuple[int, ...] = ()
    code: int = 0
    weights: GlobalWeights | None = None

    @property
    def slot(self) -> int:
        """The running number of this assignment within the client's rate class, from 0."""
        return (self.stretch - 1) * self.count + self.index

    @property
    def theta(self) -> Float32[np.ndarray, "P"]:
        """The global weights before this stretch, read-only.

        Raises:
            ValueError: The request has no weights.
        """
        if self.weights is None:
            raise ValueError("this policy needs the global weights")
        return self.weights.theta

    @property
    def channel_norms(self) -> dict[str, Float64[np.ndarray, "_"]]:
        """For each axis the Euclidean norm of all weights that read or write a channel.

        Raises:
            ValueError: The request has no weights.
        """
        if self.weights is None:
            raise ValueError("this policy needs the global weights")
        return self.weights.channel_norms


Mask = Bool[np.ndarray, "P"]
"""True for every coordinate that is kept, in the layout's order."""


@dataclass(frozen=True)
class Policy:
    """A way to choose what a client keeps: a function, and what else has to be known of it.

    The function is deterministic in its request, so an assignment can be recomputed at any time.

    Attributes:
        choose: Returns positions of channels, for a compact submodel; or a mask, for a masked one.
        single_weights: Whether it returns masks.
        by_weights: Whether it chooses by the global weights; if not, requests come without them.
        by_type: Whether it needs a fleet written in Zhou's client types (`common.config.fleet`).
    """

    choose: Callable[[Request], Positions | Mask]
    _: KW_ONLY
    single_weights: bool = False
    by_weights: bool = False
    by_type: bool = False

    def __call__(self, request: Request) -> Positions | Mask:
        """Return what a client keeps.

        Raises:
            UserError: The policy cannot serve the layout or the fleet.
        """
        return self.choose(request if self.by_weights else replace(request, weights=None))

    def coverage_layout(self, layout: Layout) -> Layout:
        """Return the layout in which coverage is counted: by channels, or by single weights."""
        return by_coordinate(layout) if self.single_weights else layout


def _read_only(vector: Float32[np.ndarray, "P"]) -> Float32[np.ndarray, "P"]:
    view = vector.view()
    view.flags.writeable = False
    return view


def everywhere(layout: Layout, positions: NDArray[np.integer]) -> Positions:
    """Return the same positions for every axis."""
    return dict.fromkeys(layout.axes, positions)


def by_axis(layout: Layout, rows: NDArray[np.integer]) -> Positions:
    """Cut positions (all atoms, k) into one array for each axis, in the layout's order."""
    atoms = np.cumsum([axis.size // layout.atom for axis in layout.axes.values()])
    return dict(zip(layout.axes, np.split(rows, atoms[:-1]), strict=True))


def all_atoms(layout: Layout) -> int:
    """Return the number of atoms on all axes together."""
    return sum(axis.size for axis in layout.axes.values()) // layout.atom
