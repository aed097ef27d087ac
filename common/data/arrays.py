"""Images that lie in files as arrays: what they have in common, and how they get another shape."""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from PIL import Image

from common.cache import cached_rows
from common.data.pictures import Shape, fit_picture

FITTED_FORMAT = 2
"""Part of the cache keys of arrays that are brought to another shape."""

PIECE = 2**20
"""Bytes of a file that are copied at a time."""


@runtime_checkable
class Source(Protocol):
    """A file to read, packed or not."""

    def read(self, size: int = -1, /) -> bytes:
        """Return so many bytes at most, all that are left by default."""
        ...


class Arrays(NamedTuple):
    """Images with labels.

    Attributes:
        images: (N, C, H, W), C 1 or 3; mostly a memory map of a copy in the cache.
        labels: (N,), from 0.
        held_out: (N,), which images the file itself holds out; None if it says nothing of it.
        said: What was taken, for the log.
        key: What tells these images from others, for the keys of the cache.
        labelled: Whether the file says of which class an image is; else all labels are 0.
    """

    images: UInt8[np.ndarray, "N C H W"]
    labels: Int64[np.ndarray, " N"]
    held_out: Bool[np.ndarray, " N"] | None
    said: str
    key: Mapping[str, object]
    labelled: bool = True


def fitted(arrays: Arrays, shape: Shape, fit: str) -> UInt8[np.ndarray, "N C H W"]:
    """Return images in another shape, from the cache's memory map.

    Args:
        arrays: What they are made from.
        shape: (C, H, W) to bring them to.
        fit: As of `fit_picture`.

    Raises:
        UserError: The cache cannot be written.
    """
    mode = "L" if shape[0] == 1 else "RGB"

    def write(file: IO[bytes]) -> None:
        for each in arrays.images:
            values = each[0] if len(each) == 1 else np.moveaxis(each, 0, -1)
            picture = Image.fromarray(np.ascontiguousarray(values)).convert(mode)
            file.write(fit_picture(picture, shape, fit).tobytes())

    key = {"images": sorted(arrays.key.items()), "shape": shape, "fit": fit}
    rows = (len(arrays.images), *shape)
    return cached_rows("fitted", {**key, "format": FITTED_FORMAT}, rows, write)


def of_files(kind: str, paths: Sequence[Path], names: Sequence[str] = ()) -> dict[str, object]:
    """Return a key of what some files hold now under some names."""
    about = [(str(path), path.stat()) for path in paths]
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in about]
    return {"kind": kind, "files": files, "names": list(names)}


def copy_whole(source: Source, target: IO[bytes], shape: Sequence[int]) -> None:
    """Copy the bytes of an array, a piece at a time.

    Raises:
        ValueError: The source is damaged, or holds more or less.
    """
    if sum(target.write(piece) for piece in pieces(source)) != math.prod(shape):
        raise ValueError("it is not as long as its shape says")


def pieces(source: Source) -> Iterator[bytes]:
    """Yield what a file holds.

    Raises:
        ValueError: It is damaged, packed ones included.
    """
    try:
        while piece := source.read(PIECE):
            yield piece
    except (OSError, EOFError, zlib.error) as error:  # apart from those of what is written to
        raise ValueError(str(error)) from None


def held_out_parts(sizes: Sequence[int]) -> Bool[np.ndarray, " N"] | None:
    """Say which images are held out where those of the first part are trained on."""
    return np.repeat(np.arange(len(sizes)) > 0, sizes) if len(sizes) > 1 else None


def said_parts(names: Sequence[str], sizes: Sequence[int]) -> str:
    """Say how many images were taken from where."""
    parts = zip(names, sizes, strict=True)
    return ", ".join(f"{size} images from '{name}'" for name, size in parts)
