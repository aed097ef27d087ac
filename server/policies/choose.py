"""Extraction: from a policy's name and a request to the submodel that a client is assigned.

The policies themselves are in `server.policies`, one function each; nothing else in the program
knows which of them is running.
"""

import re
from functools import cache
from typing import cast

import numpy as np

from common.errors import UserError
from common.submodels import Layout, Submodel, by_coordinate, masked_submodel
from server.policies.core import with_core
from server.policies.foreign import foreign_policy, offered
from server.policies.registry import BY_WEIGHTS, POLICIES
from server.policies.request import (
    GlobalWeights,
    Mask,
    Policy,
    Positions,
    Request,
    StructuredPolicy,
)

__all__ = [
    "POLICIES",
    "GlobalWeights",
    "Mask",
    "Policy",
    "Positions",
    "Request",
    "assigned",
    "bitmask_of",
    "coverage_layout",
    "elementwise",
    "looks_at_weights",
    "policy_named",
    "submodel_for",
]


def submodel_for(policy: str, request: Request) -> Submodel:
    """Return the submodel that a policy assigns.

    Raises:
        UserError: No such policy, or it cannot serve this layout.
    """
    return assigned(request.layout, policy_named(policy)(request))


def assigned(layout: Layout, choice: Positions | Mask) -> Submodel:
    """Return the submodel of what a policy chose: compact, or masked if these are coordinates."""
    if isinstance(choice, np.ndarray):
        return masked_submodel(layout, choice)
    k = next((positions.shape[-1] for positions in choice.values()), layout.atom)
    return Submodel.from_positions(layout, k, choice)


def bitmask_of(layout: Layout, choice: Positions | Mask) -> bytes:
    """Return the bitmask of the submodel of what a policy chose, without building it."""
    if isinstance(choice, np.ndarray):
        return np.packbits(choice).tobytes()
    rows = [
        np.broadcast_to(choice[name], (axis.size // layout.atom, choice[name].shape[-1]))
        for name, axis in layout.axes.items()
    ]
    bits = np.zeros((layout.mask_bits // layout.atom, layout.atom), dtype=bool)
    np.put_along_axis(bits, np.concatenate(rows), True, axis=1)
    return np.packbits(bits).tobytes()


def elementwise(policy: str) -> bool:
    """Return whether a policy chooses single coordinates."""
    return policy in POLICIES and policy.startswith("element-")


def looks_at_weights(policy: str) -> bool:
    """Return whether a policy may choose by the global weights; so may any of another package."""
    name = re.sub(r"^(core\d*\+)+", "", policy)
    return name not in POLICIES or name in BY_WEIGHTS


def coverage_layout(policy: str, layout: Layout) -> Layout:
    """Return the layout in which a policy's coverage is counted."""
    return by_coordinate(layout) if elementwise(policy) else layout


@cache
def policy_named(name: str) -> Policy:
    """Return a policy by its name.

    Args:
        name: One of ours, of an entry point, or ``package.module:function``; with a core of one or
            more positions as ``core+NAME`` and ``core2+NAME``.

    Raises:
        UserError: There is no such policy; the line lists those that there are.
    """
    if core := re.fullmatch(r"core(\d*)\+(.+)", name):
        if elementwise(core[2]):
            raise UserError(f"policy: '{name}' has a core of channels, {core[2]} no channels")
        return with_core(int(core[1] or 1), cast(StructuredPolicy, policy_named(core[2])))
    policy = POLICIES.get(name) or foreign_policy(name)
    if policy is None:
        names = ", ".join([*POLICIES, *offered(), "core+POLICY"])
        raise UserError(f"policy: '{name}' is not one of {names} or package.module:function")
    return policy
