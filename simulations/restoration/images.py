"""Pictures that a user names, as images of a run's shape."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from common.data import (
    OWN,
    ImageData,
    absolute_source,
    fit_picture,
    open_picture,
    pictures_in,
    scaled,
)
from common.data.depth import Deep, Depth, depth_of
from common.data.frames import frames_of
from common.data.own import read_own
from common.data.pictures import Shape
from common.errors import UserError

HELD_OUT = "held-out"

ARRAYS = tuple(kind for kind in OWN if kind != "folder:")
"""Sources that are no files of their own for each picture."""


class Pictures(NamedTuple):
    """Images to work on.

    Attributes:
        images: (n, C, H, W) in [-1, 1].
        labels: (n,), for held-out images.
        fitted: How many were cropped or made smaller.
    """

    images: Float[Tensor, "n C H W"]
    labels: Int64[Tensor, " n"] | None
    fitted: int


def read_images(
    source: str,
    shape: Shape,
    count: int,
    depth: Sequence[float],
    held_out: Callable[[], ImageData],
) -> Pictures:
    """Read a picture, a folder of them, or take the held-out images.

    Grey and colour follow the run. A larger picture is cropped in its middle to the run's
    proportions and then made smaller; a smaller one is refused, since a blur of our own making
    would pass for the truth.

    Args:
        source: A picture, a folder of them (taken in the order of their names), another of
            `common.data.OWN`, such as ``npz:FILE``, or `held-out`.
        shape: (C, H, W) of the run's images, C 1 or 3.
        count: How many to take, at most.
        depth: Black and white of the run's own deep values of which files say nothing; without, one
            range holds for all that are read here.
        held_out: Returns the run's own.

    Raises:
        UserError: There is no such file or folder, none in it, one that cannot be read or is too
            small.
    """
    if source == HELD_OUT:
        # Evenly over all of them, since neighbours may show the same place.
        own = held_out()
        places = np.linspace(0, len(own) - 1, min(count, len(own))).astype(np.int64)
        chosen = own.select(places)
        return Pictures(torch.from_numpy(chosen.images), torch.from_numpy(chosen.labels), 0)
    if source.startswith(ARRAYS):
        images, sizes = _of_source(source, shape, count)
        for width, height in sizes:
            _check_large(source, width, height, shape)
        return Pictures(images, None, sum(size != (shape[2], shape[1]) for size in sizes))
    paths = _paths(source.removeprefix("folder:"))[:count]
    common = _depth(paths, depth)
    read = [_read(each, shape, common) for each in paths]
    images = torch.stack([image for image, _ in read])
    return Pictures(images, None, sum(fitted for _, fitted in read))


def read_as_they_are(
    source: str, shape: Shape, count: int, depth: Sequence[float] = ()
) -> Float[Tensor, "n C H W"]:
    """Read pictures that must have a shape: whatever changed their size would change their damage.

    Args:
        source: A picture, a folder of them, or one of `common.data.OWN`, such as ``npz:FILE``.
        shape: (C, H, W); grey and colour follow it.
        count: How many to take, at most.
        depth: As of `read_images`.

    Raises:
        UserError: There is no such source, or a picture cannot be read or has another size.
    """
    if source.startswith(ARRAYS):
        images, sizes = _of_source(source, shape, count)
        for width, height in sizes:
            _check_same(source, width, height, shape)
        return images
    found = []
    paths = _paths(source.removeprefix("folder:"))[:count]
    common = _depth(paths, depth)
    for path in paths:
        picture = open_picture(path, shape[0], common)
        _check_same(str(path), *picture.size, shape)
        found.append(scaled(fit_picture(picture, shape), 255))
    return torch.from_numpy(np.stack(found))


def _of_source(
    source: str, shape: Shape, count: int
) -> tuple[Float[Tensor, "n C H W"], list[tuple[int, int]]]:
    """Return images in a shape, and the width and height that each had before."""
    own = read_own(absolute_source(source), shape)
    sizes = [(width, height) for _, height, width in own.shapes[:count].tolist()]
    return torch.from_numpy(scaled(own.images[:count], 255)), sizes


def _check_same(name: str, width: int, height: int, shape: Shape) -> None:
    _, wanted_height, wanted_width = shape
    if (width, height) != (wanted_width, wanted_height):
        raise UserError(
            f"{name}: {width}x{height} pixels; to be repaired it must have"
            f" {wanted_width}x{wanted_height}, since resizing would change the damage"
        )


def _check_large(name: str, width: int, height: int, shape: Shape) -> None:
    _, least_height, least_width = shape
    if width < least_width or height < least_height:
        raise UserError(
            f"{name}: {width}x{height} pixels, smaller than this run's images of "
            f"{least_width}x{least_height}; give a larger picture"
        )


def _paths(source: str) -> list[Path]:
    """Return the pictures that a path names."""
    path = Path(source).expanduser()
    if path.is_dir():
        return pictures_in(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder (or say {HELD_OUT})")
    return [path]


def _depth(paths: list[Path], known: Sequence[float]) -> Depth | None:
    """Return black and white of those deep values of which files say nothing, one for all files."""
    if known:
        return Depth(*known)
    frames = (frames_of(path, str(path))[0] for path in paths)
    deep = [each.extremes for each in frames if isinstance(each, Deep) and each.depth is None]
    return depth_of(deep)


def _read(path: Path, shape: Shape, depth: Depth | None) -> tuple[Tensor, bool]:
    channels, height, width = shape
    picture = open_picture(path, channels, depth)
    _check_large(str(path), *picture.size, shape)
    values = fit_picture(picture, shape).astype(np.float32) / np.float32(127.5) - np.float32(1)
    return torch.from_numpy(values), picture.size != (width, height)
