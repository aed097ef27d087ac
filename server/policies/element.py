"""Element-wise policies: which single weights a client keeps, whatever channel they belong to.

The density asked for is k/a of the weights. One-dimensional parameters, gains and biases, are few
and kept whole, as is what no axis runs along.
"""

import math

import numpy as np
from jaxtyping import Bool

from common.submodels import Parameter
from server.policies.request import Mask, Request

_TINY = float(np.finfo(np.float32).tiny)


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


def element_importance(request: Request) -> Mask:
    """Keep in every layer the weights whose removal would change the loss most.

    Ranked by the Taylor score (g θ)² that clients report (Molchanov et al. 2019, equation 8;
    `common.wire.scores`). A weight keeps its score while nobody trains it. One that nobody has
    scored is credited with the mean squared gradient of its layer, the empirical Fisher
    information, times θ²; so before there are any scores the largest weights are kept.
    """
    scores = np.square(request.theta)
    reported = request.scores
    if reported is not None:
        for parameter in request.layout.parameters:
            ours, theirs = scores[parameter.span], reported[parameter.span]
            known = theirs >= 0
            if known.any():
                squares = ours[known].sum(dtype=np.float64)
                fisher = theirs[known].sum(dtype=np.float64) / max(squares, _TINY)
                ours[...] = np.where(known, theirs, ours * np.float32(fisher))
    return _largest_of_each(request, scores)


def element_random(request: Request) -> Mask:
    """Draw the kept weights of every layer, independently for each client and round."""
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
