"""What takes long to prepare is kept in the user's cache, named by all that determines it."""

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from common.files import atomic_write


def cache_dir() -> Path:
    """The folder for what can be computed again: data sets, partitions, classifiers.

    `$SCOREQUILT_CACHE`, else `$XDG_CACHE_HOME/scorequilt`, else `~/.cache/scorequilt`; absolute,
    because a Flower app runs from a working directory of its own. It need not exist yet.
    """
    if own := os.environ.get("SCOREQUILT_CACHE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(base).expanduser() / "scorequilt").absolute()


LONGEST_STEM = 64


def cached_arrays(
    stem: str, key: Mapping[str, object], build: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays of `build()`, from `cache_dir()` where they have been built before.

    Args:
        stem: what the file is called, before a hash of `key`; characters that could lead out of the
            cache folder are replaced.
        key: everything that determines the arrays, library versions included; values with a repr
            that does not change between processes.
        build: called where there is no such file, or none that can be read.

    Raises:
        UserError: the cache folder cannot be written.
    """
    digest = hashlib.sha256(repr(sorted(key.items())).encode()).hexdigest()
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", stem)[:LONGEST_STEM]
    path = cache_dir() / f"{stem}-{digest[:16]}.npz"
    # A damaged file is as good as none, and what reading it raises depends on which byte is wrong.
    # (opened here because np.load leaves a file that it cannot read open)
    with contextlib.suppress(Exception), path.open("rb") as file:
        return dict(np.load(file, allow_pickle=False))
    built = dict(build())
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **built)
    atomic_write(path, buffer.getvalue())
    return built
