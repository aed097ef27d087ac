"""The cache as its owner sees it."""

import re
import time

from rich.table import Table

from common.cache import cache_dir, make_room
from common.cache.space import LIMIT, entries, limit
from common.files import show_bytes

UNITS = (("day", 86400), ("hour", 3600), ("minute", 60))


def table() -> Table:
    """Return what lies in the cache, the most recently used first, with the sum and the limit.

    Raises:
        UserError: The limit is no amount of memory.
    """
    most, there, now = limit(), entries(), time.time()
    shown = Table(
        title=f"{cache_dir()} (another folder: SCOREQUILT_CACHE)",
        title_justify="left",
        caption=f"limit: {'none' if most is None else show_bytes(most)} ({LIMIT})",
        caption_justify="left",
    )
    shown.add_column("what", overflow="fold")
    shown.add_column("size", justify="right")
    shown.add_column("last used", justify="right")
    for entry in reversed(there):
        shown.add_row(
            re.sub(r"-[0-9a-f]{16}(\.\w+)?$", "", entry.path.name),
            show_bytes(entry.size),
            ago(now - entry.last_used),
        )
    shown.add_section()
    shown.add_row(f"{len(there)} in all", show_bytes(sum(entry.size for entry in there)), "")
    return shown


def cleared(at_most: int) -> str:
    """Delete what was unused for longest until so many bytes are left; say what that gave."""
    gone = make_room(at_most=at_most)
    left = sum(entry.size for entry in entries())
    freed = sum(entry.size for entry in gone)
    return f"{cache_dir()}: deleted {len(gone)}, {show_bytes(freed)}; {show_bytes(left)} are left"


def ago(seconds: float) -> str:
    """Return a span of time in its largest unit."""
    for name, length in UNITS:
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"
