"""Images stay where they lie: what is read of a folder, and how much memory it takes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.cache import cache_dir
from common.data.datasets import load_dataset
from common.data.decoding import Frames, Waits, read_picture
from common.data.depth import Depth
from common.data.images import ImageData
from common.data.index import File
from common.data.kept import Kept, kept_pictures
from common.data.own import read_own
from common.data.rows import Rows, rows_of
from common.errors import UserError

SHAPE = (1, 4, 4)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten grey pictures, each of one level: ten times its number."""
    (tmp_path / "pictures").mkdir()
    for i in range(10):
        _picture(tmp_path / "pictures", i)
    return tmp_path / "pictures"


def _picture(folder: Path, i: int) -> None:
    Image.new("L", (4, 4), 10 * i).save(folder / f"{i:02}.png")


def _levels(folder: Path) -> list[int]:
    images = read_own(f"folder:{folder}", SHAPE).images
    return [int(each[0, 0, 0]) for each in images]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files as they are decoded."""
    names: list[str] = []

    def noted(source: Path, *how: Any) -> Frames | Waits:
        found = original(source, *how)
        if isinstance(found, Frames):
            names.append(source.name)
        return found

    original = read_picture
    monkeypatch.setattr("common.data.folder.read_picture", noted)
    return names


@pytest.mark.parametrize("white", [16, 255])
def test_values_are_bit_for_bit_the_stored_ones_times_two_over_white_minus_one(white: int) -> None:
    rng = np.random.default_rng(0)
    stored = rng.integers(0, white + 1, (3000, 3, 32, 32)).astype(np.uint8)
    expected = stored.astype(np.float32) * np.float32(2 / white) - np.float32(1)
    data = ImageData(stored, np.arange(3000), 3000, "levels", white=white)
    chosen = rng.integers(0, 3000, 50)
    for got, want in (
        (data.images, expected),
        (data.values(chosen), expected[chosen]),
        (np.concatenate(list(data.batches())), expected),
        (data.select(chosen).select(np.array([3, 0])).images, expected[chosen[[3, 0]]]),
        (data.levels(), np.unique(expected)),
    ):
        assert got.dtype == np.float32
        assert got.tobytes() == want.tobytes()


def test_numbers_that_are_no_levels_are_given_as_they_are() -> None:
    stored = np.random.default_rng(0).normal(size=(5, 1, 2, 2)).astype(np.float32)
    data = ImageData(stored, np.zeros(5, np.int64), 1, "law")
    assert data.values(np.array([4, 4])).tobytes() == stored[[4, 4]].tobytes()
    data.images[:] = 0
    assert stored.all(), "what is given is a copy"


def test_a_selection_copies_nothing(folder: Path) -> None:
    train, test = load_dataset(f"folder:{folder}", SHAPE)
    part = train.select(np.array([2, 1]))
    for each in (train, test, part):
        assert isinstance(each.stored, Rows)
        assert isinstance(each.stored.stored, np.memmap)
        assert not each.stored.stored.flags.writeable
    assert part.stored.stored is test.stored.stored  # type: ignore[union-attr]
    assert (part.stored[:, 0, 0, 0].tolist(), len(part)) == ([20, 10], 2)


def test_equal_data_have_equal_digests_however_they_lie(folder: Path) -> None:
    stored = np.arange(48, dtype=np.uint8).reshape(3, 1, 4, 4)
    plain = ImageData(stored, np.arange(3), 3, "a")
    turned = ImageData(rows_of(stored[::-1], np.array([2, 1, 0])), np.arange(3), 3, "b")
    assert plain.digest() == turned.digest()
    assert plain.digest() != plain.select(np.array([1, 0, 2])).digest()
    assert plain.digest() != ImageData(stored, np.arange(3), 3, "a", white=16).digest()
    assert plain.digest() != ImageData(stored, np.arange(3)[::-1].copy(), 3, "a").digest()


def test_a_folder_is_read_only_where_it_grew(folder: Path, decoded: list[str]) -> None:
    assert _levels(folder) == [10 * i for i in range(10)]
    decoded.clear()
    assert _levels(folder) == [10 * i for i in range(10)]
    assert decoded == []
    (folder / "03.png").unlink()
    Image.new("L", (4, 4), 200).save(folder / "05.png")
    _picture(folder, 12)
    (folder / "00a.png").write_bytes(b"torn")
    expected = [0, 10, 20, 40, 200, 60, 70, 80, 90, 120]
    assert _levels(folder) == expected
    assert decoded == ["05.png", "12.png"]  # of the torn one the first look tells
    decoded.clear()
    assert _levels(folder) == expected
    assert read_own(f"folder:{folder}", SHAPE).skipped == ("00a.png",)
    assert decoded == []


def test_a_file_is_another_though_its_size_and_time_are_those_of_before(folder: Path) -> None:
    """Such as a copy that keeps its time, or one whose rights were mended."""
    path = folder / "a.bmp"
    Image.new("L", (4, 4), 1).save(path)
    about = path.stat()
    assert _levels(folder)[-1] == 1
    Image.new("L", (4, 4), 2).save(path)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert path.stat().st_size == about.st_size
    assert _levels(folder)[-1] == 2


def test_a_brighter_deep_picture_reads_the_deep_ones_anew_and_no_other(
    folder: Path, decoded: list[str]
) -> None:
    Image.fromarray(np.full((4, 4), 1023, np.uint16)).save(folder / "deep.png")
    assert _levels(folder)[-1] == 255  # white of ten bits
    decoded.clear()
    Image.fromarray(np.full((4, 4), 4095, np.uint16)).save(folder / "deeper.png")
    assert _levels(folder) == [*(10 * i for i in range(10)), 64, 255]
    assert decoded == ["deep.png", "deeper.png"]


def _numbered(name: str, depth: Depth | None, may_wait: bool) -> Frames:
    return Frames([np.full(SHAPE, int(name), np.uint8)], [(1, int(name), 9)])


def _kept(entry: Path, count: int, first: int = 0) -> Kept:
    """Keep pictures that are known by their number, read by reading their name."""
    return kept_pictures(
        entry, [File(str(i), 1, 1) for i in range(first, first + count)], SHAPE, _numbered
    )


def _values(kept: Kept) -> list[int]:
    return [int(image[0, 0, 0]) for image in kept.images]


def test_files_may_hold_several_images_none_or_wait(tmp_path: Path) -> None:
    def read(name: str, depth: Depth | None, may_wait: bool) -> Frames | Waits:
        if name == "torn":
            raise UserError("it is torn")
        if name == "deep" and may_wait:
            return Waits([(0.0, 1000.0, True), (5.0, 9.0, True)])
        count = {"two": 2, "deep": 2}.get(name, 1)
        value = int(depth.white) // 16 if depth else len(name)
        return Frames([np.full(SHAPE, value + i, np.uint8) for i in range(count)], [SHAPE] * count)

    files = [File(name, 1, 1) for name in ("deep", "torn", "two", "a", "empty")]
    for _ in range(2):
        kept = kept_pictures(tmp_path / "entry", files, SHAPE, read)
        assert _values(kept) == [63, 64, 3, 4, 1, 5]
        assert kept.places.tolist() == [0, 0, 2, 2, 3, 4]
        assert (kept.skipped.tolist(), kept.reasons) == ([1], ("it is torn",))
        assert kept.shapes.tolist() == [list(SHAPE)] * 6
        assert kept.depth.tolist() == [0, 1023]


@pytest.mark.parametrize("damage", ["index", "rows", "both"])
def test_a_damaged_entry_is_read_anew_and_nobodys_map_changes(damage: str, tmp_path: Path) -> None:
    entry = tmp_path / "entry"
    before = _kept(entry, 20)
    old = np.array(before.images)
    if damage != "rows":
        whole = (entry / "index.npz").read_bytes()
        (entry / "index.npz").write_bytes(whole[: len(whole) // 2])
    if damage != "index":
        (entry / "pixels-0.rows").unlink()
    after = _kept(entry, 8, first=5)
    assert _values(after) == list(range(5, 13))
    assert after.shapes[:, 1].tolist() == list(range(5, 13))
    assert np.array_equal(before.images, old)


def test_rows_that_nobody_wants_go_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.data.kept.SAVED_EVERY", 5)
    entry = tmp_path / "entry"
    before = _kept(entry, 30)
    after = _kept(entry, 10, first=25)
    assert len(after.images.stored) == 10
    assert (_values(after), _values(before)) == (list(range(25, 35)), list(range(30)))
    assert after.shapes[:, 1].tolist() == list(range(25, 35))
    assert _values(_kept(entry, 10, first=25)) == list(range(25, 35))
    assert sorted(path.name for path in entry.iterdir()) == ["index.npz", "pixels-1.rows"]


def test_many_frames_of_a_file_are_not_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.data.kept.SAVED_EVERY", 5)

    def read(name: str, depth: Depth | None, may_wait: bool) -> Frames:
        return Frames([np.full(SHAPE, i, np.uint8) for i in range(30)], [SHAPE] * 30)

    for _ in range(2):
        kept = kept_pictures(tmp_path / "entry", [File("stack", 1, 1)], SHAPE, read)
        assert _values(kept) == list(range(30))
    assert (tmp_path / "entry" / "pixels-0.rows").is_file()


def test_what_was_read_before_the_process_died_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.data.kept.SAVED_EVERY", 4)
    read: list[str] = []

    def reading(name: str, depth: Depth | None, may_wait: bool) -> Frames:
        if len(read) == 10:
            raise KeyboardInterrupt
        read.append(name)
        return _numbered(name, depth, may_wait)

    files = [File(str(i), 1, 1) for i in range(16)]
    with pytest.raises(KeyboardInterrupt):
        kept_pictures(tmp_path / "entry", files, SHAPE, reading)
    read.clear()
    kept = kept_pictures(tmp_path / "entry", files, SHAPE, reading)
    assert read == [str(i) for i in range(8, 16)]
    assert _values(kept) == list(range(16))


def test_a_cache_that_cannot_be_written_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set SCOREQUILT_CACHE to a folder that can be written"):
        read_own(f"folder:{folder}", SHAPE)


def test_an_npz_file_is_mapped_too(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3)).astype(np.uint8)
    np.savez_compressed(tmp_path / "some.npz", images=images)
    data = load_dataset(f"npz:{tmp_path / 'some.npz'}").train
    assert isinstance(data.stored, Rows)
    mapped = data.stored.stored
    while not isinstance(mapped, np.memmap) or mapped.base is None:
        mapped = mapped.base  # type: ignore[assignment]
    held_out = [4, 9]
    expected = np.delete(images, held_out, axis=0).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(data.stored[:], expected)
    assert data.values(np.array([1])).flags.c_contiguous
    assert list(cache_dir().glob("npz-*.rows"))


MEASURE = """
import resource, sys
import numpy as np, psutil
from common.data import load_dataset

def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

def own():
    return psutil.Process().memory_full_info().uss

import PIL.Image, PIL.ImageOps, PIL.PngImagePlugin
before = peak(), own()
train, test = load_dataset("folder:" + sys.argv[1], (3, 128, 128))
read = peak() - before[0]
rng = np.random.default_rng(0)
for _ in range(100):
    train.values(rng.integers(len(train), size=16))
print(len(train) + len(test), read, own() - before[1])
"""


@pytest.mark.slow
def test_neither_reading_a_folder_nor_training_on_it_takes_its_size_in_memory(
    tmp_path: Path,
) -> None:
    (tmp_path / "many").mkdir()
    for i in range(2000):
        Image.new("RGB", (8, 8), (i % 256, i // 256, 0)).save(tmp_path / "many" / f"{i}.png")
    size = 2000 * 3 * 128 * 128
    for call in ("cold", "warm"):
        # A process that has mapped the file as well, so that its pages are not this one's own.
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(tmp_path / "many")],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        count, read, drawn = map(int, done.stdout.split())
        assert count == 2000
        assert read < size / 4, call
        if call == "cold":
            (rows,) = (tmp_path / "cache").glob("folder-*/pixels-0.rows")
            other = np.memmap(rows, np.uint8, "r")
            assert int(other[::4096].max()) > 0  # maps every page
    assert drawn < size / 4
