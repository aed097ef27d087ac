"""Drawing samples."""

import io
import math
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from common.files import atomic_write

GAP = 1  # pixels of an image between neighbours


def save_grid(
    images: Float[Tensor, "N C H W"], path: Path, columns: int | None = None, side: int = 64
) -> None:
    """Write images in [-1, 1] as one PNG, row by row, atomically.

    Each image is enlarged by a whole factor, pixels kept square and sharp, to at least `side`
    screen pixels; values outside the range are clipped and those that are not numbers are black.

    Args:
        images: (N, C, H, W), N at least 1, C 1 (grey) or 3 (colour).
        path: where to; missing folders are made.
        columns: images in a row; None makes the grid as square as it can be.
        side: the least width and height of an image in screen pixels.
    """
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    levels = ((images.detach().cpu().float() + 1) * 127.5).nan_to_num(0.0).clamp(0, 255)
    sheet = torch.full(
        (channels, rows * (height + GAP) - GAP, columns * (width + GAP) - GAP), 128.0
    )
    for i, image in enumerate(levels):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        sheet[:, top : top + height, left : left + width] = image
    pixels = sheet.round().to(torch.uint8).permute(1, 2, 0).expand(-1, -1, 3).numpy()
    factor = math.ceil(side / min(height, width))
    picture = Image.fromarray(pixels).resize(
        (pixels.shape[1] * factor, pixels.shape[0] * factor), Image.Resampling.NEAREST
    )
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    atomic_write(path, buffer.getvalue())
