"""Arrays that are built once: small ones as they are, large ones as memory maps."""

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import UInt8

from common.cache.entries import entry_path, used
from common.cache.space import make_room
from common.files import atomic_file


def cached_arrays(
    stem: str, key: Mapping[str, object], build: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays of `build()`, from `cache_dir()` where they have been built before.

    Args:
        stem: see `entry_path`, as for `key`.
        key: everything that determines the arrays.
        build: called where there is no such file, or none that can be read.

    Raises:
        UserError: the cache folder cannot be written.
    """
    path = entry_path(stem, key, ".npz")
    # A damaged file is as good as none, and what reading it raises depends on which byte is wrong.
    # (opened here because np.load leaves a file that it cannot read open)
    with contextlib.suppress(Exception), path.open("rb") as file:
        found = dict(np.load(file, allow_pickle=False))
        used(path)
        return found
    built = dict(build())
    with atomic_file(path) as file:
        np.savez(file, allow_pickle=False, **built)
    make_room(keep=path)
    return built


def cached_rows(
    stem: str,
    key: Mapping[str, object],
    shape: tuple[int, ...],
    write: Callable[[IO[bytes]], object],
) -> UInt8[np.ndarray, "..."]:
    """Bytes that need not fit in memory, as a read-only memory map.

    Only its length says whether the file is whole: what is read in parts cannot be summed up first.

    Args:
        stem: see `entry_path`, as for `key`.
        key: everything that determines the bytes.
        shape: of the map, at least one byte.
        write: called with a file to write the bytes to where there is no such entry.

    Raises:
        UserError: the cache folder cannot be written.
    """
    path = entry_path(stem, key, ".rows")
    with contextlib.suppress(OSError, ValueError):
        found = map_rows(path, shape)
        used(path)
        return found
    with atomic_file(path) as file:
        write(file)
    make_room(keep=path)
    return map_rows(path, shape)


def map_rows(path: Path, shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    """Map the first bytes of a file.

    Raises:
        OSError: There is no such file.
        ValueError: It is too short.
    """
    if path.stat().st_size < math.prod(shape):
        raise ValueError(f"{path} is too short")
    return np.memmap(path, np.uint8, "r", shape=shape)
