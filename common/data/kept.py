"""A folder's pictures in the cache: each is read once, however often the folder grows.

An entry holds what has been read of one folder in one shape: `pixels-N.rows`, to which rows are
only ever added, so that whoever has mapped it may go on, and `index.npz`, which says of each file
(its name, size and time of change) in which row it is. Rows that a killed process has added and no
index names are written over.
"""

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from common.cache import held, make_room, map_rows, used
from common.data.pictures import Depth, Shape, depth_of
from common.errors import UserError
from common.files import atomic_file

SAVED_EVERY = 5000
"""Pictures after which the index is written, so that a killed process has not read in vain."""

SPARE = 2
"""How many times the rows that are wanted a file of rows may hold before it is written anew."""

BAD, DEEP = -1, -2
"""In place of a row: the file cannot be decoded; it is a deep grey that waits for its depth."""

Extremes = tuple[float, float, bool]


class File(NamedTuple):
    """What tells whether a file has changed: its name in the folder, bytes, and nanoseconds."""

    name: str
    size: int
    changed: int


class Kept(NamedTuple):
    """Pictures in the cache.

    Attributes:
        pixels: (S, C, H, W) as a memory map.
        rows: (N,), for each file its row of `pixels`; negative if it cannot be decoded.
        depth: That of the deep greys among them.
    """

    pixels: UInt8[np.ndarray, "S C H W"]
    rows: Int64[np.ndarray, " N"]
    depth: Depth | None


@dataclass
class _Known:
    """What an index says of a file."""

    row: int
    extremes: Extremes | None = None
    depth: tuple[float, float] | None = None


@dataclass
class _Index:
    """All files that have been read; `generation` names the file of their rows."""

    generation: int = 0
    rows: int = 0
    files: dict[File, _Known] = field(default_factory=dict)


def kept_pictures(
    entry: Path,
    files: Sequence[File],
    shape: Shape,
    extremes: Callable[[str], Extremes | None],
    decode: Callable[[str, Depth | None], UInt8[np.ndarray, "C H W"]],
) -> Kept:
    """Return a folder's pictures, having read those that are not in the cache yet.

    Args:
        entry: Where they are kept.
        files: Those of the folder, in the order that is wanted.
        shape: (C, H, W) of each picture.
        extremes: Least and greatest value of a deep grey by its file's name, None of others.
        decode: A picture by its file's name and the depth of the deep greys; both raise UserError
            where a file cannot be decoded.

    Raises:
        UserError: The cache cannot be written.
    """
    try:
        with held(entry) as _:
            index = _read_index(entry, shape)
            reader = _Reader(entry, index, shape)
            depth = reader.catch_up(files, extremes, decode)
            rows = np.array([index.files[each].row for each in files], dtype=np.int64)
            used(entry)
            # At least a row, since nothing can be mapped of an empty file.
            pixels = (
                map_rows(reader.path, (index.rows, *shape))
                if index.rows
                else np.empty((0, *shape), np.uint8)
            )
    except OSError as error:
        raise UserError(
            f"cannot keep pictures in {entry} ({error.strerror or error}); set SCOREQUILT_CACHE to"
            " a folder that can be written"
        ) from None
    if reader.wrote:
        make_room(keep=entry)
    return Kept(pixels, rows, depth)


@dataclass
class _Reader:
    """Reads what is missing into an entry that nobody else writes now."""

    entry: Path
    index: _Index
    shape: Shape
    wrote: bool = False

    @property
    def path(self) -> Path:
        return self.entry / f"pixels-{self.index.generation}.rows"

    def catch_up(
        self,
        files: Sequence[File],
        extremes: Callable[[str], Extremes | None],
        decode: Callable[[str, Depth | None], UInt8[np.ndarray, "C H W"]],
    ) -> Depth | None:
        """Read what is not there; return the depth of the deep greys."""
        known = self.index.files
        new = [each for each in files if each not in known]
        waits: list[File] = []
        with self.path.open("r+b" if self.path.exists() else "xb") as file:
            file.seek(self.index.rows * math.prod(self.shape))

            def add(each: File, depth: Depth | None, found: Extremes | None = None) -> None:
                ends = (
                    None if found is None else (depth.black, depth.white) if depth else (0.0, 0.0)
                )
                try:
                    pixels = decode(each.name, depth)
                except UserError:
                    known[each] = _Known(BAD, found, ends)
                else:
                    file.write(pixels.tobytes())
                    known[each] = _Known(self.index.rows, found, ends)
                    self.index.rows += 1
                self.wrote = True
                if len(known) % SAVED_EVERY == 0:
                    file.flush()
                    os.fsync(file.fileno())
                    _write_index(self.entry, self.index)

            for each in new:
                try:
                    found = extremes(each.name)
                except UserError:
                    known[each], self.wrote = _Known(BAD), True
                    continue
                if found is None:
                    add(each, None)
                else:
                    known[each] = _Known(DEEP, found)
            deep = [(each, known[each]) for each in files if known[each].extremes is not None]
            depth = depth_of([what.extremes for _, what in deep if what.extremes is not None])
            ends = (depth.black, depth.white) if depth else (0.0, 0.0)
            waits = [each for each, what in deep if what.depth != ends]
            for each in waits:
                add(each, depth, known[each].extremes)
            file.flush()
            if self.wrote:
                os.fsync(file.fileno())
                _write_index(self.entry, self.index)
        if self.index.rows > SPARE * len(files) + SAVED_EVERY:
            self._rewrite(files)
        return depth

    def _rewrite(self, files: Sequence[File]) -> None:
        """Write the rows that are wanted into a new file; who has mapped the old one keeps it."""
        old, pixels = self.path, map_rows(self.path, (self.index.rows, *self.shape))
        fresh = _Index(self.index.generation + 1)
        with atomic_file(self.entry / f"pixels-{fresh.generation}.rows") as file:
            for each in files:
                what = self.index.files[each]
                fresh.files[each] = what
                if what.row >= 0:
                    file.write(pixels[what.row].tobytes())
                    fresh.files[each] = _Known(fresh.rows, what.extremes, what.depth)
                    fresh.rows += 1
        _write_index(self.entry, fresh)
        self.index.generation, self.index.rows = fresh.generation, fresh.rows
        self.index.files = fresh.files
        old.unlink()
        self.wrote = True


def _read_index(entry: Path, shape: Shape) -> _Index:
    """Read an entry's index; a damaged one, or one whose rows are lost, is as good as none."""
    with contextlib.suppress(Exception), (entry / "index.npz").open("rb") as opened:
        held = dict(np.load(opened, allow_pickle=False))
        generation, rows = map(int, held["counts"])
        if rows:
            map_rows(entry / f"pixels-{generation}.rows", (rows, *shape))
        names = held["names"].tobytes().decode("utf-8", "surrogateescape").split("\0")
        whole = held["whole"].tolist()
        files = {}
        for i, (size, changed, row) in enumerate(held["files"].tolist()):
            low, high, black, white = held["ends"][i].tolist() if whole[i] >= 0 else (0.0,) * 4
            known = _Known(row)
            if whole[i] >= 0:
                depth = None if math.isnan(black) else (black, white)
                known = _Known(row, (low, high, bool(whole[i])), depth)
            files[File(names[i], size, changed)] = known
        return _Index(generation, rows, files)
    # Under another name: what is there may be mapped, and must not change below anybody.
    left = [int(path.stem.partition("-")[2]) for path in entry.glob("pixels-*.rows")]
    for number in left:
        (entry / f"pixels-{number}.rows").unlink()
    return _Index(max(left, default=-1) + 1)


def _write_index(entry: Path, index: _Index) -> None:
    nan = (math.nan, math.nan)
    names = "\0".join(each.name for each in index.files)
    ends = [(*(what.extremes or nan)[:2], *(what.depth or nan)) for what in index.files.values()]
    arrays: dict[str, np.ndarray] = {
        "counts": np.array([index.generation, index.rows], dtype=np.int64),
        "names": np.frombuffer(os.fsencode(names), np.uint8),
        "files": np.array(
            [(each.size, each.changed, what.row) for each, what in index.files.items()],
            dtype=np.int64,
        ).reshape(-1, 3),
        "ends": np.array(ends, dtype=np.float64).reshape(-1, 4),
        "whole": np.array(
            [-1 if what.extremes is None else what.extremes[2] for what in index.files.values()],
            dtype=np.int8,
        ),
    }
    with atomic_file(entry / "index.npz") as file:
        np.savez(file, allow_pickle=False, **arrays)
