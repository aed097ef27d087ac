from pathlib import Path

import numpy as np
import torch
from PIL import Image

from server.record.pictures import save_grid


def test_images_stand_row_by_row_enlarged_without_blur(tmp_path: Path) -> None:
    images = torch.full((3, 1, 8, 8), -1.0)
    images[1] = 1.0
    images[2, 0, 0, 0] = float("nan")
    images[2, 0, 0, 1] = 5.0
    save_grid(images, tmp_path / "a" / "x.png")
    pixels = np.asarray(Image.open(tmp_path / "a" / "x.png"))
    # Two columns of 8 pixels and a gap of 1, each pixel 8 screen pixels wide.
    assert pixels.shape == (136, 136, 3)
    assert (pixels[:64, :64] == 0).all()
    assert (pixels[:64, 72:] == 255).all()
    assert (pixels[72:80, :8] == 0).all()
    assert (pixels[72:80, 8:16] == 255).all()
    assert (pixels[64:72] == 128).all()


def test_colours_keep_their_channels(tmp_path: Path) -> None:
    images = torch.tensor([1.0, 0.0, -1.0])[None, :, None, None].expand(1, 3, 32, 32)
    save_grid(images, tmp_path / "x.png")
    pixels = np.asarray(Image.open(tmp_path / "x.png"))
    assert pixels.shape == (64, 64, 3)
    assert tuple(pixels[5, 5]) == (255, 128, 0)
