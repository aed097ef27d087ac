"""How much each weight matters to the loss: what clients find, and the byte they report it in.

The score of a weight is the first-order estimate of the squared change of the loss if it were
removed, I = (g θ)² (Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning",
equation 8), averaged over the local steps. Scores span many orders of magnitude and only rank
weights, so their logarithm travels, in a byte.
"""

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

STEPS = 4
"""Steps to a factor of two: a score travels with an error of at most 9 per cent."""

LARGEST = 2.0**-4
"""Code 255; larger scores count as this. One weight that is worth a quarter of a unit of loss."""

SMALLEST = LARGEST * 2.0 ** (-254 / STEPS)
"""Code 1, about 5e-21; what is far smaller, and 0, is code 0."""

UNSCORED = -1.0
"""Stands in place of a score where no client has reported any yet."""


def encode_scores(scores: Float32[np.ndarray, " kept"]) -> bytes:
    """Return a byte for each score, 0 or greater; what is not a number becomes 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = 255 + STEPS * np.log2(scores / np.float32(LARGEST))
    return np.nan_to_num(codes, nan=0.0).round().clip(0, 255).astype(np.uint8).tobytes()


def decode_scores(codes: bytes) -> NDArray[np.float32]:
    """Return the scores that bytes stand for, each 0 or within `SMALLEST` … `LARGEST`."""
    return _SCORES[np.frombuffer(codes, np.uint8)]


_SCORES = (LARGEST * 2.0 ** ((np.arange(256) - 255) / STEPS)).astype(np.float32)
_SCORES[0] = 0.0
