"""Stretches: the `refresh-every` rounds in which every client keeps the same channels."""

import numpy as np
from jaxtyping import Float32

from common.config import RunConfig
from server.policies import policy_named


def stretch_of(config: RunConfig, round: int) -> int:
    """Return the number of the stretch that a round is in, both counted from 1."""
    return 1 + (round - 1) // _length(config, round)


def begins_stretch(config: RunConfig, round: int) -> bool:
    """Say whether clients move in a round, 1 or later."""
    return (round - 1) % _length(config, round) == 0


def anchor_after(
    config: RunConfig,
    round: int,
    theta: Float32[np.ndarray, "P"],
    anchor: Float32[np.ndarray, "P"] | None,
) -> Float32[np.ndarray, "P"] | None:
    """Return the weights by which clients stay where they are, None if they need not be kept.

    Those are the weights before the first round of the stretch. Nothing is kept if the next round
    begins another one, or the policy does not look at weights.

    Args:
        config: The run's configuration.
        round: The round that is complete.
        theta: The weights before it.
        anchor: What was kept before it.
    """
    if begins_stretch(config, round + 1) or not policy_named(config.policy).by_weights:
        return None
    return theta if anchor is None else anchor


def _length(config: RunConfig, round: int) -> int:
    # 0 is the whole run: then every round is in the first stretch, however many there are.
    return config.refresh_every or round
