"""Policies with a core: some positions in every submodel, the rest chosen by another policy."""

from dataclasses import replace
from functools import cache
from itertools import accumulate
from math import prod
from typing import cast

import numpy as np

from common.submodels import Axis, CompactSubmodel, Layout, Parameter, extract
from server.policies.fixed import static
from server.policies.request import GlobalWeights, Policy, Positions, Request


def with_core(core: int, policy: Policy) -> Policy:
    """Return the policy that keeps positions 0 … core-1 and lets one of channels choose the others.

    The other policy is asked as if the core did not exist: for a model without it, of smaller
    atoms. Clients of no more than `core` channels in an atom keep the first of them, as `static`.
    """

    def chosen(request: Request) -> Positions:
        if request.k <= core:
            return static(request)
        rest, layout = _without_core(request.layout, core)
        weights = request.weights
        inner = replace(
            request,
            layout=layout,
            k=request.k - core,
            widths=tuple(k - core for k in request.widths if k > core),
            weights=weights and GlobalWeights(layout, lambda: extract(weights.theta, rest)),
        )
        return {
            name: _prefixed(core, positions)
            for name, positions in cast(Positions, policy(inner)).items()
        }

    return replace(policy, choose=chosen)


def _prefixed(core: int, positions: np.ndarray) -> np.ndarray:
    first = np.broadcast_to(np.arange(core), (*positions.shape[:-1], core))
    return np.concatenate([first, positions + core], axis=-1)


@cache
def _without_core(layout: Layout, core: int) -> tuple[CompactSubmodel, Layout]:
    """Return the submodel of everything but the core, and the layout of its compact network."""
    left = layout.atom - core
    others = dict.fromkeys(layout.axes, np.arange(core, layout.atom))
    rest = CompactSubmodel.from_positions(layout, left, others)
    axes = {name: Axis(name, width) for name, width in rest.widths.items()}
    shapes = [rest.shape(parameter) for parameter in layout.parameters]
    offsets = accumulate(map(prod, shapes), initial=0)
    parameters = tuple(
        Parameter(
            parameter.name,
            shape,
            tuple(tuple(axes[axis.name] for axis in channels) for channels in parameter.channels),
            offset,
        )
        for parameter, shape, offset in zip(layout.parameters, shapes, offsets, strict=False)
    )
    return rest, Layout(parameters, left)
