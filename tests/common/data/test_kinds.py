"""One table of what is read how: every kind of picture against the values that it must have.

docs/data.md says the same in words.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.pixels import apply_windowing

from common.config import PicturesConfig
from common.data.own import read_own
from tests.common.data.deep_kinds import DEEP_KINDS, DICOM_KINDS, TWELVE
from tests.common.data.kinds import (
    COLOUR,
    GREY,
    KINDS,
    Write,
    as_dicom,
    as_png,
    as_tiff,
    frames,
    pillow,
    ramp,
)
from tests.common.data.writers import dicom

ALL = KINDS | DEEP_KINDS | DICOM_KINDS


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.mark.parametrize("kind", ALL)
def test_every_kind_of_picture_has_the_values_it_should_have(kind: str, folder: Path) -> None:
    suffix, write, expected, tolerance = ALL[kind]
    write(folder / f"a{suffix}")
    channels = 1 if expected.ndim == 2 else 3
    own = read_own(f"folder:{folder}", (channels, 16, 16))
    found = np.moveaxis(own.images[0], 0, -1).squeeze().astype(int)
    assert np.abs(found - expected).max() <= tolerance


def test_there_are_many_kinds() -> None:
    assert len(ALL) == len(KINDS) + len(DEEP_KINDS) + len(DICOM_KINDS) >= 40


STACK = np.stack([ramp(12), ramp(12)[::-1], ramp(12).T])
SEVERAL: dict[str, tuple[str, Write]] = {
    "gif": (".gif", frames(GREY, GREY[::-1], GREY.T)),
    "animated png": (".png", frames(GREY, GREY[::-1], GREY.T)),
    "animated webp": (".webp", frames(COLOUR, COLOUR[::-1], COLOUR.transpose(1, 0, 2))),
    "tiff": (".tif", as_tiff(STACK)),
    "tiff of colours": (".tif", as_tiff(np.stack([TWELVE, TWELVE[::-1]]), "rgb")),
    "dicom": (".dcm", as_dicom(STACK, 12)),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_all_frames_are_taken_where_the_run_says_so(kind: str, folder: Path) -> None:
    suffix, write = SEVERAL[kind]
    write(folder / f"a{suffix}")
    channels = 3 if "webp" in kind or "colours" in kind else 1
    source, shape = f"folder:{folder}", (channels, 16, 16)
    assert len(read_own(source, shape).images) == 1
    every = read_own(source, shape, PicturesConfig(frames="all"))
    expected = COLOUR if channels == 3 else GREY[..., None]
    turned = [expected, expected[::-1], expected.transpose(1, 0, 2)][: len(every.images)]
    assert len(turned) == (2 if kind == "tiff of colours" else 3)
    for image, each in zip(every.images, turned, strict=True):
        assert np.abs(np.moveaxis(image, 0, -1).astype(int) - each).max() <= 1
    assert every.labels.tolist() == [0] * len(turned)


def test_a_telephone_s_preview_and_a_smaller_copy_are_no_pictures(folder: Path) -> None:
    one, other = Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)
    one.save(folder / "a.jpg", "MPO", save_all=True, append_images=[other])
    tifffile.imwrite(folder / "b.tif", GREY, photometric="minisblack")
    tifffile.imwrite(
        folder / "b.tif", GREY[:8, :8], photometric="minisblack", subfiletype=1, append=True
    )
    own = read_own(f"folder:{folder}", (1, 16, 16), PicturesConfig(frames="all"))
    assert len(own.images) == 2


def _no_picture(path: Path) -> None:
    path.write_text("x")


def _short(path: Path) -> None:
    """A TIFF that says that it is twice as high as its one strip."""
    as_tiff(ramp(12))(path)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["ImageLength"].overwrite(32)


LEFT_OUT: dict[str, tuple[str, Write, str]] = {
    "floats of 64 bits": (".tif", as_tiff(np.zeros((4, 4))), "of no kind that is read"),
    "floats of 16 bits": (".tif", as_tiff(np.zeros((4, 4), np.float16)), "of no kind that is read"),
    "planes of 16 bits": (
        ".tif",
        as_tiff(np.moveaxis(TWELVE, -1, 0), "rgb", planarconfig="separate"),
        "planes of sixteen bits",
    ),
    "dark grey with alpha of 16 bits": (
        ".png",
        as_png(np.dstack([ramp(12), ramp(12)]), 4),
        "lower of sixteen bits",
    ),
    "a strip too few": (".tif", _short, "strips of it are missing"),
    "a picture by its name": (".png", _no_picture, "no kind"),
    "one value of no depth": (".tif", as_tiff(np.full((4, 4), 7.0, np.float32)), "the same"),
    "too many pixels": (".png", pillow(Image.new("1", (20000, 20000))), "than 178 million pixels"),
    "a window of a kind of its own": (
        ".dcm",
        as_dicom(GREY, 8, WindowCenter=9, WindowWidth=9, VOILUTFunction="SIGMOID"),
        "a window of kind SIGMOID",
    ),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_cannot_be_read_right_is_left_out_by_name_and_reason(
    kind: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    suffix, write, reason = LEFT_OUT[kind]
    write(folder / f"bad{suffix}")
    Image.fromarray(GREY).save(folder / "good.png")
    own = read_own(f"folder:{folder}", (1, 16, 16))
    assert own.skipped == (f"bad{suffix}",)
    assert reason in own.reasons[0]
    assert np.array_equal(own.images[0, 0], GREY)
    assert f"bad{suffix} (cannot be read as a picture (" in caplog.text
    assert reason in caplog.text


def test_a_picture_between_pillow_s_warning_and_its_limit_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # of 256; filterwarnings is error
    Image.fromarray(GREY).save(folder / "a.png")
    assert np.array_equal(read_own(f"folder:{folder}", (1, 16, 16)).images[0, 0], GREY)


@pytest.mark.parametrize(
    "window", [(128, 5, "LINEAR"), (40.5, 1, "LINEAR"), (99, 31, "LINEAR_EXACT")]
)
def test_windows_are_pydicom_s_own(window: tuple[float, float, str], folder: Path) -> None:
    centre, width, function = window
    about: dict[str, Any] = {
        "WindowCenter": centre,
        "WindowWidth": width,
        "VOILUTFunction": function,
    }
    dicom(folder / "a.dcm", GREY, 8, **about)
    data = pydicom.dcmread(folder / "a.dcm")
    expected = apply_windowing(data.pixel_array, data).round()
    found = read_own(f"folder:{folder}", (1, 16, 16)).images[0, 0].astype(int)
    assert np.abs(found - expected).max() <= 1


TURNED = {
    1: GREY,
    2: GREY[:, ::-1],
    3: GREY[::-1, ::-1],
    4: GREY[::-1],
    5: GREY.T,
    6: np.rot90(GREY),
    7: GREY[::-1, ::-1].T,
    8: np.rot90(GREY, -1),
}


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", TURNED)
def test_all_eight_orientations_come_upright(orientation: int, suffix: str, folder: Path) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    picture = Image.fromarray(TURNED[orientation])
    picture.save(folder / f"a{suffix}", exif=exif, lossless=True)
    found = read_own(f"folder:{folder}", (1, 16, 16)).images[0, 0]
    assert np.abs(found.astype(int) - GREY).max() <= 1


def test_a_telephone_s_picture_with_an_odd_tag_is_read_and_turned(folder: Path) -> None:
    """Its resolution is negative, which the tag's type does not allow."""
    entries = struct.pack("<H", 2) + struct.pack("<HHIHH", 274, 3, 1, 6, 0)
    entries += struct.pack("<HHII", 282, 10, 1, 38) + struct.pack("<I", 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + entries + struct.pack("<ii", -72, 1)
    Image.fromarray(np.rot90(GREY)).save(folder / "a.jpg", exif=exif, quality=100)
    own = read_own(f"folder:{folder}", (1, 16, 16))
    assert np.abs(own.images[0, 0].astype(int) - GREY).max() <= 4
