"""Images that a narrow width has drawn, for clients to train on beside their own."""

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from jaxtyping import Int64, UInt8


@dataclass(frozen=True, kw_only=True, eq=False)
class Replay:
    """Images drawn from a width, for clients that train a wider one.

    Attributes:
        images: Levels from 0 for black to 255.
        labels: Their classes; zeros of an unconditional model.
        teacher: Channels kept in every atom of the width that drew them. Only wider ones learn from
            them: a width that trains on its own samples drifts off with its own errors.
        share: The part of a batch that is taken from them, in (0, 1).
    """

    images: UInt8[np.ndarray, "N C H W"]
    labels: Int64[np.ndarray, " N"]
    teacher: int
    share: Fraction

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def digest(self) -> str:
        """Names the replay in a task's spec."""
        state = hashlib.sha256(repr((self.images.shape, self.teacher, str(self.share))).encode())
        state.update(np.ascontiguousarray(self.images).data)
        state.update(np.ascontiguousarray(self.labels).data)
        return state.hexdigest()[:16]

    def examples(self, batch: int) -> int:
        """Return how many of a batch its images take the place of: one is always the client's."""
        return min(batch - 1, round(self.share * batch))
