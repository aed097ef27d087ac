"""From names of classes to numbers."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from common.errors import UserError

MOST_CLASSES = 1000
"""Numbers from here on are names, such as years, or identifiers."""


class Classes(NamedTuple):
    """Labelled things.

    Attributes:
        labels: (N,), positions in `names`.
        names: Of the classes; all classes up to the greatest where they are numbers.
    """

    labels: Int64[np.ndarray, " N"]
    names: tuple[str, ...]


def classes_of(found: Sequence[str], where: str) -> Classes:
    """Number what is called by these names: numbers are themselves, other names are sorted.

    Args:
        found: (N,) names.
        where: To name in an error.

    Raises:
        UserError: Two names are one number.
    """
    different = set(found)
    if not _numbers(different):
        names = tuple(sorted(different))
        places = {name: place for place, name in enumerate(names)}
    else:
        twice = [n for n, count in Counter(map(int, different)).items() if count > 1]
        if twice:
            both = sorted(name for name in different if int(name) == twice[0])
            raise UserError(f"data: the classes {' and '.join(both)} of {where} are one number")
        places = {name: int(name) for name in different}
        names = tuple(map(str, range(max(places.values(), default=-1) + 1)))
    return Classes(np.array([places[name] for name in found], dtype=np.int64), names)


def _numbers(names: Iterable[str]) -> bool:
    """Say whether all names are numbers of classes, with or without zeros before them."""
    return all(re.fullmatch("[0-9]{1,5}", n) and int(n) < MOST_CLASSES for n in names)
