"""One picture file: what kinds are read, and how its values become grey or colour.

| kind of picture | what is done with it |
| --- | --- |
| 1, 2, 4, 8 bits, palette, YCbCr, CMYK | Pillow's own conversion to grey or RGB |
| transparent (LA, PA, RGBA, a colour key) | laid on white |
| more than 8 bits of grey, whole numbers | black is 0 and white the most that the depth holds |
| signed numbers, floats | black is the least and white the greatest value |
| turned (EXIF) | turned upright |
| animated or of several pages | the first one |

The depth of deep greys is not what their file keeps them in: twelve bits come in sixteen. So it is
read off the values, of *all* deep pictures of a source together (`Depth`), that a dark picture
among bright ones stays dark.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image, ImageOps

from common.errors import UserError

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".pgm", ".ppm", ".pbm", ".pnm", ".tga", ".jp2"),
)
"""Files that are read as pictures."""

UNREAD = (
    ".heic",
    ".heif",
    ".avif",
    ".dcm",
    ".dicom",
    ".nii",
    ".svg",
    ".raw",
    ".dng",
    ".nef",
    ".cr2",
)
"""Files that are pictures too, but that nothing here reads: they are counted and said."""

DEPTHS = (8, 10, 12, 14, 16, 32)
"""Bits that whole numbers of a grey may have."""

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Depth:
    """The values of black and white in the deep greys of a source.

    Attributes:
        black: The value that becomes 0.
        white: The value that becomes 255, greater than `black`.
    """

    black: float
    white: float

    def levels(self, values: NDArray) -> UInt8[np.ndarray, "H W"]:
        """Return values as levels from 0 to 255; what is outside is cut."""
        share = (values.astype(np.float64) - self.black) / (self.white - self.black)
        return (share * 255).round().clip(0, 255).astype(np.uint8)


def deep_values(path: Path) -> NDArray | None:
    """Return a picture's greys as they stand in the file, if these are of more than eight bits.

    Raises:
        UserError: The file cannot be decoded, or a value is no number.
    """
    with contextlib.suppress(Exception), Image.open(path) as file:
        if file.mode[0] not in "IF":
            return None  # known without decoding
    with _decoded(path) as picture:
        if picture.mode[0] not in "IF":
            return None
        values = np.asarray(picture)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError(f"{path}: cannot be read as a picture (a value is no number)")
    return values


def depth_of(extremes: list[tuple[float, float, bool]]) -> Depth | None:
    """Return the depth of a source from the least and greatest value of each deep picture in it.

    Args:
        extremes: For each the least and the greatest value and whether these are whole numbers.

    Returns:
        From 0 to the most of the smallest depth that holds all, for whole numbers from 0 up; from
        0 to 1 for fractions within; else from the least to the greatest. None where all values of
        all pictures are one and the same, or there are none.
    """
    if not extremes:
        return None
    least = min(low for low, _, _ in extremes)
    most = max(high for _, high, _ in extremes)
    if least >= 0 and all(whole for *_, whole in extremes):
        bits = next(bits for bits in DEPTHS if most < 2**bits)
        return Depth(0.0, float(2**bits - 1))
    if least >= 0 and most <= 1:
        return Depth(0.0, 1.0)
    return Depth(least, most) if most > least else None


def extremes_of(values: NDArray) -> tuple[float, float, bool]:
    """Return the least and greatest of a picture's values, and whether they are whole numbers."""
    return float(values.min()), float(values.max()), values.dtype.kind in "iu"


def open_picture(path: Path, channels: int, depth: Depth | None = None) -> Image.Image:
    """Return a picture, upright, in grey (1 channel) or in colour (3), whatever its mode.

    Args:
        path: The file.
        channels: 1 or 3.
        depth: Of deep greys, that of all its source; None takes this picture's own values.

    Raises:
        UserError: The file cannot be decoded.
    """
    values = deep_values(path)
    if values is not None:
        depth = depth or depth_of([extremes_of(values)])
        if depth is None:
            raise UserError(f"{path}: cannot be read as a picture (all its values are the same)")
        return Image.fromarray(depth.levels(values)).convert("L" if channels == 1 else "RGB")
    with _decoded(path) as picture:
        if picture.has_transparency_data:
            coloured = picture.convert("RGBA")
            paper = Image.new("RGBA", coloured.size, "white")
            return Image.alpha_composite(paper, coloured).convert("L" if channels == 1 else "RGB")
        return picture.convert("L" if channels == 1 else "RGB")


def fit_picture(picture: Image.Image, shape: Shape) -> UInt8[np.ndarray, "C H W"]:
    """Crop a picture in its middle to the shape's proportions and resize it to the shape."""
    channels, height, width = shape
    if picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def _decoded(path: Path) -> Image.Image:
    """Return a file's first picture, decoded and upright; whatever a decoder raises names it.

    Decoders raise what they like on damaged files, and EXIF tags of odd types more than that.
    """
    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file)
    except MemoryError:
        raise UserError(f"{path}: cannot be read as a picture (it is too large)") from None
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"{path}: cannot be read as a picture ({reason})") from None
