"""What pictures are called: metadata beside them, folders that are splits, groups kept whole."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config import PicturesConfig
from common.data.datasets import load_dataset, load_partition, own_images
from common.data.own import OwnImages, read_own
from common.errors import UserError

SHAPE = (1, 4, 4)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def _fill(folder: Path, *names: str) -> None:
    """Pictures whose grey is their place among the names."""
    for grey, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), grey).save(folder / name)


def _read(folder: Path, **reading: str) -> OwnImages:
    return read_own(f"folder:{folder}", SHAPE, PicturesConfig.model_validate(reading))


def _named(own: OwnImages) -> dict[int, str]:
    """The class of each picture by its grey."""
    greys = own.images[:, 0, 0, 0].tolist()
    return {grey: own.classes[label] for grey, label in zip(greys, own.labels, strict=True)}


def test_a_table_beside_the_pictures_says_their_classes(folder: Path) -> None:
    _fill(folder, "a.png", "b.png", "sub/c.png")
    # With the mark that Windows' programs put at the beginning.
    table = "\ufefffile_name,label,site\na.png,dog,north\nb.png,cat,south\nsub/c.png,dog,south\n"
    (folder / "metadata.csv").write_text(table, encoding="utf-8")
    own = _read(folder)
    assert _named(own) == {0: "dog", 1: "cat", 2: "dog"}
    assert own.classes == ("cat", "dog")
    assert own.columns["site"].tolist() == ["north", "south", "south"]


def test_lines_of_json_do_as_well_in_any_folder_and_another_column_may_be_named(
    folder: Path,
) -> None:
    _fill(folder, "x/a.png", "x/b.png", "y/c.png")
    for name, rows in (("x", [("a.png", 3), ("b.png", 1.0)]), ("y", [("c.png", "1")])):
        lines = [json.dumps({"file_name": file, "grade": grade}) for file, grade in rows]
        (folder / name / "metadata.jsonl").write_text("\n".join(lines) + "\n\n")
    assert _named(_read(folder)) == {0: "x", 1: "x", 2: "y"}  # no column `label`: the sub-folders
    own = _read(folder, label="grade")
    assert own.classes == ("0", "1", "2", "3")
    assert _named(own) == {0: "3", 1: "1", 2: "1"}


def test_pictures_without_a_row_are_left_out_and_rows_without_a_picture_are_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _fill(folder, "a.png", "b.png", "c.png")
    (folder / "metadata.csv").write_text("file_name,label\na.png,x\nb.png,\nnone.png,y\n")
    assert _named(_read(folder)) == {0: "x"}
    assert "2 pictures of" in caplog.text
    assert "are left out: b.png, c.png (the metadata give it no label)" in caplog.text
    assert "1 files that the metadata of" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "reading", "message"),
    [
        ("metadata.csv", "name,label\na.png,x\n", {}, r"metadata\.csv: a row without 'file_name'"),
        ("metadata.jsonl", "{]\n", {}, r"metadata\.jsonl: cannot be read"),
        ("metadata.jsonl", "[1]\n", {}, r"metadata\.jsonl: cannot be read"),
        ("metadata.csv", "file_name,site\na.png,x\n", {"label": "kind"}, "pictures.label: .* site"),
        ("metadata.csv", "file_name,site\na.png,x\n", {"group": "kind"}, "pictures.group: .* site"),
        ("notes.csv", "", {"group": "kind"}, "pictures.group: .* has no column 'kind'; it has -"),
    ],
)
def test_tables_that_cannot_be_used_are_one_line(
    name: str, content: str, reading: dict[str, str], message: str, folder: Path
) -> None:
    _fill(folder, "a.png")
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        _read(folder, **reading)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_one_line(folder: Path) -> None:
    _fill(folder, "a.png")
    (folder / "metadata.csv").write_bytes(b"file_name,label\n\xff\xfe.png,x\n")
    with pytest.raises(UserError, match=r"metadata\.csv: cannot be read"):
        _read(folder)


def _splits(folder: Path, *splits: str) -> None:
    for i, split in enumerate(splits):
        for label in ("cat", "dog"):
            (folder / split / label).mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), i).save(folder / split / label / "a.png")


@pytest.mark.parametrize(
    ("splits", "held_out"),
    [
        (("train", "test"), 1),
        (("Training", "val"), 1),
        (("train", "validation", "test"), 2),
        (("wrapped/train", "wrapped/test"), 1),
    ],
)
def test_folders_that_are_splits_are_used_as_such(
    splits: tuple[str, ...], held_out: int, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _splits(folder, *splits)
    train, test = load_dataset(f"folder:{folder}", SHAPE)
    assert train.num_classes == 2
    assert train.labels.tolist() == test.labels.tolist() == [0, 1]
    assert set(((train.images + 1) * 127.5).round().ravel()) == {0}
    assert set(((test.images + 1) * 127.5).round().ravel()) == {held_out}
    assert ("test is held out, not validation" in caplog.text) == (len(splits) == 3)
    # A device trains on none of what its folder holds out.
    assert len(own_images(f"folder:{folder}", "digits", SHAPE)) == 2


def test_one_split_alone_is_no_split(folder: Path) -> None:
    _splits(folder, "train")
    own = _read(folder)
    assert own.classes == ("cat", "dog")
    assert own.held_out is None


def test_a_picture_beside_folders_of_classes_is_left_out(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _fill(folder, "cat/a.png", "dog/b.png", "overview.png")
    assert _named(_read(folder)) == {0: "cat", 1: "dog"}
    assert "left out: overview.png (it lies beside the folders of classes)" in caplog.text


def test_splits_of_a_published_file_are_used(tmp_path: Path) -> None:
    def images(count: int, grey: int) -> np.ndarray:
        return np.full((count, 4, 4), grey, np.uint8)

    arrays: dict[str, np.ndarray] = {}
    for split, count, grey in (("train", 6, 1), ("val", 3, 2), ("test", 4, 3)):
        arrays |= {
            f"{split}_images": images(count, grey),
            f"{split}_labels": np.zeros((count, 1), int),
        }
    np.savez(tmp_path / "a.npz", allow_pickle=False, **arrays)
    train, test = load_dataset(f"npz:{tmp_path / 'a.npz'}")
    assert (len(train), len(test)) == (6, 4)
    assert set(((test.images + 1) * 127.5).round().ravel()) == {3}
    del arrays["test_images"], arrays["test_labels"]
    np.savez(tmp_path / "b.npz", allow_pickle=False, **arrays)
    assert len(load_dataset(f"npz:{tmp_path / 'b.npz'}").test) == 3


def _patients(folder: Path, *patients: str) -> PicturesConfig:
    names = [f"{i:02}.png" for i in range(len(patients))]
    _fill(folder, *names)
    rows = [f"{name},{patient}" for name, patient in zip(names, patients, strict=True)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,patient", *rows]) + "\n")
    return PicturesConfig(group="patient")


@pytest.mark.parametrize(
    ("patients", "held_out"),
    [
        ("aabbccddeeff", [8, 9]),  # the fifth of six
        ("abcabc", [2, 5]),  # the last of three
    ],
)
def test_no_group_is_torn_apart_when_pictures_are_held_out(
    patients: str, held_out: list[int], folder: Path
) -> None:
    reading = _patients(folder, *patients)
    train, test = load_dataset(f"folder:{folder}", SHAPE, reading)
    greys = ((test.images[:, 0, 0, 0] + 1) * 127.5).round().astype(int).tolist()
    assert greys == held_out
    assert len(train) == len(patients) - len(held_out)
    part = load_partition(f"folder:{folder}", "iid", 1.0, 2, 0, 0, SHAPE, reading)
    assert len(part) == len(train) // 2


def test_one_group_alone_cannot_be_held_out(folder: Path) -> None:
    reading = _patients(folder, *"aaaaaa")
    with pytest.raises(UserError, match=r"pictures.group: .* has one patient alone"):
        load_dataset(f"folder:{folder}", SHAPE, reading)


def test_what_is_brought_to_another_shape_is_said_with_both(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("RGB", (30, 20)).save(folder / "a.png")
    Image.new("L", (8, 8)).save(folder / "b.png")
    with caplog.at_level(logging.INFO, "flwr"):
        own_images(f"folder:{folder}", "digits", SHAPE)
    assert "images of 1x8x8 to 3x20x30 are brought to 1x4x4" in caplog.text
    with pytest.raises(UserError, match=r"images of 1x8x8 to 3x20x30, the run's are 1x8x8"):
        own_images(f"folder:{folder}", "digits", None)
    (folder / "a.png").unlink()
    assert own_images(f"folder:{folder}", "digits", None).image_shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("fit", "row"), [("crop", [9, 9, 9, 9]), ("pad", [0, 9, 9, 0]), ("stretch", [9, 9, 9, 9])]
)
def test_pictures_are_cut_padded_or_stretched_as_the_run_says(
    fit: str, row: list[int], tmp_path: Path
) -> None:
    tall = np.full((1, 8, 4), 9, np.uint8)
    tall[:, :2] = 200
    np.savez(tmp_path / "a.npz", images=tall)
    reading = PicturesConfig.model_validate({"fit": fit})
    image = read_own(f"npz:{tmp_path / 'a.npz'}", SHAPE, reading, "digits").images[0, 0]
    assert np.abs(image[2].astype(int) - row).max() <= 4  # Lanczos swings
    assert (image[0].max() > 100) == (fit != "crop")
