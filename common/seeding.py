"""The only source of randomness: every draw is named by what it is for.

Node identities change from run to run and replies arrive in any order, so no generator may be
shared or advanced across rounds. Each use asks for its own stream, keyed by what stays the same:
the run's seed, the round, the partition (or device) and a purpose.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

SERVER = -1
"""The partition number under which the server draws."""


def rng_for(seed: int, round: int, partition: int, purpose: str) -> np.random.Generator:
    """Return the independent random stream of one purpose in one round of one partition.

    Args:
        seed: The run's seed, 0 or greater.
        round: The round, 0 before training.
        partition: The client's partition, or `SERVER`.
        purpose: A word such as ``"batches"``; different words give independent streams.
    """
    key = [seed, round, partition - SERVER, zlib.crc32(purpose.encode())]
    return np.random.default_rng(np.random.SeedSequence(key))


def torch_generator(rng: np.random.Generator) -> torch.Generator:
    """Return a CPU torch generator seeded from one draw of `rng`."""
    import torch  # a client that only answers the roll-call starts in half the time without it

    return torch.Generator().manual_seed(int(rng.integers(2**63 - 1)))
