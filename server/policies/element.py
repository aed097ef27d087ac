"""Element-wise policies: which single weights a client keeps, whatever channel they belong to.

The density asked for is k/a of the weights. One-dimensional parameters, gains and biases, are few
and kept whole, as is what no axis runs along.
"""

import math

import numpy as np
from jaxtyping import Bool

from common.submodels import Parameter
from server.policies.request import Mask, Request


def element_magnitude(request: Request) -> Mask:
    """Keep in every layer the weights of largest absolute value (Han et al. 2015)."""
    return _largest_of_each(request, np.abs(request.theta))


def element_magnitude_global(request: Request) -> Mask:
    """Keep the weights of largest absolute value among those of all layers (Han et al. 2015)."""
    mask, weights = _small_parts(request), np.abs(request.theta)
    candidates = np.flatnonzero(~mask)
    keep = _count(request, candidates.size)
    order = np.argsort(-weights[candidates], kind="stable")
    mask[candidates[order[:keep]]] = True
    return mask


def element_random(request: Request) -> Mask:
    """Draw the kept weights of every layer, independently for each client and stretch."""
    return _largest_of_each(request, request.rng.random(request.layout.size, dtype=np.float32))


def _largest_of_each(request: Request, scores: np.ndarray) -> Mask:
    """Keep in every layer the weights of the highest scores, of equals the first."""
    mask = _small_parts(request)
    for parameter in request.layout.parameters:
        if not _small(parameter):
            keep = _count(request, parameter.size)
            order = np.argsort(-scores[parameter.span], kind="stable")
            mask[parameter.offset + order[:keep]] = True
    return mask


def _count(request: Request, weights: int) -> int:
    return math.ceil(weights * request.k / request.layout.atom)


def _small(parameter: Parameter) -> bool:
    return len(parameter.shape) < 2 or not any(parameter.channels)


def _small_parts(request: Request) -> Bool[np.ndarray, "P"]:
    mask = np.zeros(request.layout.size, dtype=bool)
    for parameter in request.layout.parameters:
        mask[parameter.span] = _small(parameter)
    return mask
