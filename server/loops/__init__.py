"""Passes over all coordinates, compiled and shared out among threads."""

from server.loops.kernels import MAGIC, add_pair, beyond, place, read_only, scale
from server.loops.tables import Runs, Spread, runs_of, spread_out
from server.loops.tiles import TILE, each_part, each_tile, in_order

__all__ = [
    "MAGIC",
    "TILE",
    "Runs",
    "Spread",
    "add_pair",
    "beyond",
    "each_part",
    "each_tile",
    "in_order",
    "place",
    "read_only",
    "runs_of",
    "scale",
    "spread_out",
]
