"""From names of classes to numbers, and from one list of names to another."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
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
    # Systems write one and the same accented letter in two ways.
    found = [unicodedata.normalize("NFC", name) for name in found]
    different = set(found)
    names = in_order(different)
    if not _numbers(different):
        places = {name: place for place, name in enumerate(names)}
    else:
        twice = [n for n, count in Counter(map(int, different)).items() if count > 1]
        if twice:
            both = sorted(name for name in different if int(name) == twice[0])
            raise UserError(f"data: the classes {' and '.join(both)} of {where} are one number")
        places = {name: int(name) for name in different}
    return Classes(np.array([places[name] for name in found], dtype=np.int64), names)


def in_order(different: Collection[str]) -> tuple[str, ...]:
    """Return the list of all classes of which some are called so, each at its number."""
    if not _numbers(different):
        return tuple(sorted(different))
    return numbered(max(map(int, different), default=-1) + 1)


def numbered(count: int) -> tuple[str, ...]:
    """Return the names of so many classes that have nothing but numbers."""
    return tuple(map(str, range(count)))


def renumbered(
    labels: Int64[np.ndarray, " N"], names: Sequence[str], wanted: Sequence[str], where: str
) -> Int64[np.ndarray, " N"]:
    """Return labels as positions in another list of names.

    Args:
        labels: (N,), positions in `names`.
        names: Theirs.
        wanted: The other list.
        where: To name in an error.

    Raises:
        UserError: One that occurs is not in the other list.
    """
    places = {name: place for place, name in enumerate(wanted)}
    there = np.unique(labels)
    for place in there:
        if names[place] not in places:
            raise UserError(f"data: {where} has {unknown_class(names[place], wanted)}")
    table = np.zeros(len(names), dtype=np.int64)
    table[there] = [places[names[place]] for place in there]
    return table[labels]


def unknown_class(name: str, known: Sequence[str]) -> str:
    """Say that a class is none of those of a run."""
    those = said_classes(known)
    return f"the class {name!r}, which this run does not know; its classes are {those}"


def said_classes(names: Sequence[str]) -> str:
    """Return names of classes as they stand in a line."""
    if len(names) > 1 and tuple(names) == numbered(len(names)):
        return f"the numbers 0 … {len(names) - 1}"
    return ", ".join(names[:10]) + (" …" if len(names) > 10 else "")


def _numbers(names: Iterable[str]) -> bool:
    """Say whether all names are numbers of classes, with or without zeros before them."""
    return all(re.fullmatch("[0-9]{1,5}", n) and int(n) < MOST_CLASSES for n in names)
