"""Work on long vectors, a tile at a time, so that what is worked on stays in cache."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float64

TILE = 1 << 17
"""Coordinates of a tile: few enough for the cache, enough to make calls cheap."""

THREAD = 1 << 20
"""Coordinates that make another thread worth its while."""


def tiles(size: int) -> list[slice]:
    """Return the tiles of a vector."""
    return [slice(first, min(first + TILE, size)) for first in range(0, size, TILE)]


def each_tile(size: int, work: Callable[[slice, Float64[np.ndarray, "tile"]], None]) -> None:
    """Do the work for every tile of a vector, on as many threads as there are cores.

    Args:
        size: The vector's length.
        work: Called with a tile and with room for as many numbers, which nobody else uses then.
    """
    queue = iter(tiles(size))

    def drain() -> None:
        room = np.empty(TILE)
        for tile in queue:
            work(tile, room[: tile.stop - tile.start])

    threads = min(os.cpu_count() or 1, 1 + size // THREAD)
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(drain) for _ in range(threads)]:
            done.result()
