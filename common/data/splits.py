"""Which images are held out: what the source says itself, or a part of each class or of groups."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64

from common.errors import UserError

HELD_OUT_OWN = 5
"""Of each class, or of all groups, every so many-th is held out."""

TRAIN = ("train", "training")
VALIDATION = ("val", "valid", "validation", "dev")
TEST = ("test", "testing")

_Mask = Bool[np.ndarray, " N"]


def split_of(name: str) -> str:
    """Return train, validation or test where a name says so, else nothing."""
    for split, names in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        if name.lower() in names:
            return split
    return ""


def held_out_split(splits: Sequence[str] | set[str]) -> str:
    """Return which of a source's splits is held out: test, else validation, else nothing."""
    return next((split for split in ("test", "validation") if split in splits), "")


def every_fifth(labels: Int64[np.ndarray, " N"], source: str) -> _Mask:
    """Hold out every fifth image of each class.

    Raises:
        UserError: No class has five.
    """
    ranks = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        ranks[members] = np.arange(len(members))
    held_out = ranks % HELD_OUT_OWN == HELD_OUT_OWN - 1
    if not held_out.any():
        raise UserError(
            f"data: {source} has no class of {HELD_OUT_OWN} images, so that none can be held out"
        )
    return held_out


def whole_groups(groups: np.ndarray, column: str, source: str) -> _Mask:
    """Hold out every fifth group, in the order of their names, or the last of fewer.

    Raises:
        UserError: There is only one.
    """
    names = np.unique(groups)
    if len(names) < 2:
        raise UserError(
            f"pictures.group: {source} has one {column} alone, so that none can be held out"
        )
    chosen = names[HELD_OUT_OWN - 1 :: HELD_OUT_OWN] if len(names) >= HELD_OUT_OWN else names[-1:]
    return np.isin(groups, chosen)
