"""The cache's size: what goes when it is too large, and what stays."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from common.cache import cached_arrays, cached_rows, entry_path, held, make_room
from common.cache.space import entries, limit
from common.errors import UserError
from common.files import show_bytes


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path))
    return tmp_path


def _put(name: str, size: int = 1000) -> None:
    cached_rows(name, {}, (size,), lambda file: file.write(bytes(size)))


def _age(name: str, seconds: float) -> None:
    path = entry_path(name, {}, ".rows")
    os.utime(path, (time.time() - seconds,) * 2)


def _names() -> list[str]:
    return [entry.path.name.partition("-")[0] for entry in entries()]


def test_the_least_recently_used_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for age, name in enumerate("abc"):
        _put(name)
        _age(name, 100 - age)
    assert _names() == ["a", "b", "c"]
    _put("a")  # is used, and not made again
    assert _names() == ["b", "c", "a"]
    monkeypatch.setenv("SCOREQUILT_CACHE_LIMIT", "3500")
    _put("d")
    assert _names() == ["c", "a", "d"]


def test_what_is_wanted_now_stays_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    _put("a")
    monkeypatch.setenv("SCOREQUILT_CACHE_LIMIT", "10")
    _put("b", 5000)
    assert _names() == ["b"]
    monkeypatch.setenv("SCOREQUILT_CACHE_LIMIT", "0")
    _put("c", 5000)
    assert _names() == ["b", "c"]


def test_whoever_has_mapped_what_goes_keeps_it() -> None:
    mapped = cached_rows("a", {}, (3,), lambda file: file.write(b"abc"))
    assert len(make_room(at_most=0)) == 1
    assert bytes(mapped) == b"abc"


def test_what_is_being_written_stays(cache: Path) -> None:
    folder = entry_path("folder", {})
    writing, done = threading.Event(), threading.Event()

    def write() -> None:
        with held(folder):
            (folder / "half").write_bytes(bytes(10))
            writing.set()
            done.wait(10)

    thread = threading.Thread(target=write)
    thread.start()
    writing.wait(10)
    (cache / ".a.rows.0.part").touch()
    assert make_room(at_most=0) == []
    assert (folder / "half").exists()
    assert (cache / ".a.rows.0.part").exists()
    done.set()
    thread.join()
    assert [entry.path for entry in make_room(at_most=0)] == [folder]
    assert not folder.exists()


def test_who_waited_for_what_was_deleted_meanwhile_gets_a_folder_that_is_there() -> None:
    folder = entry_path("folder", {})
    got: list[bool] = []

    def wait() -> None:
        with held(folder) as ours:
            got.append(ours and folder.is_dir())

    with held(folder):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        folder.rename(folder.with_name("gone"))
    thread.join()
    assert got == [True]


def test_what_killed_writers_left_a_day_ago_goes(cache: Path) -> None:
    old, new = cache / ".a.0.part", cache / ".b.0.part"
    for path in (old, new):
        path.touch()
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    _put("c")
    assert (old.exists(), new.exists()) == (False, True)


def test_rows_that_are_too_few_are_written_again(cache: Path) -> None:
    _put("a")
    (path,) = cache.iterdir()
    path.write_bytes(b"short")
    assert cached_rows("a", {}, (2,), lambda file: file.write(b"xy")).tobytes() == b"sh"
    assert len(cached_rows("a", {}, (9,), lambda file: file.write(bytes(9)))) == 9


def test_a_limit_that_is_no_amount_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOREQUILT_CACHE_LIMIT", "much")
    with pytest.raises(UserError, match=r"SCOREQUILT_CACHE_LIMIT: 'much' .* 200MiB, or 0 for no"):
        cached_arrays("a", {}, lambda: {"x": np.zeros(1)})
    monkeypatch.delenv("SCOREQUILT_CACHE_LIMIT")
    assert limit() == 20 * 2**30


def test_sizes_for_people() -> None:
    shown = [show_bytes(size) for size in (0, 1023, 2048, 3 * 2**20 // 2, 2**30, 2**50)]
    assert shown == ["0 bytes", "1023 bytes", "2.0 KiB", "1.5 MiB", "1.0 GiB", "1024.0 TiB"]
