"""From the frames of a picture file to grey or colour of a run's shape.

docs/data.md has the table of what is done with which kind of picture.
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from common.config import PicturesConfig
from common.data.depth import Deep, Depth
from common.data.frames import Frame, frames_of
from common.errors import UserError

Shape = tuple[int, int, int]
"""(C, H, W); C is 1 for grey and 3 for colour."""

PLAIN = PicturesConfig()
"""How pictures are read where nobody says how."""

GREY_MODES = ("1", "L", "LA", "La")


def said_shape(shape: Shape) -> str:
    """Return a shape as configurations write it."""
    return "x".join(map(str, shape))


def open_picture(path: Path, channels: int, depth: Depth | None = None) -> Image.Image:
    """Return a picture, upright, in grey (1 channel) or in colour (3), whatever its mode.

    Args:
        path: The file, of which the first frame is taken.
        channels: 1 or 3.
        depth: Of deep values whose file says nothing, that of all its source; None takes this
            picture's own values.

    Raises:
        UserError: The file cannot be decoded.
    """
    return shown(frames_of(path, str(path))[0], str(path), channels, depth)


def shape_of(frame: Frame) -> Shape:
    """Return the shape that a frame has itself."""
    if isinstance(frame, Deep):
        return (1 if frame.values.ndim == 2 else 3, *frame.values.shape[:2])
    return (1 if frame.mode in GREY_MODES else 3, frame.height, frame.width)


def shown(frame: Frame, name: str, channels: int, depth: Depth | None) -> Image.Image:
    """Return a frame in grey (1 channel) or in colour (3); what is transparent is laid on white.

    Args:
        frame: A decoded frame.
        name: What to call it where it cannot be shown.
        channels: 1 or 3.
        depth: As of `open_picture`.

    Raises:
        UserError: All its values are the same, and nothing says how deep they are.
    """
    mode = "L" if channels == 1 else "RGB"
    if isinstance(frame, Deep):
        levels = frame.levels(depth)
        if levels is None:
            raise UserError(f"{name}: cannot be read as a picture (all its values are the same)")
        return Image.fromarray(levels).convert(mode)
    if frame.has_transparency_data:
        coloured = frame.convert("RGBA")
        paper = Image.new("RGBA", coloured.size, "white")
        frame = Image.alpha_composite(paper, coloured)
    return frame.convert(mode)


def fit_picture(
    picture: Image.Image, shape: Shape, fit: str = "crop"
) -> UInt8[np.ndarray, "C H W"]:
    """Bring a picture to a shape.

    Args:
        picture: Grey or RGB, as the shape has it.
        shape: (C, H, W).
        fit: `crop` cuts it in its middle to the shape's proportions, `pad` puts it whole on black,
            `stretch` does not keep its own; each then resizes it.
    """
    channels, height, width = shape
    if picture.size != (width, height):
        if fit == "stretch":
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        else:
            into = ImageOps.pad if fit == "pad" else ImageOps.fit
            picture = into(picture, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)
