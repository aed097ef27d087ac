"""Where what is kept lies, when it was last used, and who may change it.

An entry is a file, or a folder of files, directly in the cache's folder. Its time of change is the
time of its last use: systems hardly keep the time of the last reading any more.
"""

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

LONGEST_STEM = 64


def cache_dir() -> Path:
    """The folder for what can be computed again: data sets, partitions, classifiers.

    `$SCOREQUILT_CACHE`, else `$XDG_CACHE_HOME/scorequilt`, else `~/.cache/scorequilt`; absolute,
    because a Flower app runs from a working directory of its own. It need not exist yet.
    """
    if own := os.environ.get("SCOREQUILT_CACHE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(base).expanduser() / "scorequilt").absolute()


def entry_path(stem: str, key: Mapping[str, object], suffix: str = "") -> Path:
    """Where the entry of a key lies.

    Args:
        stem: what it is called, before a hash of `key`; characters that could lead out of the
            cache folder are replaced.
        key: everything that determines the entry, library versions included; values with a repr
            that does not change between processes.
        suffix: of the file.
    """
    digest = hashlib.sha256(repr(sorted(key.items())).encode()).hexdigest()
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", stem)[:LONGEST_STEM]
    return cache_dir() / f"{stem}-{digest[:16]}{suffix}"


def used(path: Path) -> None:
    """Note that an entry is used now."""
    with contextlib.suppress(OSError):
        os.utime(path)


@contextlib.contextmanager
def held(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold an entry that is a folder, which is made if need be; the kernel frees it at the end.

    Args:
        path: the entry.
        wait: for whoever holds it; else the context is entered without it and given False.

    Raises:
        OSError: the folder cannot be made.
    """
    while True:
        path.mkdir(parents=True, exist_ok=True)
        try:
            folder = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue  # somebody made room just now
        try:
            if not _lock(folder, wait):
                yield False
                return
            # Whoever held it before may have deleted the folder: then another one is the entry.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(folder), path.stat()):
                    yield True
                    return
        finally:
            os.close(folder)


def _lock(folder: int, wait: bool) -> bool:
    """Take a lock; file systems without locks have none to refuse."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
