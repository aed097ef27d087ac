"""Who keeps which channels: the extraction policies, by name."""

from server.policies.choose import bitmask_of, policy_named, submodel_for
from server.policies.registry import POLICIES
from server.policies.request import GlobalWeights, Policy, Request

__all__ = [
    "POLICIES",
    "GlobalWeights",
    "Policy",
    "Request",
    "bitmask_of",
    "policy_named",
    "submodel_for",
]
