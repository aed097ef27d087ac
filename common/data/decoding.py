"""Many pictures brought to one shape, whatever some of them do to their decoders."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from common.config import PicturesConfig
from common.data.depth import Deep, Depth, depth_of
from common.data.frames import frames_of
from common.data.pictures import Shape, fit_picture, shape_of, shown
from common.errors import UserError


class Decoded(NamedTuple):
    """What became of a sequence of pictures.

    Attributes:
        images: (N, C, H, W), 0 is black and 255 white.
        places: (N,), of which of the pictures each image is a frame, in order.
        skipped: Places of those that could not be decoded.
        reasons: Why not, one for each.
        shapes: (N, 3), C, H, W that the images had themselves.
        depth: (2,), black and white of deep values whose files do not say; empty without such.
    """

    images: UInt8[np.ndarray, "N C H W"]
    places: Int64[np.ndarray, " N"]
    skipped: Int64[np.ndarray, " K"]
    reasons: np.ndarray
    shapes: Int64[np.ndarray, "N 3"]
    depth: np.ndarray


class Frames(NamedTuple):
    """What a picture holds: images brought to the shape that is wanted, and the shapes they had."""

    images: Sequence[UInt8[np.ndarray, "C H W"]]
    shapes: Sequence[Shape]


class Waits(NamedTuple):
    """A picture of deep values: how they become levels depends on all such ones of the source."""

    extremes: Sequence[tuple[float, float, bool]]


def read_picture(
    source: Path | bytes,
    name: str,
    shape: Shape,
    reading: PicturesConfig,
    depth: Depth | None = None,
    may_wait: bool = False,
) -> Frames | Waits:
    """Decode one picture and bring it to a shape.

    Args:
        source: A file, or what is in it.
        name: What to call it where it cannot be read.
        shape: (C, H, W) to bring it to.
        reading: How.
        depth: That of the source's deep values; None takes this picture's own.
        may_wait: Whether it may wait for that.

    Raises:
        UserError: It cannot be decoded.
    """
    frames = frames_of(source, name, reading.frames == "all")
    unsaid = [each.extremes for each in frames if isinstance(each, Deep) and each.depth is None]
    if unsaid and may_wait:
        return Waits(unsaid)
    pictures = [shown(each, name, shape[0], depth) for each in frames]
    images = [fit_picture(each, shape, reading.fit) for each in pictures]
    return Frames(images, [shape_of(each) for each in frames])


def decode(
    sources: Sequence[Path | bytes], names: Sequence[str], shape: Shape, reading: PicturesConfig
) -> Decoded:
    """Decode pictures: those of deep values wait until the range that they share is known.

    Args:
        sources: Files, or what is in them.
        names: What to call them.
        shape: (C, H, W) to bring them to.
        reading: How.
    """
    done: dict[int, Frames] = {}
    waiting: dict[int, Waits] = {}
    failed: dict[int, str] = {}

    def read(place: int, depth: Depth | None, may_wait: bool) -> None:
        try:
            found = read_picture(sources[place], names[place], shape, reading, depth, may_wait)
        except UserError as error:
            failed[place] = str(error).removeprefix(f"{names[place]}: ")
            return
        if isinstance(found, Waits):
            waiting[place] = found
        else:
            done[place] = found

    for place in range(len(sources)):
        read(place, None, True)
    shared = depth_of([each for waits in waiting.values() for each in waits.extremes])
    for place in waiting:
        read(place, shared, False)
    order = sorted(done)
    images = [image for place in order for image in done[place].images]
    shapes = [own for place in order for own in done[place].shapes]
    return Decoded(
        np.stack(images) if images else np.empty((0, *shape), np.uint8),
        np.repeat(np.array(order, np.int64), [len(done[place].images) for place in order]),
        np.array(sorted(failed), dtype=np.int64),
        np.array([failed[place] for place in sorted(failed)], dtype=str),
        np.array(shapes, dtype=np.int64).reshape(-1, 3),
        np.array([shared.black, shared.white] if shared else [], dtype=np.float64),
    )
