"""Which files of a folder are kept in the cache, in which rows, and what is known of them."""

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.cache import map_rows
from common.data.pictures import Shape
from common.files import atomic_file

NAME = "index.npz"

Extremes = tuple[float, float, bool]
"""Least and greatest of some values, and whether these are whole numbers."""


class File(NamedTuple):
    """What tells whether a file has changed: its name in the folder, bytes, and nanoseconds."""

    name: str
    size: int
    changed: int


class Known(NamedTuple):
    """What has been found out about a file.

    Attributes:
        row: The first row of its images.
        frames: How many there are.
        reason: Why it cannot be decoded, empty if it can.
        extremes: Of each of its images if these are of deep values.
        depth: Black and white by which these were made levels, None before.
    """

    row: int
    frames: int
    reason: str
    extremes: tuple[Extremes, ...]
    depth: tuple[float, float] | None


@dataclass
class Index:
    """Files that have been read.

    Attributes:
        generation: Names the file of their rows.
        files: What is known of each.
        shapes: C, H, W that each row's image had itself.
    """

    generation: int = 0
    files: dict[File, Known] = field(default_factory=dict)
    shapes: list[Shape] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.shapes)

    def path(self, entry: Path) -> Path:
        """Where the rows are."""
        return entry / f"pixels-{self.generation}.rows"


def read_index(entry: Path, shape: Shape) -> Index:
    """Read an entry's index; a damaged one, or one whose rows are lost, is as good as none."""
    with contextlib.suppress(Exception), (entry / NAME).open("rb") as opened:
        arrays = dict(np.load(opened, allow_pickle=False))
        shapes = [(c, h, w) for c, h, w in arrays["shapes"].tolist()]
        index = Index(int(arrays["generation"]), {}, shapes)
        if index.rows:
            map_rows(index.path(entry), (index.rows, *shape))
        extremes: dict[int, list[Extremes]] = {}
        for place, least, most, whole in arrays["extremes"].tolist():
            extremes.setdefault(int(place), []).append((least, most, bool(whole)))
        depths = {int(place): (black, white) for place, black, white in arrays["depths"].tolist()}
        rows = zip(
            _texts(arrays["names"]), _texts(arrays["reasons"]), arrays["files"].tolist(),
            strict=True,
        )  # fmt: skip
        for place, (name, reason, (size, changed, row, count)) in enumerate(rows):
            index.files[File(name, size, changed)] = Known(
                row, count, reason, tuple(extremes.get(place, ())), depths.get(place)
            )
        return index
    # Under another name: what is there may be mapped, and must not change below anybody.
    left = [int(path.stem.partition("-")[2]) for path in entry.glob("pixels-*.rows")]
    for generation in left:
        Index(generation).path(entry).unlink()
    return Index(max(left, default=-1) + 1)


def write_index(entry: Path, index: Index) -> None:
    """Write an entry's index."""
    known = list(enumerate(index.files.values()))
    arrays: dict[str, np.ndarray] = {
        "generation": np.array(index.generation),
        "shapes": np.array(index.shapes, np.int64).reshape(-1, 3),
        "names": _bytes([each.name for each in index.files]),
        "reasons": _bytes([what.reason for _, what in known]),
        "files": np.array(
            [(*file[1:], what.row, what.frames) for file, what in index.files.items()], np.int64
        ).reshape(-1, 4),
        "extremes": np.array(
            [(place, *ends) for place, what in known for ends in what.extremes], np.float64
        ).reshape(-1, 4),
        "depths": np.array(
            [(place, *what.depth) for place, what in known if what.depth], np.float64
        ).reshape(-1, 3),
    }
    with atomic_file(entry / NAME) as file:
        np.savez(file, allow_pickle=False, **arrays)


def _bytes(texts: list[str]) -> np.ndarray:
    """Return texts in little room: an array of texts takes as much for each as the longest does."""
    joined = "".join(f"{text}\0" for text in (each.replace("\0", " ") for each in texts))
    return np.frombuffer(os.fsencode(joined), np.uint8)


def _texts(joined: np.ndarray) -> list[str]:
    return os.fsdecode(joined.tobytes()).split("\0")[:-1]
