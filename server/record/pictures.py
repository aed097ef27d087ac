"""Images on disk: a sheet of them, one file each, or one array. The name says which."""

import io
import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from common.errors import UserError
from common.files import atomic_file, atomic_write

GAP = 1  # pixels of an image between neighbours

FORMATS = {
    **{".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"},
    **{".tif": "TIFF", ".tiff": "TIFF", ".pdf": "PDF"},
}
"""What a sheet can be written as, by suffix, in Pillow's names."""


def save_images(images: Float[Tensor, "N C H W"], path: Path) -> None:
    """Write images in [-1, 1] as the path says, atomically.

    A suffix of `FORMATS` is one sheet of all (`save_grid`); ``.npz`` one array `images`, uint8
    N x C x H x W, as the data source ``npz:PATH`` reads it; and a path without a suffix a folder of
    PNG files, one for each image in its own size, named by number.

    Raises:
        UserError: The suffix is another, or there is a file where the folder should be.
    """
    check_images_path(path)
    if path.suffix == ".npz":
        with atomic_file(path) as file:
            np.savez_compressed(file, images=_levels(images).numpy())
    elif path.suffix:
        save_grid(images, path)
    else:
        digits = len(str(len(images) - 1))
        for number, image in enumerate(_levels(images).permute(0, 2, 3, 1).numpy()):
            grey = image[:, :, 0] if image.shape[2] == 1 else image
            _save(grey, path / f"{number:0{digits}d}.png")


def check_images_path(path: Path) -> None:
    """Refuse what `save_images` could not write; to be called before images are made.

    Raises:
        UserError: As there.
    """
    if path.suffix and path.suffix.lower() not in (*FORMATS, ".npz"):
        raise UserError(
            f"out: {path} ends in none of {', '.join(FORMATS)} (a sheet of all images) and .npz "
            "(one array); a name without a suffix is a folder of single PNG files"
        )
    if not path.suffix and path.exists() and not path.is_dir():
        raise UserError(
            f"out: {path} is a file, and single images go into a folder; choose another"
        )


def save_grid(
    images: Float[Tensor, "N C H W"], path: Path, columns: int | None = None, side: int = 64
) -> None:
    """Write images in [-1, 1] as one sheet, row by row, atomically, in the format of the suffix.

    Each image is enlarged by a whole factor, pixels kept square and sharp, to at least `side`
    screen pixels; values outside the range are clipped and those that are not numbers are black.

    Args:
        images: (N, C, H, W), N at least 1, C 1 (grey) or 3 (colour).
        path: where to, a suffix of `FORMATS`; missing folders are made.
        columns: images in a row; None makes the grid as square as it can be.
        side: the least width and height of an image in screen pixels.
    """
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = torch.full(
        (channels, rows * (height + GAP) - GAP, columns * (width + GAP) - GAP),
        128,
        dtype=torch.uint8,
    )
    for i, image in enumerate(_levels(images)):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        sheet[:, top : top + height, left : left + width] = image
    pixels = sheet.permute(1, 2, 0).expand(-1, -1, 3).numpy()
    _save(pixels, path, math.ceil(side / min(height, width)))


def _levels(images: Float[Tensor, "N C H W"]) -> UInt8[Tensor, "N C H W"]:
    levels = ((images.detach().cpu().float() + 1) * 127.5).nan_to_num(0.0).clamp(0, 255)
    return levels.round().to(torch.uint8)


def _save(pixels: UInt8[np.ndarray, "H W *C"], path: Path, factor: int = 1) -> None:
    picture = Image.fromarray(pixels)
    if factor > 1:
        size = (picture.width * factor, picture.height * factor)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, format=FORMATS[path.suffix.lower()])
    atomic_write(path, buffer.getvalue())
