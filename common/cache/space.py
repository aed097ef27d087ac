"""The space that the cache takes: what lies there, and what goes when it is too much."""

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from common.cache.entries import cache_dir, held
from common.errors import UserError
from common.files import PART, parse_bytes

LIMIT = "SCOREQUILT_CACHE_LIMIT"
"""The variable that says how much the cache may hold, such as 5GiB; 0 is no limit."""

DEFAULT_LIMIT = "20GiB"

ABANDONED = 24 * 3600
"""Seconds after which a file that is half written has no writer any more."""


class Entry(NamedTuple):
    """Something in the cache.

    Attributes:
        path: A file, or a folder of files.
        size: Bytes.
        last_used: Seconds since 1970.
    """

    path: Path
    size: int
    last_used: float


def limit() -> int | None:
    """How many bytes the cache may hold; None is any number.

    Raises:
        UserError: The variable is no amount of memory.
    """
    text = os.environ.get(LIMIT) or DEFAULT_LIMIT
    if text.strip() == "0":
        return None
    try:
        return parse_bytes(LIMIT, text)
    except UserError as error:
        raise UserError(f"{error}, or 0 for no limit") from None


def entries() -> list[Entry]:
    """What lies in the cache and is whole, the least recently used first."""
    found = []
    for path in _listed(cache_dir()):
        if path.name.startswith("."):
            continue
        with contextlib.suppress(FileNotFoundError):  # it has gone just now
            found.append(Entry(path, _size(path), path.stat().st_mtime))
    return sorted(found, key=lambda entry: (entry.last_used, entry.path))


def make_room(keep: Path | None = None, at_most: int | None = None) -> list[Entry]:
    """Delete what was not used for longest until the cache is within its limit.

    Processes that have mapped what is deleted keep it until they end. What is being written stays.

    Args:
        keep: An entry that stays in any case, being the one that is wanted now.
        at_most: Bytes, in place of the limit.

    Returns:
        What was deleted.
    """
    _sweep()
    most = limit() if at_most is None else at_most
    if most is None:
        return []
    there = entries()
    total = sum(entry.size for entry in there)
    gone = []
    for entry in there:
        if total <= most:
            break
        if entry.path != keep and _delete(entry.path):
            total -= entry.size
            gone.append(entry)
    return gone


def _delete(path: Path) -> bool:
    """Delete an entry unless somebody is at it."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return True
    with held(path, wait=False) as ours:
        if ours:
            # Renamed first, so that nobody meets half of it.
            aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART}")
            with contextlib.suppress(OSError):
                path.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        return ours


def _sweep() -> None:
    """Delete what processes that were killed have left half written."""
    for path in _listed(cache_dir()):
        with contextlib.suppress(OSError):
            old = time.time() - path.stat().st_mtime > ABANDONED
            if path.name.startswith(".") and path.name.endswith(PART) and old:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _listed(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        yield from sorted(folder.iterdir())


def _size(path: Path) -> int:
    files = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
    return sum(each.stat().st_size for each in files)
