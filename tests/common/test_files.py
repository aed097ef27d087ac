import json
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from common.cache import cache_dir, cached_arrays
from common.errors import UserError
from common.files import atomic_write, discard_parts, plain_json, write_json, write_tensors


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCOREQUILT_CACHE", "here")
    assert cache_dir() == tmp_path / "here"
    monkeypatch.delenv("SCOREQUILT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "scorequilt"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "scorequilt"


def test_a_write_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    atomic_write(path, b"one")
    with path.open("rb") as reader:
        atomic_write(path, b"two")
        assert reader.read() == b"one", "who has begun to read goes on with the old file"
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_what_killed_writers_left_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    left = [".history.jsonl.0a.part", "checkpoints/.round-0001.safetensors.0b.part"]
    kept = ["history.jsonl", "a.part", ".hidden", "checkpoints/round-0001.safetensors"]
    for name in [*left, *kept, ".model.0c.part/unet/config.json"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    discard_parts(tmp_path)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == set(kept)


def test_a_write_that_fails_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*file: No space left.*SCOREQUILT_CACHE"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_made_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        atomic_write(tmp_path / "file" / "below", b"")


def test_tensors_are_read_back_by_the_library(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {
        "masks": rng.integers(0, 256, (3, 5), dtype=np.uint8),
        "theta": rng.standard_normal(7).astype(np.float32),
        "transposed": rng.standard_normal((2, 3)).T,
        "updates": np.array(2**40),
        "nothing": np.zeros((0, 4), np.float32),
        "big-endian": np.arange(3, dtype=">i4"),
        "half": np.arange(3, dtype=np.float16),
    }
    path = tmp_path / "new" / "tensors"
    write_tensors(path, tensors, {"round": "3", "text": "ü"})
    read = load_file(path)
    assert set(read) == set(tensors)
    for name, array in tensors.items():
        assert read[name].dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(read[name], array)
    with safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"round": "3", "text": "ü"}
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_holds_no_nan_and_no_numpy(tmp_path: Path) -> None:
    value = {"a": np.float32(0.5), "b": float("nan"), "c": (np.int64(2), -np.inf), "d": np.eye(2)}
    write_json(tmp_path / "x.json", value)
    expected = {"a": 0.5, "b": None, "c": [2, None], "d": [[1, 0], [0, 1]]}
    assert json.loads((tmp_path / "x.json").read_text()) == expected
    assert type(plain_json(np.float64(1))) is float
    with pytest.raises(TypeError, match="set"):
        plain_json({"a": {1}})


def test_arrays_are_built_once_for_each_key() -> None:
    calls: list[int] = []

    def build() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"x": np.arange(3)}

    for key in ({"a": 1}, {"a": 1}, {"a": 2}):
        np.testing.assert_array_equal(cached_arrays("stem", key, build)["x"], [0, 1, 2])
    assert len(calls) == 2


def test_a_damaged_cache_file_is_rebuilt(cache: Path) -> None:
    def load() -> np.ndarray:
        return cached_arrays("stem", {}, lambda: {"x": np.arange(50)})["x"]

    load()
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", b"not a zip", whole[: len(whole) // 2]]
    for position in rng.integers(len(whole), size=60):
        damaged.append(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
    for content in damaged:
        path.write_bytes(content)
        np.testing.assert_array_equal(load(), np.arange(50))


def test_readers_and_writers_at_once_see_whole_files(cache: Path) -> None:
    wrong: list[object] = []

    def work() -> None:
        for _ in range(10):
            got = cached_arrays("stem", {}, lambda: {"x": np.full(20_000, 7)})["x"]
            if got.shape != (20_000,) or not (got == 7).all():
                wrong.append(got)
            for path in cache.glob("*.npz"):
                path.unlink(missing_ok=True)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not list(cache.glob(".*.part"))
