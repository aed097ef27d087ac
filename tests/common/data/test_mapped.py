"""Whatever the images come from, they lie in one memory map of the cache, once for everybody."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from common.config import PicturesConfig
from common.data.datasets import load_dataset
from common.data.own import read_own
from common.errors import UserError

GREYS = np.arange(15, dtype=np.uint8)[:, None, None] * np.ones((4, 4), np.uint8)
TRAIN = 10


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    return tmp_path / "cache"


def _png(grey: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(grey).save(held, "PNG")
    return held.getvalue()


def _folder(path: Path) -> str:
    for i, grey in enumerate(GREYS):
        split = path / ("train" if i < TRAIN else "test")
        split.mkdir(parents=True, exist_ok=True)
        (split / f"{i:02}.png").write_bytes(_png(grey))
    return f"folder:{path}"


def _npz(path: Path, **arrays: np.ndarray) -> str:
    arrays |= {k.replace("images", "labels"): np.zeros(len(v), int) for k, v in arrays.items()}
    np.savez_compressed(path.with_suffix(".npz"), allow_pickle=False, **arrays)
    return f"npz:{path.with_suffix('.npz')}"


def _splits(path: Path) -> str:
    return _npz(path, train_images=GREYS[:TRAIN], val_images=GREYS[:2], test_images=GREYS[TRAIN:])


def _splits_by_columns(path: Path) -> str:
    turned = [np.asfortranarray(part) for part in (GREYS[:TRAIN], GREYS[TRAIN:])]
    return _npz(path, train_images=turned[0], test_images=turned[1])


def _idx(path: Path) -> str:
    path.mkdir()
    for split, images in (("train", GREYS[:TRAIN]), ("t10k", GREYS[TRAIN:])):
        for what, values in (("images-idx3", images), ("labels-idx1", np.zeros(len(images)))):
            sizes = np.array(values.shape, ">u4").tobytes()
            raw = bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()
            packed = gzip.compress(raw) if split == "train" else raw
            (path / f"{split}-{what}-ubyte").write_bytes(packed)
    return f"idx:{path}"


def _saved(path: Path) -> str:
    features = datasets.Features({"image": datasets.Image()})

    def part(greys: np.ndarray) -> datasets.Dataset:
        images = [{"bytes": _png(grey), "path": None} for grey in greys]
        return datasets.Dataset.from_dict({"image": images}, features=features)

    parts = datasets.DatasetDict(train=part(GREYS[:TRAIN]), test=part(GREYS[TRAIN:]))
    parts.save_to_disk(str(path))
    return f"hfdisk:{path}"


def _is_mapped(stored: object) -> bool:
    """Say whether values lie in a memory map, whatever views are between."""
    while stored is not None:
        if isinstance(stored, np.memmap):
            return True
        stored = getattr(stored, "stored", getattr(stored, "base", None))
    return False


@pytest.mark.parametrize("side", [4, 8])
@pytest.mark.parametrize("write", [_folder, _splits, _splits_by_columns, _idx, _saved])
def test_images_of_every_source_are_mapped_and_written_once(
    write: Callable[[Path], str], side: int, tmp_path: Path, cache: Path
) -> None:
    source = write(tmp_path / "own")
    reading = PicturesConfig(fit="stretch")
    for _ in range(2):
        train, test = load_dataset(source, (1, side, side), reading)
        assert (train.images[:, 0, 0, 0] * 127.5 + 127.5).round().tolist() == list(range(TRAIN))
        assert (test.images[:, 0, 0, 0] * 127.5 + 127.5).round().tolist() == list(range(TRAIN, 15))
        assert _is_mapped(train.stored)
        rows = [(path, path.stat().st_ino) for path in sorted(cache.rglob("*.rows"))]
    assert read_own(source, (1, side, side), reading).shapes.tolist() == [[1, 4, 4]] * 15
    assert [(path, path.stat().st_ino) for path in sorted(cache.rglob("*.rows"))] == rows


def test_a_changed_file_is_read_anew_also_in_another_shape(tmp_path: Path) -> None:
    for value in (7, 9):
        path = tmp_path / "own"
        source = _npz(path, images=np.full((5, 4, 4), value, np.uint8))
        for side in (4, 8):
            images = read_own(source, (1, side, side)).images[:]
            assert (images.shape, int(images.min()), int(images.max())) == (
                (5, 1, side, side), value, value,
            )  # fmt: skip


def _flipped(whole: bytes) -> bytes:
    return whole[:-7] + bytes([whole[-7] ^ 1]) + whole[-6:]


@pytest.mark.parametrize(
    ("split", "damage"),
    [
        ("t10k", lambda whole: whole[:-3]),
        ("t10k", lambda whole: whole + b"\0"),
        ("train", lambda whole: whole[:-3]),  # packed
        ("train", _flipped),  # in its sum
    ],
)
def test_nothing_is_kept_of_a_damaged_file(
    split: str, damage: Callable[[bytes], bytes], tmp_path: Path, cache: Path
) -> None:
    source = _idx(tmp_path / "own")
    path = tmp_path / "own" / f"{split}-images-idx3-ubyte"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.raises(UserError, match=f"{split}-images-idx3-ubyte is no IDX file") as caught:
        read_own(source, None)
    assert "\n" not in str(caught.value)
    assert list(cache.rglob("*")) == []
    path.write_bytes(whole)
    assert len(read_own(source, None).images) == 15
