"""One picture brought to a shape, or what has to be known of others before it can be."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from common.config import PicturesConfig
from common.data.depth import Deep, Depth
from common.data.frames import frames_of
from common.data.pictures import Shape, fit_picture, shape_of, shown
from common.errors import UserError

NAME = "it"
"""What a picture is called in a reason until the name is taken off: callers know it."""


class Frames(NamedTuple):
    """What a picture holds: images brought to the shape that is wanted, and the shapes they had."""

    images: Sequence[UInt8[np.ndarray, "C H W"]]
    shapes: Sequence[Shape]


class Waits(NamedTuple):
    """A picture of deep values: how they become levels depends on all such ones of the source."""

    extremes: Sequence[tuple[float, float, bool]]


def read_picture(
    source: Path | bytes,
    shape: Shape,
    reading: PicturesConfig,
    depth: Depth | None = None,
    may_wait: bool = False,
) -> Frames | Waits:
    """Decode one picture and bring it to a shape.

    Args:
        source: A file, or what is in it.
        shape: (C, H, W) to bring it to.
        reading: How.
        depth: That of the source's deep values; None takes this picture's own.
        may_wait: Whether it may wait for that.

    Raises:
        UserError: It cannot be decoded; the reason alone, without a name.
    """
    try:
        frames = frames_of(source, NAME, reading.frames == "all")
        unsaid = [each.extremes for each in frames if isinstance(each, Deep) and each.depth is None]
        if unsaid and may_wait:
            return Waits(unsaid)
        pictures = [shown(each, NAME, shape[0], depth) for each in frames]
    except UserError as error:
        raise UserError(str(error).removeprefix(f"{NAME}: ")) from None
    images = [fit_picture(each, shape, reading.fit) for each in pictures]
    return Frames(images, [shape_of(each) for each in frames])
