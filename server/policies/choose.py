"""Extraction: from a policy's name and a request to the submodel that a client is assigned.

The policies themselves are in `server.policies`, one function each; nothing else in the program
knows which of them is running.
"""

import re
from functools import cache

import numpy as np

from common.errors import UserError
from common.submodels import CompactSubmodel, Layout, MaskedSubmodel, Submodel
from server.policies.core import with_core
from server.policies.foreign import foreign_policy, offered
from server.policies.registry import POLICIES
from server.policies.request import Mask, Policy, Positions, Request


def submodel_for(policy: str, request: Request) -> Submodel:
    """Return the submodel that a policy assigns.

    Raises:
        UserError: No such policy, or it cannot serve this layout.
    """
    return assigned(request.layout, policy_named(policy)(request))


def assigned(layout: Layout, choice: Positions | Mask) -> Submodel:
    """Return the submodel of what a policy chose: compact, or masked if these are coordinates."""
    if isinstance(choice, np.ndarray):
        return MaskedSubmodel(layout, choice)
    k = next((positions.shape[-1] for positions in choice.values()), layout.atom)
    return CompactSubmodel.from_positions(layout, k, choice)


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


@cache
def policy_named(name: str) -> Policy:
    """Return a policy by its name.

    Args:
        name: One of ours, of an entry point, or ``package.module:name``; with a core of one or
            more positions as ``core+NAME`` and ``core2+NAME``.

    Raises:
        UserError: There is no such policy; the line lists those that there are.
    """
    if core := re.fullmatch(r"core(\d*)\+(.+)", name):
        inner = policy_named(core[2])
        if inner.single_weights:
            raise UserError(f"policy: '{name}' has a core of channels, {core[2]} no channels")
        return with_core(int(core[1] or 1), inner)
    policy = POLICIES.get(name) or foreign_policy(name)
    if policy is None:
        names = ", ".join([*POLICIES, *offered(), "core+POLICY"])
        raise UserError(f"policy: '{name}' is not one of {names} or package.module:name")
    return policy
