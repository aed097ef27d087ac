"""Work on long vectors, a tile at a time, so that what is worked on stays in cache."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from jaxtyping import Float64

T = TypeVar("T")

TILE = 1 << 17
"""Coordinates of a tile: few enough for the cache, enough to make calls cheap."""

THREAD = 1 << 20
"""Coordinates that make another thread worth its while."""


def tiles(size: int, tile: int) -> list[slice]:
    """Return the tiles of a vector."""
    return [slice(first, min(first + tile, size)) for first in range(0, size, tile)]


def each_part(size: int, work: Callable[[slice], None]) -> None:
    """Do the work for a vector cut into as many parts as there are threads for it."""
    threads = _threads(size)
    if threads == 1:
        return work(slice(0, size))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, tiles(size, -(-size // threads))))
    return None


def each_tile(size: int, work: Callable[[slice, Float64[np.ndarray, "tile"]], None]) -> None:
    """Do the work for every tile of a vector, on as many threads as there are cores.

    Args:
        size: The vector's length.
        work: Called with a tile and with room for as many numbers, which nobody else uses then.
    """
    queue = iter(tiles(size, TILE))

    def drain(_: slice) -> None:
        room = np.empty(min(TILE, size))
        for tile in queue:
            work(tile, room[: tile.stop - tile.start])

    each_part(size, drain)


def in_order(size: int, work: Callable[[slice], T]) -> Iterator[tuple[slice, T]]:
    """Yield large tiles and what the work makes of them, in order; a few are at work at once.

    When a tile is yielded, the work on all tiles before it has ended.
    """
    threads, waiting = _threads(size), tiles(size, 4 * TILE)
    with ThreadPoolExecutor(threads) as pool:
        while waiting:
            some, waiting = waiting[: 2 * threads], waiting[2 * threads :]
            yield from zip(some, pool.map(work, some), strict=True)


def _threads(size: int) -> int:
    return min(os.cpu_count() or 1, 1 + size // THREAD)
