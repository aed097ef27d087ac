"""Passes over all coordinates, compiled and shared out among threads."""

from server.loops.kernels import AT_ONCE, MAGIC, add, below, read_only, scale
from server.loops.tables import Factors, Runs, factors_of, runs_of
from server.loops.tiles import TILE, each_tile, tiles_of

__all__ = [
    "AT_ONCE",
    "MAGIC",
    "TILE",
    "Factors",
    "Runs",
    "add",
    "below",
    "each_tile",
    "factors_of",
    "read_only",
    "runs_of",
    "scale",
    "tiles_of",
]
