"""Some rows of an array that stays where it is, such as in a memory map."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of an array in an order of their own: nothing is copied before it is asked for.

    Attributes:
        stored: The array.
        places: (N,), which of its rows.
    """

    stored: np.ndarray
    places: Int64[np.ndarray, " N"]

    @property
    def shape(self) -> tuple[int, ...]:
        """As if the rows were copied out."""
        return (len(self.places), *self.stored.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        return self.stored.dtype

    @property
    def ndim(self) -> int:
        """How many dimensions the rows together have."""
        return self.stored.ndim

    @property
    def size(self) -> int:
        """How many values the rows have together."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, key: Any) -> Any:
        """Values as an array of their own, as `stored` would give them."""
        first, *rest = key if isinstance(key, tuple) else (key,)
        return np.array(self.stored[(self.places[first], *rest)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)


def rows_of(stored: np.ndarray | Rows, places: Int64[np.ndarray, " N"]) -> Rows:
    """Return some rows of an array, or of what are themselves rows of one."""
    if isinstance(stored, Rows):
        return Rows(stored.stored, stored.places[places])
    return Rows(stored, places)
