"""Extraction policies by name: which channels or weights a client keeps, one function each.

To add one to the program, write its function and give it a name here; `server.policies.choose`
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
    "full": Policy(full),
    "static": Policy(static),
    "ordered": Policy(ordered),
    "rolling": Policy(rolling),
    "random": Policy(random),
    "random-shared": Policy(random_shared),
    "covering": Policy(covering),
    "balanced": Policy(balanced),
    "magnitude": Policy(magnitude, by_weights=True),
    "quarters": Policy(quarters, by_type=True),
    "quarters-ranked": Policy(quarters_ranked, by_type=True, by_weights=True),
    "element-magnitude": Policy(element_magnitude, single_weights=True, by_weights=True),
    "element-magnitude-global": Policy(
        element_magnitude_global, single_weights=True, by_weights=True
    ),
    "element-random": Policy(element_random, single_weights=True),
}
