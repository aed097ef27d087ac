from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.datasets import load_dataset
from common.errors import UserError
from server.record.pictures import save_grid, save_images


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


@pytest.mark.parametrize(
    ("suffix", "begins"),
    [
        (".png", b"\x89PNG"),
        (".JPG", b"\xff\xd8"),
        (".webp", b"RIFF"),
        (".bmp", b"BM"),
        (".tif", b"II*"),
        (".pdf", b"%PDF"),
    ],
)
def test_the_suffix_decides_the_format(suffix: str, begins: bytes, tmp_path: Path) -> None:
    save_images(torch.zeros(3, 1, 8, 8), tmp_path / f"sheet{suffix}")
    assert (tmp_path / f"sheet{suffix}").read_bytes().startswith(begins)


def test_a_folder_gets_one_file_for_each_image_in_its_own_size(tmp_path: Path) -> None:
    images = torch.linspace(-1, 1, 11)[:, None, None, None].expand(-1, 3, 4, 6)
    save_images(images, tmp_path / "drawn")
    files = sorted((tmp_path / "drawn").iterdir())
    assert [file.name for file in files] == [f"{n:02d}.png" for n in range(11)]
    pixels = [np.asarray(Image.open(file)) for file in files]
    assert all(each.shape == (4, 6, 3) for each in pixels)
    assert [int(each[0, 0, 0]) for each in (pixels[0], pixels[-1])] == [0, 255]
    save_images(images[:1, :1], tmp_path / "grey")
    with Image.open(tmp_path / "grey" / "0.png") as picture:
        assert picture.mode == "L"


def test_an_array_is_read_back_as_a_data_source(tmp_path: Path) -> None:
    images = torch.linspace(-1, 1, 12)[:, None, None, None].expand(-1, 1, 8, 8)
    save_images(images, tmp_path / "drawn.npz")
    read = load_dataset(f"npz:{tmp_path / 'drawn.npz'}")
    values = np.concatenate([part.images[:, 0, 0, 0] for part in read])
    assert np.allclose(np.sort(values), images[:, 0, 0, 0], atol=1 / 255)


@pytest.mark.parametrize("name", ["x.svg", "x.gif.txt", "x.npy"])
def test_a_format_that_cannot_be_written_is_refused_before_anything_is(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"out: .* ends in none of .png"):
        save_images(torch.zeros(1, 1, 8, 8), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "drawn").write_text("mine")
    with pytest.raises(UserError, match=r"out: .* is a file"):
        save_images(torch.zeros(1, 1, 8, 8), tmp_path / "drawn")
    assert (tmp_path / "drawn").read_text() == "mine"
