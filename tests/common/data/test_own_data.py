"""A user's own images: folders of pictures and .npz files, as they really are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.classes import numbered
from common.data.datasets import by_names, load_dataset, load_partition, own_images
from common.data.own import read_own
from common.data.pictures import open_picture
from common.errors import UserError

SHAPE = (3, 8, 8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures of each of two classes, in every mode, and two files that are none."""
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
    for i, mode in enumerate(("L", "RGB", "RGBA", "P", "1")):
        Image.new(mode, (9 + i, 30), 1).save(tmp_path / "cat" / f"{i}.png")
    for i in range(5):
        Image.new("CMYK" if i else "RGB", (8, 4 + i)).save(tmp_path / "dog" / f"{i}.JPEG")
    whole = (tmp_path / "cat" / "1.png").read_bytes()
    (tmp_path / "cat" / "torn.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "dog" / "empty.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_any_mode_and_size_is_brought_to_the_runs_shape(folder: Path) -> None:
    for shape in (SHAPE, (1, 4, 6)):
        own = read_own(f"folder:{folder}", shape)
        assert own.images.shape == (10, *shape)
        assert own.images.dtype == np.uint8
        assert own.classes == ("cat", "dog")
        assert own.labels.tolist() == [0] * 5 + [1] * 5


def test_corrupt_files_are_skipped_named_and_counted_also_from_the_cache(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        caplog.clear()
        assert read_own(f"folder:{folder}", SHAPE).skipped == ("cat/torn.png", "dog/empty.jpg")
        (record,) = (each for each in caplog.records if each.levelname == "WARNING")
        assert "2 pictures" in record.getMessage()
        assert "cat/torn.png, dog/empty.jpg" in record.getMessage()
    assert own_images(f"folder:{folder}", "digits", SHAPE).skipped == 2


def test_a_new_picture_is_noticed(folder: Path) -> None:
    assert len(read_own(f"folder:{folder}", SHAPE).labels) == 10
    Image.new("L", (8, 8)).save(folder / "cat" / "new.png")
    assert len(read_own(f"folder:{folder}", SHAPE).labels) == 11


def test_values_survive_grey_sixteen_bits_and_transparency(tmp_path: Path) -> None:
    deep = np.full((4, 4), 51 * 257, np.uint16)
    deep[0, 0] = 65535
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert set(open_picture(tmp_path / "deep.png", 1).tobytes()) == {51, 255}
    Image.new("RGBA", (4, 4), (10, 10, 10, 0)).save(tmp_path / "glass.png")
    assert set(open_picture(tmp_path / "glass.png", 1).tobytes()) == {255}
    Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / "colour.png")
    image = own_images(f"folder:{tmp_path}", "digits", (3, 4, 4)).images[0]
    np.testing.assert_allclose(image[:, 0, 0], np.array([10, 20, 30]) / 127.5 - 1, atol=1e-6)


def test_a_crop_keeps_the_middle(tmp_path: Path) -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (read_own(f"folder:{tmp_path}", SHAPE).images[0] == 200).all()


def test_a_run_on_a_folder_holds_out_a_fifth_of_each_class_and_deals_out_the_rest(
    folder: Path,
) -> None:
    train, test = load_dataset(f"folder:{folder}", SHAPE)
    assert train.num_classes == 2
    assert np.bincount(train.labels).tolist() == [4, 4]
    assert np.bincount(test.labels).tolist() == [1, 1]
    parts = [load_partition(f"folder:{folder}", "iid", 0.5, 3, i, 0, shape=SHAPE) for i in range(3)]
    assert sum(map(len, parts)) == 8


def test_an_npz_file(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    images = np.arange(6 * 64, dtype=np.uint64).astype(np.uint8).reshape(6, 8, 8)
    np.savez(path, images=images, labels=np.array([0, 1, 2, 0, 1, 2]))
    own = own_images(f"npz:{path}", "digits", None)
    assert own.image_shape == (1, 8, 8)
    np.testing.assert_allclose(own.images[:, 0], images / 127.5 - 1, atol=1e-6)
    assert own.labels.tolist() == [0, 1, 2, 0, 1, 2]
    with pytest.raises(UserError, match="no class of 5 images"):
        load_dataset(f"npz:{path}")
    np.savez(path, images=images)
    train, test = load_dataset(f"npz:{path}")
    assert (len(train), len(test), train.num_classes) == (5, 1, 1)
    assert own_images(f"npz:{path}", "digits", None).held_classes() == (), "nothing says which"


def test_classes_have_the_numbers_that_the_run_gives_to_their_names(folder: Path) -> None:
    def labels(names: tuple[str, ...]) -> list[int]:
        return sorted(by_names(own_images(f"folder:{folder}", "", SHAPE), names).labels.tolist())

    assert labels(("ape", "cat", "cow", "dog")) == [1] * 5 + [3] * 5
    with pytest.raises(UserError, match=r"class 'cat', which this .* are the numbers 0 … 9$"):
        labels(numbered(10))
    (folder / "cat").rename(folder / "07")
    (folder / "dog").rename(folder / "03")
    assert labels(numbered(10)) == [3] * 5 + [7] * 5
    with pytest.raises(UserError, match=r"class '7', which .* classes are the numbers 0 … 6$"):
        labels(numbered(7))
    (folder / "07").rename(folder / "2021")
    (folder / "03").rename(folder / "2022")
    assert labels(("2020", "2021", "2022")) == [1] * 5 + [2] * 5


@pytest.mark.parametrize(
    ("source", "data", "message"),
    [
        ("folder:pictures", "digits", "folder:pictures needs an absolute path"),
        ("folder:{0}/none", "digits", "there is no folder .*none"),
        ("folder:{0}", "digits", "no picture is in the folder"),
        ("folder:{0}/bad", "digits", "none of the 1 pictures in .*bad can be decoded"),
        ("npz:{0}/none.npz", "digits", r"there is no file .*none\.npz"),
        ("npz:{0}/bad/a.png", "digits", r"a\.png is no \.npz file"),
        ("npz:{0}/pickled.npz", "digits", r"pickled\.npz is object of shape"),
        ("npz:{0}/float.npz", "digits", "float64 of shape .* it needs uint8"),
        ("npz:{0}/small.npz", "digits", "images of 1x4x4, the run's are 1x8x8 as those of digits"),
        ("npz:{0}/labels.npz", "digits", "'labels' in .* one whole number"),
        ("digits", "digits", "a node's own is folder:PATH, .*, hf:NAME, not 'digits'"),
        ("folder:{0}", "npz:/x.npz", "image-shape: the run must set it"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(
    tmp_path: Path, source: str, data: str, message: str
) -> None:
    (tmp_path / "bad").mkdir()
    np.savez(tmp_path / "pickled.npz", allow_pickle=True, images=np.array([{}], dtype=object))
    np.savez(tmp_path / "float.npz", images=np.zeros((2, 8, 8)))
    np.savez(tmp_path / "small.npz", images=np.zeros((2, 4, 4), np.uint8))
    np.savez(tmp_path / "labels.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.zeros(3))
    if "no picture" not in message:
        (tmp_path / "bad" / "a.png").write_bytes(b"torn")
    with pytest.raises(UserError, match=message) as caught:
        own_images(source.format(tmp_path), data, None)
    assert "\n" not in str(caught.value)


def test_the_runs_own_folder_needs_a_shape_and_built_in_data_refuse_another(folder: Path) -> None:
    with pytest.raises(UserError, match="image-shape: say to which shape"):
        load_dataset(f"folder:{folder}")
    with pytest.raises(UserError, match="image-shape: the images of digits are 1x8x8"):
        load_dataset("digits", (3, 8, 8))
