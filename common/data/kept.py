"""A folder's pictures in the cache: each is read once, however often the folder grows.

An entry holds what has been read of one folder in one way: `pixels-N.rows`, to which rows are only
ever added, so that whoever has mapped it may go on, and `index.npz` (`common.data.index`), which
says of each file in which rows it is. Rows that a killed process has added and no index names are
written over.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Int64

from common.cache import held, make_room, map_rows, used
from common.data.decoding import Frames, Waits
from common.data.depth import Depth, depth_of
from common.data.index import Extremes, File, Index, Known, read_index, write_index
from common.data.pictures import Shape
from common.data.rows import Rows
from common.errors import UserError
from common.files import atomic_file

SAVED_EVERY = 5000
"""Pictures after which the index is written, so that a killed process has not read in vain."""

SPARE = 2
"""How many times the rows that are wanted a file of rows may hold before it is written anew."""

NO_DEPTH = (0.0, 0.0)
"""What stands for the depth of deep values that are all one and the same."""


Read = Callable[[str, Depth | None, bool], Frames | Waits]


class Kept(NamedTuple):
    """What became of a sequence of files.

    Attributes:
        images: (N, C, H, W), 0 is black and 255 white, in a memory map.
        places: (N,), of which of the files each image is a frame, in order.
        skipped: Places of those that could not be decoded.
        reasons: Why not, one for each.
        shapes: (N, 3), C, H, W that the images had themselves.
        depth: (2,), black and white of the deep values; empty without such.
    """

    images: Rows
    places: Int64[np.ndarray, " N"]
    skipped: Int64[np.ndarray, " K"]
    reasons: tuple[str, ...]
    shapes: Int64[np.ndarray, "N 3"]
    depth: np.ndarray


def kept_pictures(entry: Path, files: Sequence[File], shape: Shape, read: Read) -> Kept:
    """Return a folder's pictures, having read those that are not in the cache yet.

    Args:
        entry: Where they are kept; another for every other way of reading.
        files: Those of the folder, in the order that is wanted.
        shape: (C, H, W) of each picture.
        read: Given a file's name, the depth of the source's deep values, and whether the file may
            wait for that; it raises UserError where a file cannot be decoded.

    Raises:
        UserError: The cache cannot be written.
    """
    try:
        with held(entry) as _:
            reader = _Reader(entry, read_index(entry, shape), shape)
            depth = reader.catch_up(files, read)
            index = reader.index
            pixels = (
                map_rows(reader.path, (index.rows, *shape))
                if index.rows  # nothing can be mapped of an empty file
                else np.empty((0, *shape), np.uint8)
            )
            used(entry)
    except OSError as error:
        raise UserError(
            f"cannot keep pictures in {entry} ({error.strerror or error}); set SCOREQUILT_CACHE to"
            " a folder that can be written"
        ) from None
    if reader.wrote:
        make_room(keep=entry)
    known = [index.files[each] for each in files]
    rows = [row for each in known for row in range(each.row, each.row + each.frames)]
    taken = np.array(rows, dtype=np.int64)
    return Kept(
        Rows(pixels, taken),
        np.repeat(np.arange(len(files)), [each.frames for each in known]),
        np.array([place for place, each in enumerate(known) if each.reason], dtype=np.int64),
        tuple(each.reason for each in known if each.reason),
        np.array([index.shapes[row] for row in rows], dtype=np.int64).reshape(-1, 3),
        np.array([depth.black, depth.white] if depth else [], dtype=np.float64),
    )


@dataclass
class _Reader:
    """Reads what is missing into an entry that nobody else writes now."""

    entry: Path
    index: Index
    shape: Shape
    wrote: bool = False
    unsaved: int = 0

    @property
    def path(self) -> Path:
        return self.index.path(self.entry)

    def catch_up(self, files: Sequence[File], read: Read) -> Depth | None:
        """Read what is not there; return the depth of the deep values."""
        known = self.index.files
        with self.path.open("r+b" if self.path.exists() else "xb") as rows:
            rows.seek(self.index.rows * int(np.prod(self.shape)))
            for each in files:
                if each not in known:
                    self._add(rows, each, read, None)
            deep = [(each, known[each]) for each in files if known[each].extremes]
            depth = depth_of([ends for _, what in deep for ends in what.extremes])
            ends = (depth.black, depth.white) if depth else NO_DEPTH
            for each in [each for each, what in deep if what.depth != ends]:
                self._add(rows, each, read, depth, known[each].extremes, ends)
            self._save(rows, every=1)
        wanted = sum(known[each].frames for each in files)
        if self.index.rows > SPARE * wanted + SAVED_EVERY:
            self._rewrite(files)
        return depth

    def _add(
        self,
        rows: IO[bytes],
        file: File,
        read: Read,
        depth: Depth | None,
        extremes: tuple[Extremes, ...] = (),
        ends: tuple[float, float] | None = None,
    ) -> None:
        """Read a file and note what became of it."""
        what = Known(self.index.rows, 0, "", extremes, ends)
        try:
            found = read(file.name, depth, not extremes)
        except UserError as error:
            what = what._replace(reason=str(error))
        else:
            if isinstance(found, Waits):
                what = what._replace(extremes=tuple(found.extremes))
            else:
                for image in found.images:
                    rows.write(image.tobytes())
                self.index.shapes += found.shapes
                what = what._replace(frames=len(found.images))
        self.index.files[file] = what
        self.unsaved += 1
        self._save(rows, every=SAVED_EVERY)

    def _save(self, rows: IO[bytes], every: int) -> None:
        """Write the index when so many files are not in it, after the rows that it names."""
        if self.unsaved >= every:
            rows.flush()
            os.fsync(rows.fileno())
            write_index(self.entry, self.index)
            self.unsaved, self.wrote = 0, True

    def _rewrite(self, files: Sequence[File]) -> None:
        """Write the rows that are wanted into a new file; who has mapped the old one keeps it."""
        old, pixels = self.path, map_rows(self.path, (self.index.rows, *self.shape))
        fresh = Index(self.index.generation + 1)
        taken: list[int] = []
        with atomic_file(fresh.path(self.entry)) as rows:
            for each in files:
                what = self.index.files[each]
                theirs = range(what.row, what.row + what.frames)
                for row in theirs:
                    rows.write(pixels[row].tobytes())
                fresh.files[each] = what._replace(row=len(taken))
                taken += theirs
        fresh.shapes = [self.index.shapes[row] for row in taken]
        write_index(self.entry, fresh)
        self.index = fresh
        old.unlink()
