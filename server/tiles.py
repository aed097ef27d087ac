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
    parts = tiles(size, -(-size // threads))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, parts))


def each_tile(size: int, work: Callable[[slice, Float64[np.ndarray, "tile"]], None]) -> None:
    """Do the work for every tile of a vector, on as many threads as there are cores.

    Args:
        size: The vector's length.
        work: Called with a tile and with room for as many numbers, which nobody else uses then.
    """
    queue = iter(tiles(size, TILE))

    def drain() -> None:
        room = np.empty(TILE)
        for tile in queue:
            work(tile, room[: tile.stop - tile.start])

    threads = _threads(size)
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(drain) for _ in range(threads)]:
            done.result()


def in_order(
    size: int, work: Callable[[slice, Float64[np.ndarray, "tile"]], T]
) -> Iterator[tuple[slice, T]]:
    """Yield every tile and what the work makes of it, from the first on; a few are at work at once.

    When a tile is yielded, the work on all tiles before it has ended. Rooms are used again.
    """
    threads, waiting = _threads(size), tiles(size, 4 * TILE)
    rooms = [np.empty(4 * TILE) for _ in range(2 * threads)]
    with ThreadPoolExecutor(threads) as pool:
        while waiting:
            some, waiting = waiting[: len(rooms)], waiting[len(rooms) :]
            yield from zip(some, pool.map(work, some, rooms), strict=True)


def _threads(size: int) -> int:
    return min(os.cpu_count() or 1, 1 + size // THREAD)
