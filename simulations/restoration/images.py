"""Pictures that a user names, as images of a run's shape."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from common.data import ImageData, fit_picture, is_read, kind_of, open_picture
from common.errors import UserError

HELD_OUT = "held-out"


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


def read_images(source: str, held_out: ImageData, count: int) -> Pictures:
    """Read a picture, a folder of them, or take the held-out images.

    Grey and colour follow the run. A larger picture is cropped in its middle to the run's
    proportions and then made smaller; a smaller one is refused, since a blur of our own making
    would pass for the truth.

    Args:
        source: A picture's file, a folder of them (taken in the order of their names), or
            `held-out`.
        held_out: The run's own; C is 1 or 3 and what is read gets their shape.
        count: How many to take, at most.

    Raises:
        UserError: There is no such file or folder, none in it, one that cannot be read or is too
            small.
    """
    if source == HELD_OUT:
        # Evenly over all of them, since neighbours may show the same place.
        places = np.linspace(0, len(held_out) - 1, min(count, len(held_out))).astype(np.int64)
        chosen = held_out.select(places)
        return Pictures(torch.from_numpy(chosen.images), torch.from_numpy(chosen.labels), 0)
    path = Path(source)
    if path.is_dir():
        paths = sorted(each for each in path.iterdir() if is_read(kind_of(each)))
        if not paths:
            raise UserError(
                f"{path}: no file in this folder is a picture that is read (docs/data.md)"
            )
    elif path.is_file():
        paths = [path]
    else:
        raise UserError(f"{path}: no such file or folder (or say {HELD_OUT})")
    read = [_read(each, held_out.image_shape) for each in paths[:count]]
    images = torch.stack([image for image, _ in read])
    return Pictures(images, None, sum(fitted for _, fitted in read))


def _read(path: Path, shape: tuple[int, int, int]) -> tuple[Tensor, bool]:
    channels, height, width = shape
    picture = open_picture(path, channels)
    if picture.width < width or picture.height < height:
        raise UserError(
            f"{path}: {picture.width}x{picture.height} pixels, smaller than this run's images of "
            f"{width}x{height}; give a larger picture"
        )
    values = fit_picture(picture, shape).astype(np.float32) / np.float32(127.5) - np.float32(1)
    return torch.from_numpy(values), picture.size != (width, height)
