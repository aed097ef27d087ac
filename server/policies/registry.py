"""Extraction policies: which channels a client keeps in a round, one function each.

A policy is a function from a `Request` to positions within atoms, and deterministic in it, so an
assignment can be recomputed at any time. Those called ``element-…`` choose single weights instead.
To add one to the program, write the function and give it a name here; `server.policies.choose`
finds those of other packages.
"""

from server.policies.balanced import balanced
from server.policies.element import (
    element_magnitude,
    element_magnitude_global,
    element_random,
)
from server.policies.fixed import full, magnitude, ordered, static
from server.policies.moving import covering, random, random_shared, rolling
from server.policies.quarters import quarters, quarters_ranked
from server.policies.request import Policy

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
    "element-random": element_random,
}

BY_WEIGHTS = {"magnitude", "quarters-ranked", "element-magnitude", "element-magnitude-global"}
"""Those that look at the global weights."""
