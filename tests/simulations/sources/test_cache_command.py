"""`scorequilt cache`: what is kept, how large it is, when it was used; and its end."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from common.cache import cached_arrays
from simulations import cli
from simulations.sources.cache import ago


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "c"


def _lines(*words: str) -> list[list[str]]:
    result = CliRunner().invoke(cli.app, ["cache", *words])
    assert result.exit_code == 0, result.stderr
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.split("\n")]


def test_it_shows_what_is_there_the_most_recently_used_first(cache: Path) -> None:
    for name in ("data-digits", "features-a"):
        cached_arrays(name, {}, lambda: {"x": np.zeros(2048, np.uint8)})
    (old,) = cache.glob("data-digits-*")
    os.utime(old, (time.time() - 3 * 86400 - 5,) * 2)
    rows = [cells for cells in _lines() if len(cells) == 3]
    assert rows == [
        ["features-a", "2.2 KiB", "just now"],
        ["data-digits", "2.2 KiB", "3 days ago"],
        ["2 in all", "4.5 KiB", ""],
    ]


def test_an_empty_cache_is_no_mistake() -> None:
    assert ["0 in all", "0 bytes", ""] in _lines()


def test_it_clears_all_or_what_was_unused_for_longest(cache: Path) -> None:
    for i, name in enumerate("abc"):
        cached_arrays(name, {}, lambda: {"x": np.zeros(2048, np.uint8)})
        (path,) = cache.glob(f"{name}-*")
        os.utime(path, (time.time() - 100 + i,) * 2)
    result = CliRunner().invoke(cli.app, ["cache", "--shrink", "3K"])
    assert result.stdout == f"{cache}: deleted 2, 4.5 KiB; 2.2 KiB are left\n"
    assert [path.name[0] for path in cache.iterdir()] == ["c"]
    assert CliRunner().invoke(cli.app, ["cache", "--clear"]).exit_code == 0
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "named"),
    [(("--shrink", "much"), "--shrink: 'much'"), (("--shrink", "1K", "--clear"), "--shrink")],
)
def test_mistakes_delete_nothing(words: tuple[str, ...], named: str, cache: Path) -> None:
    cached_arrays("a", {}, lambda: {"x": np.zeros(1)})
    result = CliRunner().invoke(cli.app, ["cache", *words])
    assert result.exit_code == 2
    assert named in result.stderr
    assert len(list(cache.iterdir())) == 1


def test_spans_of_time() -> None:
    spans = [ago(seconds) for seconds in (59.0, 60.0, 7300.0, 86400.0)]
    assert spans == ["just now", "1 minute ago", "2 hours ago", "1 day ago"]
