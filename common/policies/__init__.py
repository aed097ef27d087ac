"""Extraction policies: which channels a client keeps in a round, one function each.

A policy is a function from a `Request` to positions within atoms, and deterministic in it, so an
assignment can be recomputed at any time. Those called ``element-…`` choose single weights instead.
To add one to the program, write the function and give it a name here; `common.extraction` finds
those of other packages.
"""

from common.policies.balanced import balanced
from common.policies.element import (
    element_importance,
    element_magnitude,
    element_magnitude_global,
    element_random,
)
from common.policies.fixed import full, magnitude, ordered, static
from common.policies.moving import covering, random, random_shared, rolling
from common.policies.quarters import quarters, quarters_ranked
from common.policies.request import Policy

POLICIES: dict[str, Policy] = {
    "full": full,
    "static": static,
    "ordered": ordered,
    "rolling": rolling,
    "random": random,
    "random-shared": random_shared,
    "covering": covering,
    "balanced": balanced,
    "magnitude": magnitude,
    "quarters": quarters,
    "quarters-ranked": quarters_ranked,
    "element-magnitude": element_magnitude,
    "element-magnitude-global": element_magnitude_global,
    "element-importance": element_importance,
    "element-random": element_random,
}
