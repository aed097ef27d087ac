"""Layers that know their channel axes, and the plan that gives each axis its width.

A network is declared in terms of `Channels` (tuples of named axes) instead of integers. Its `Plan`
says how many channels of every axis are kept, and collects on the way what the architecture demands
of the atoms: where GroupNorm groups and attention heads begin on each axis. The layout of any
network built from these layers is then read off, never listed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.submodels import Axis, Channels, Layout, Parameter

FIXED: Channels = ()
"""A dimension along which nothing is ever dropped."""

Features = Channels | int
"""Channel axes, or how many features a dimension has along which nothing is ever dropped."""


@dataclass
class Plan:
    """How wide each axis is built.

    Args:
        widths: Channels kept on each axis, by name; None builds the full model.
        scaler: Divide a layer's input sums by the kept fraction of its inputs (HeteroFL's scaler,
            Diao et al. 2021, section 3), so that activations keep the full model's level.
    """

    widths: Mapping[str, int] | None = None
    scaler: bool = True
    boundaries: list[int] = field(default_factory=list)

    def axis(self, name: str, size: int) -> Channels:
        """Declare a new axis; its size is itself a boundary that atoms must respect."""
        self.boundaries.append(size)
        return (Axis(name, size),)

    def width(self, channels: Features) -> int:
        """Return how many channels of these axes are built; fixed features are all built."""
        if isinstance(channels, int):
            return channels
        if self.widths is None:
            return full_width(channels)
        return sum(self.widths[axis.name] for axis in channels)

    def input_scale(self, channels: Channels) -> float:
        """Return the factor that makes up for dropped inputs; exactly 1 for the full model."""
        if not channels or not self.scaler:
            return 1.0
        return full_width(channels) / self.width(channels)

    def groups(self, channels: Channels, count: int, owner: str) -> None:
        """Record that these channels are normalised in `count` equal groups.

        Raises:
            UserError: The groups do not divide the channels.
        """
        size = full_width(channels)
        if size % count:
            raise UserError(f"model.groups: {count} groups do not divide {owner}'s {size} channels")
        start = 0
        for axis in channels:
            inside = range(start - start % (size // count), start + axis.size, size // count)
            self.boundaries += [edge - start for edge in inside if edge > start]
            start += axis.size

    @property
    def atom(self) -> int:
        """The largest number of channels that divides every recorded boundary."""
        return math.gcd(*self.boundaries)


def axes_of(channels: Features) -> Channels:
    """Return the axes that run along a dimension."""
    return FIXED if isinstance(channels, int) else channels


def full_width(channels: Channels) -> int:
    """Return the number of channels of these axes in the full model."""
    return sum(axis.size for axis in channels)


class Conv2d(nn.Conv2d):
    """A convolution between channel axes; an int stands for a fixed number of channels."""

    bias: Tensor  # always there, which the base class leaves open

    def __init__(
        self,
        plan: Plan,
        inp: Features,
        out: Features,
        kernel: int = 3,
        stride: int = 1,
        padding: int = 0,
    ) -> None:
        i, o = axes_of(inp), axes_of(out)
        super().__init__(plan.width(inp), plan.width(out), kernel, stride, padding)
        self.input_scale = plan.input_scale(i)
        self.channels = {"weight": (o, i, FIXED, FIXED), "bias": (o,)}

    def forward(self, input: Tensor) -> Tensor:
        """Convolve, the weight times `input_scale`."""
        return self._conv_forward(input, self._scaled(), self.bias)

    def without_bias(self, input: Tensor) -> Tensor:
        """Convolve without adding the bias, which the caller does."""
        return self._conv_forward(input, self._scaled(), None)

    def _scaled(self) -> Tensor:
        # Scaling the small weight instead of the large activation costs next to nothing.
        return self.weight if self.input_scale == 1.0 else self.weight * self.input_scale


class Linear(nn.Linear):
    """A linear map between channel axes; an int stands for a fixed number of features."""

    def __init__(self, plan: Plan, inp: Features, out: Features) -> None:
        i, o = axes_of(inp), axes_of(out)
        super().__init__(plan.width(inp), plan.width(out))
        self.input_scale = plan.input_scale(i)
        self.channels = {"weight": (o, i), "bias": (o,)}

    def forward(self, input: Tensor) -> Tensor:
        """Multiply, the weight times `input_scale`."""
        weight = self.weight if self.input_scale == 1.0 else self.weight * self.input_scale
        return F.linear(input, weight, self.bias)


class GroupNorm(nn.GroupNorm):
    """Group normalisation over channel axes; a submodel keeps all groups, each of them smaller."""

    def __init__(self, plan: Plan, channels: Channels, groups: int, eps: float, owner: str) -> None:
        plan.groups(channels, groups, owner)
        super().__init__(groups, plan.width(channels), eps)
        self.channels = {"weight": (channels,), "bias": (channels,)}


class Embedding(nn.Embedding):
    """A table of class embeddings whose features lie on a channel axis."""

    def __init__(self, plan: Plan, count: int, out: Channels) -> None:
        super().__init__(count, plan.width(out))
        self.channels = {"weight": (FIXED, out)}


def take_input_scales(model: nn.Module) -> dict[str, float]:
    """Set all `input_scale` to 1; return those that were not, by the name of their weight.

    The caller then has to scale these weights itself: once a step, say, instead of in each call.
    """
    scales = {}
    for name, layer in model.named_modules():
        if isinstance(layer, Conv2d | Linear) and layer.input_scale != 1.0:
            scales[f"{name}.weight"], layer.input_scale = layer.input_scale, 1.0
    return scales


def read_layout(model: nn.Module, atom: int) -> Layout:
    """Read the layout off a full model built from this module's layers.

    Parameters stand in the order of `named_parameters`, which is the order of `theta`.
    """
    parameters: list[Parameter] = []
    offset = 0
    for name, tensor in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        channels = model.get_submodule(owner).channels
        assert isinstance(channels, dict)
        parameters.append(Parameter(name, tuple(tensor.shape), channels[leaf], offset))
        offset += tensor.numel()
    return Layout(tuple(parameters), atom)
