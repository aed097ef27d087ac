"""Extraction: from a policy's name and a request to the submodel that a client is assigned.

The policies themselves are in `common.policies`, one function each; nothing else in the program
knows which of them is running.
"""

import re
from functools import cache

from common.errors import UserError
from common.policies import POLICIES
from common.policies.core import with_core
from common.policies.foreign import foreign_policy, offered
from common.policies.request import GlobalWeights, Policy, Positions, Request
from common.submodel import Submodel

__all__ = [
    "POLICIES",
    "GlobalWeights",
    "Policy",
    "Positions",
    "Request",
    "choose",
    "policy_named",
    "submodel_for",
]


def submodel_for(policy: str, request: Request) -> Submodel:
    """Return the submodel that a policy assigns.

    Raises:
        UserError: No such policy, or it cannot serve this layout.
    """
    k, positions = choose(policy, request)
    return Submodel.from_positions(request.layout, k, positions)


def choose(policy: str, request: Request) -> tuple[int, Positions]:
    """Return how many channels an atom keeps and which.

    Raises:
        UserError: No such policy, or it cannot serve this layout.
    """
    positions = policy_named(policy)(request)
    return next((each.shape[-1] for each in positions.values()), request.k), positions


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
        return with_core(int(core[1] or 1), policy_named(core[2]))
    policy = POLICIES.get(name) or foreign_policy(name)
    if policy is None:
        names = ", ".join([*POLICIES, *offered(), "core+POLICY"])
        raise UserError(f"policy: '{name}' is not one of {names} or package.module:function")
    return policy
