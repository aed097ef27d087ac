"""The layouts and fleets that the benchmarks run on."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from common.config import ModelConfig, parse_fleet
from common.network import layout_of
from common.submodels import Axis, Channels, CompactSubmodel, Layout, Parameter
from server.policies import Request, submodel_for

DIGITS = ModelConfig()
"""The default job's architecture, for 1x8x8."""

PATCHES32 = ModelConfig(widths=(64, 128, 128), layers=1, attention=(1,), groups=16)
"""A UNet of 3 M parameters for 3x32x32."""

CIFAR10_DDPM = ModelConfig(
    widths=(128, 256, 256, 256),
    layers=2,
    attention=(1,),
    groups=32,
    norm_eps=1e-6,
    freq_shift=1,
    flip_sin_to_cos=False,
    downsample_padding=0,
)
"""Ho et al. 2020's UNet for CIFAR-10, 35.7 M parameters."""


@dataclass(frozen=True)
class Workload:
    """A round as aggregation sees it."""

    layout: Layout
    fleet: str

    def submodels(self, policy: str = "static") -> list[CompactSubmodel]:
        """Return every client's submodel, freshly made: nothing about it is worked out yet."""
        rates, submodels = parse_fleet(self.fleet), []
        for i, rate in enumerate(rates):
            request = Request(
                layout=self.layout,
                k=self.layout.kept_per_atom(rate),
                index=rates[:i].count(rate),
                count=rates.count(rate),
                stretch=1,
                rng=np.random.default_rng(i),
            )
            submodel = submodel_for(policy, request)
            assert isinstance(submodel, CompactSubmodel), "a policy of channels"
            submodels.append(submodel)
        return submodels


def workload(name: str) -> Workload:
    """Return workload A, B or C."""
    if name == "A":
        return Workload(resnet18(), "1x2 1/2x2 1/4x2 1/8x2 1/16x2")
    fleet = {"B": "1x2 1/2x4 1/4x4", "C": "1x20 1/2x40 1/4x40"}[name]
    return Workload(layout_of(CIFAR10_DDPM, 3), fleet)


def resnet18(classes: int = 10, atom: int = 16) -> Layout:
    """Return the layout of ResNet-18 (He et al. 2016) for small images, 11.2 M parameters.

    Residual additions tie all blocks of a stage to one axis; each block has a hidden axis besides.
    """
    tensors: list[tuple[str, tuple[Channels, ...], tuple[int, ...]]] = []

    def conv(name: str, out: Channels, inp: Channels, kernel: int, image: int = 0) -> None:
        size = sum(axis.size for axis in inp) or image
        shape = (out[0].size, size, kernel, kernel)
        tensors.append((f"{name}.weight", (out, inp, (), ()), shape))
        tensors.extend(
            (f"{name}.norm.{leaf}", (out,), (out[0].size,)) for leaf in ("weight", "bias")
        )

    x: Channels = (Axis("stage1", 64),)
    conv("stem", x, (), 3, image=3)
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            name = f"stage{stage}.{block}"
            hidden, out = (Axis(f"{name}.hidden", width),), (Axis(f"stage{stage}", width),)
            conv(f"{name}.conv1", hidden, x, 3)
            conv(f"{name}.conv2", out, hidden, 3)
            if x != out:
                conv(f"{name}.shortcut", out, x, 1)
            x = out
    tensors += [("fc.weight", ((), x), (classes, 512)), ("fc.bias", ((),), (classes,))]
    return Layout(tuple(_placed(tensors)), atom)


def _placed(
    tensors: list[tuple[str, tuple[Channels, ...], tuple[int, ...]]],
) -> Iterator[Parameter]:
    offset = 0
    for name, channels, shape in tensors:
        yield Parameter(name, shape, channels, offset)
        offset += prod(shape)
