"""Work on long vectors, a tile at a time, so that what is worked on stays in cache."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from common.resources import cores

T = TypeVar("T")

TILE = 1 << 18
"""Coordinates of a tile: few enough for the cache, enough to make calls cheap."""

THREAD = 1 << 20
"""Coordinates that make another thread worth its while."""


def tiles_of(size: int, tile: int) -> list[slice]:
    """Return the tiles of a vector."""
    return [slice(start, min(start + tile, size)) for start in range(0, size, tile)]


def each_tile(size: int, work: Callable[[slice], T]) -> list[T]:
    """Return what the work makes of every tile of a vector, in any order, on several threads."""
    queue, done = iter(tiles_of(size, TILE)), list[T]()

    def drain() -> None:
        done.extend(map(work, queue))

    threads = min(cores(), 1 + size // THREAD)
    if threads == 1:
        drain()
        return done
    with ThreadPoolExecutor(threads) as pool:
        for each in [pool.submit(drain) for _ in range(threads)]:
            each.result()
    return done
