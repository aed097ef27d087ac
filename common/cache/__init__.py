"""What takes long to prepare is kept in the user's cache, within a limit."""

from common.cache.arrays import cached_arrays, cached_rows, map_rows
from common.cache.entries import cache_dir, entry_path, held, used
from common.cache.space import make_room

__all__ = [
    "cache_dir",
    "cached_arrays",
    "cached_rows",
    "entry_path",
    "held",
    "make_room",
    "map_rows",
    "used",
]
