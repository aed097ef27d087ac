"""Pictures as people have them: depths, damage, folders that are no classes, published arrays."""

import logging
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config.run import RunConfig
from common.data.classes import MOST_CLASSES
from common.data.own import read_own
from common.errors import UserError
from server.preflight import preflight

SHAPE = (1, 4, 16)
RAMP = np.linspace(0, 1, 64).reshape(4, 16)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def _blank(path: Path, **options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (16, 4), 9).save(path, **options)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("eight.png", (RAMP * 255).round().astype(np.uint8)),
        ("ten.tif", (RAMP * 1023).round().astype(np.uint16)),
        ("twelve.png", (RAMP * 4095).round().astype(np.uint16)),
        ("fourteen.tif", (RAMP * 16383).round().astype(np.uint16)),
        ("sixteen.png", (RAMP * 65535).round().astype(np.uint16)),
        ("bytes.tif", (RAMP * 255).round().astype(np.int32)),
        ("hounsfield.tif", (RAMP * 2000 - 1000).round().astype(np.int32)),
        ("fractions.tif", RAMP.astype(np.float32)),
        ("floats.tif", (RAMP * 700 - 300).astype(np.float32)),
    ],
)
def test_every_depth_of_grey_is_the_same_ramp(name: str, values: np.ndarray, folder: Path) -> None:
    Image.fromarray(values).save(folder / name)
    found = read_own(f"folder:{folder}", SHAPE).images[0, 0]
    assert np.abs(found.astype(int) - RAMP * 255).max() <= 1


def test_the_depth_is_that_of_the_whole_source_and_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bright, dark = ((RAMP * most).round().astype(np.uint16) for most in (4095, 400))
    Image.fromarray(bright).save(folder / "a.tif")
    Image.fromarray(dark).save(folder / "b.tif")
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        with caplog.at_level(logging.INFO, "flwr"):
            first, second = read_own(f"folder:{folder}", SHAPE).images
        assert first.max() == 255
        assert second.max() == round(400 / 4095 * 255)
        assert "deep greys from 0 (black) to 4095 (white)" in caplog.text


def test_a_picture_with_what_is_no_number_is_left_out_alone(folder: Path) -> None:
    Image.fromarray(RAMP.astype(np.float32)).save(folder / "good.tif")
    Image.fromarray(np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32)).save(folder / "nan.tif")
    assert read_own(f"folder:{folder}", SHAPE).skipped == ("nan.tif",)


@pytest.mark.parametrize(
    "error", [struct.error("x"), TypeError("x"), EOFError(), MemoryError(), KeyError(1)]
)
def test_whatever_a_decoder_raises_costs_that_picture_alone(
    error: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _blank(folder / "a.png")
    _blank(folder / "b.png")
    real = Image.open

    def broken(path: Path) -> Image.Image:
        if path.name == "a.png":
            raise error
        return real(path)

    monkeypatch.setattr("PIL.Image.open", broken)
    assert read_own(f"folder:{folder}", SHAPE).skipped == ("a.png",)


def _classes(folder: Path, *names: str) -> tuple[tuple[str, ...], list[int]]:
    for name in names:
        _blank(folder / name / "a.png")
    own = read_own(f"folder:{folder}", SHAPE)
    return own.classes, own.labels.tolist()


def test_what_systems_leave_behind_is_no_class(folder: Path) -> None:
    left = (".thumbnails", ".ipynb_checkpoints", "@eaDir", "__MACOSX", "$RECYCLE.BIN", "cat/.t")
    assert _classes(folder, "cat", "dog", *left) == (("cat", "dog"), [0, 1])


def test_numbers_mean_themselves_with_zeros_before_them_and_years_are_names(tmp_path: Path) -> None:
    assert _classes(tmp_path / "a", "01", "03") == (("0", "1", "2", "3"), [1, 3])
    assert _classes(tmp_path / "b", "2021", "2022") == (("2021", "2022"), [0, 1])
    with pytest.raises(UserError, match=r"classes 01 and 1 of .* are one"):
        _classes(tmp_path / "c", "01", "1")


def test_links_to_folders_are_classes_and_circles_end(folder: Path, tmp_path: Path) -> None:
    _blank(tmp_path / "elsewhere" / "a.png")
    _blank(folder / "cat" / "a.png")
    (folder / "dog").symlink_to(tmp_path / "elsewhere")
    (folder / "cat" / "round").symlink_to(folder)
    own = read_own(f"folder:{folder}", SHAPE)
    assert own.classes == ("cat", "dog")
    assert len(own.labels) == 2


@pytest.mark.parametrize("names", [("images", "masks"), ("train", "cat"), ("val", "test")])
def test_folders_that_are_neither_splits_nor_classes_are_refused(
    names: tuple[str, ...], folder: Path
) -> None:
    with pytest.raises(UserError, match=r"are no classes .*; (name the one to|keep) train "):
        _classes(folder, *names)


def test_pictures_that_are_not_read_are_counted_with_what_would_read_them(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.data.formats.installed", lambda _: False)
    monkeypatch.setattr("common.data.formats.features.check", lambda _: False)
    for name in ("a.heic", "b.HEIC", "c.dcm", "d.nii.gz", "e.avif"):
        (folder / name).write_bytes(b"x")
    ways = (
        rf'{kind} \(needs pip install "scorequilt\[{extra}\]"\)'
        for kind, extra in (
            (r"1 \.dcm", "dicom"),
            (r"2 \.heic", "heif"),
        )
    )
    first = r"\(there are 1 \.avif \(needs a Pillow .*\), "
    there = rf"{first}{', '.join(ways)}, 1 \.nii\.gz \(not read\)\)"
    with pytest.raises(UserError, match=there):
        read_own(f"folder:{folder}", SHAPE)
    _blank(folder / "a.pgm", format="PPM")
    _blank(folder / "b.jfif", format="JPEG")
    _blank(folder / "without", format="PNG")
    assert len(read_own(f"folder:{folder}", SHAPE).images) == 3
    assert "1 .nii.gz (not read)" in caplog.text


def test_arrays_as_they_are_published(tmp_path: Path) -> None:
    images = np.arange(5 * 4 * 16 * 3, dtype=np.uint16).astype(np.uint8).reshape(5, 4, 16, 3)
    labels = np.array([[0], [2], [1], [0], [2]])
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=labels, test_images=images)
    own = read_own(f"npz:{tmp_path / 'a.npz'}", (3, 4, 16))
    assert np.array_equal(own.images, images.transpose(0, 3, 1, 2))
    assert own.labels.tolist() == [0, 2, 1, 0, 2]
    assert own.classes == ("0", "1", "2")


def test_four_channels_and_identifiers_are_refused_before_the_start(tmp_path: Path) -> None:
    four, ids = tmp_path / "four.npz", tmp_path / "ids.npz"
    np.savez(four, images=np.zeros((20, 4, 8, 8), np.uint8))
    np.savez(ids, images=np.zeros((20, 8, 8), np.uint8), labels=np.full(20, 10**9))
    with pytest.raises(UserError, match="holds images of 4 channels; they are grey"):
        preflight(RunConfig(data=f"npz:{four}", fleet="1x1"))
    with pytest.raises(UserError, match=rf"reaches 1000000000; .* below {MOST_CLASSES}"):
        preflight(RunConfig(data=f"npz:{ids}", fleet="1x1"))
