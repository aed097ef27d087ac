"""Arrays of images in IDX files, MNIST's own format."""

import gzip
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from common.cache import cached_rows
from common.data.arrays import (
    Arrays,
    Source,
    copy_whole,
    held_out_parts,
    of_files,
    pieces,
    said_parts,
)
from common.errors import UserError

_NAME = re.compile(r"(?P<split>train|t10k)-(?P<what>images|labels)[-.]idx[13]-ubyte(\.gz)?")


class _Pair(NamedTuple):
    """A file of images, their shape and their labels."""

    images: Path
    shape: tuple[int, ...]
    labels: Int64[np.ndarray, " N"]


def read_idx(path: Path) -> Arrays:
    """Read a folder of IDX files as MNIST's are named, or one file of images beside its labels.

    Raises:
        UserError: There are none, or one is damaged.
    """
    if path.is_dir():
        found: dict[str, dict[str, Path]] = {"train": {}, "t10k": {}}
        for each in sorted(path.iterdir()):
            if match := _NAME.fullmatch(each.name.lower()):
                found[match["split"]].setdefault(match["what"], each)
        if len(found["train"]) < 2:
            raise UserError(
                f"data: {path} holds no train-images-idx3-ubyte beside train-labels-idx1-ubyte, as "
                "they are or with .gz"
            )
        pairs = [_pair(p["images"], p["labels"]) for p in found.values() if len(p) == 2]
    else:
        name = path.name.replace("images", "labels").replace("idx3", "idx1")
        pairs = [_pair(path, path.with_name(name))]
    shapes = {pair.shape[1:] for pair in pairs}
    if len(shapes) > 1:
        raise UserError(f"data: the splits of {path} have images of {shapes}")
    key = of_files("idx", [pair.images for pair in pairs])
    sizes = [pair.shape[0] for pair in pairs]
    return Arrays(
        _joined(path, pairs, key),
        np.concatenate([pair.labels for pair in pairs]),
        held_out_parts(sizes),
        said_parts([pair.images.name for pair in pairs], sizes),
        key,
    )


def _joined(
    path: Path, pairs: Sequence[_Pair], key: dict[str, object]
) -> UInt8[np.ndarray, "N 1 H W"]:
    """Return the images of all pairs behind each other, as a memory map of a copy in the cache."""

    def write(file: IO[bytes]) -> None:
        for pair in pairs:
            with _opened(pair.images) as (source, shape):
                copy_whole(source, file, shape)

    _, height, width = pairs[0].shape
    shape = (sum(pair.shape[0] for pair in pairs), 1, height, width)
    return cached_rows(f"idx-{path.stem}", key, shape, write)


def _pair(images: Path, labels: Path) -> _Pair:
    with _opened(images) as (_, shape):
        pass
    with _opened(labels) as (file, count):
        numbers = np.frombuffer(b"".join(pieces(file)), np.uint8).reshape(count)
    if len(shape) != 3 or numbers.shape != shape[:1] or not math.prod(shape):
        raise UserError(
            f"data: {images} of shape {shape} and {labels} of shape {numbers.shape} are not "
            "images of (N, H, W) and their labels"
        )
    return _Pair(images, shape, numbers.astype(np.int64))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Source, tuple[int, ...]]]:
    """Open an IDX file behind its head: two zeros, type, number of dimensions, big-endian sizes.

    Raises:
        UserError: It is no such file, or is found to be damaged while it is open.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if packed else raw as file:
                head = file.read(4)
                if head[:3] != b"\0\0\x08" or len(head) < 4:
                    raise ValueError("it does not begin as one of bytes does")
                sizes = file.read(4 * head[3])
                if len(sizes) < 4 * head[3]:
                    raise ValueError("it ends before its sizes do")
                yield file, tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"data: {path} is no IDX file ({' '.join(str(error).split())})") from None
