"""Many pictures brought to one shape, whatever some of them do to their decoders."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeGuard

import numpy as np
from jaxtyping import Int64, UInt8

from common.config import PicturesConfig
from common.data.depth import Deep, Depth, depth_of
from common.data.frames import Frame, frames_of
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
    done: dict[int, list[tuple[np.ndarray, Shape]]] = {}
    failed: dict[int, str] = {}
    waiting: dict[int, list[tuple[float, float, bool]]] = {}

    def one(place: int, depth: Depth | None) -> None:
        name = names[place]
        try:
            frames = frames_of(sources[place], name, reading.frames == "all")
            unsaid = [each.extremes for each in frames if _unsaid(each)]
            if unsaid and place not in waiting:
                waiting[place] = unsaid
                return
            done[place] = [
                (
                    fit_picture(shown(each, name, shape[0], depth), shape, reading.fit),
                    shape_of(each),
                )
                for each in frames
            ]
        except UserError as error:
            failed[place] = str(error).removeprefix(f"{name}: ")

    for place in range(len(sources)):
        one(place, None)
    shared = depth_of([each for extremes in waiting.values() for each in extremes])
    for place in waiting:
        one(place, shared)
    order = [place for place in sorted(done) for _ in done[place]]
    images = [image for place in sorted(done) for image, _ in done[place]]
    shapes = [own for place in sorted(done) for _, own in done[place]]
    return Decoded(
        np.stack(images) if images else np.empty((0, *shape), np.uint8),
        np.array(order, dtype=np.int64),
        np.array(sorted(failed), dtype=np.int64),
        np.array([failed[place] for place in sorted(failed)], dtype=str),
        np.array(shapes, dtype=np.int64).reshape(-1, 3),
        np.array([shared.black, shared.white] if shared else [], dtype=np.float64),
    )


def _unsaid(frame: Frame) -> TypeGuard[Deep]:
    return isinstance(frame, Deep) and frame.depth is None
