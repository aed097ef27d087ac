"""Who keeps which channels: the extraction policies, by name."""

from server.policies.choose import (
    bitmask_of,
    coverage_layout,
    elementwise,
    looks_at_weights,
    policy_named,
    submodel_for,
)
from server.policies.registry import POLICIES
from server.policies.request import GlobalWeights, Request

__all__ = [
    "POLICIES",
    "GlobalWeights",
    "Request",
    "bitmask_of",
    "coverage_layout",
    "elementwise",
    "looks_at_weights",
    "policy_named",
    "submodel_for",
]
