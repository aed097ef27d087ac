"""Whatever a configuration or a device says, files are written below the run directory alone."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from common.cache import cached_arrays
from common.config.run import RunConfig, flat_keys
from common.errors import UserError
from server import app
from server.record.history import read_rows
from tests.engines import TINY, tiny
from tests.local_grid import LocalGrid


def _everything_in(folder: Path) -> set[str]:
    return {str(each.relative_to(folder)) for each in folder.rglob("*")}


@pytest.mark.parametrize("name", ["", "..", "../up", "a/b", "/abs", "a\0b", "a\n", ".hidden", "-x"])
def test_a_name_that_is_more_than_a_file_s_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"^name: "):
        RunConfig.from_flat({"name": name})


def test_no_other_key_is_a_place_to_write() -> None:
    """Who adds a key of text has to say here what it may do."""
    text = {key for key, value in RunConfig().to_flat().items() if isinstance(value, str)}
    assert text <= flat_keys()
    writes = {"name", "run-dir"}
    reads = {"data", "init", "evaluation.features"}
    words = {"fleet", "image-shape", "policy", "model.widths", "model.attention", "ema.half-life"}
    words |= {"pictures.label", "pictures.group"}
    literal = set()
    for key in text - writes - reads - words:
        with pytest.raises(UserError):
            RunConfig.from_flat({key: "../nonsense"})
        literal.add(key)
    assert {"partition", "codec", "aggregation"} <= literal


@pytest.mark.parametrize(
    ("run_dir", "message"),
    [
        ("relative", "run-dir: 'relative' must be absolute"),
        ("../up", "run-dir: '../up' must be absolute"),
        ("~/runs", "run-dir: '~/runs' must be absolute"),
        ("/tmp/a\0b", "run-dir: cannot make .*null"),
        ("/proc/no", "run-dir: cannot make '/proc/no'"),
    ],
)
def test_a_run_directory_that_is_none_is_refused(run_dir: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        app.own_folder(run_dir)


@pytest.mark.parametrize("name", ["checkpoints", "history.jsonl", "samples", "model/unet"])
def test_links_out_of_a_run_directory_are_refused(name: str, tmp_path: Path) -> None:
    outside, run_dir = tmp_path / "outside", tmp_path / "run"
    outside.mkdir()
    (run_dir / name).parent.mkdir(parents=True)
    (run_dir / name).symlink_to(outside)
    with pytest.raises(UserError, match=rf"run-dir: {run_dir / name} is a link"):
        app.own_folder(str(run_dir))
    (tmp_path / "latest").symlink_to(run_dir)
    with pytest.raises(UserError, match=rf"run-dir: {run_dir / name} is a link"):
        app.own_folder(f"{tmp_path}/latest")
    (run_dir / name).unlink()
    assert app.own_folder(f"{tmp_path}/outside/../latest") == run_dir


def test_a_run_with_hostile_words_writes_below_its_directory_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    np.savez(tmp_path / "a" / "own.npz", images=np.zeros((40, 1, 8, 8), np.uint8))
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "a" / "cache"))
    monkeypatch.chdir(tmp_path / "a" / "b")
    data = f"npz:{tmp_path}/a/b/../../a/b/../own.npz"  # its name is part of names in the cache
    config = tiny(rounds=1, fleet="1/2x2", data=data, image_shape="1x8x8")
    grid = LocalGrid(config)
    for context in grid.contexts.values():
        context.node_config["device-name"] = "../../../../evil\0\n"
    before = _everything_in(tmp_path)
    app.federate(grid, config, app.own_folder(str(tmp_path / "a" / "run")))
    assert read_rows(tmp_path / "a" / "run" / "history.jsonl")[-1]["clients_replied"] == 2
    new = _everything_in(tmp_path) - before
    assert all(f"{name}/".startswith(("a/run/", "a/cache/")) for name in new)
    assert "evil" in (tmp_path / "a" / "run" / "fleet.json").read_text()
    # And in the cache there are no folders.
    assert all(name.count("/") <= 2 for name in new if name.startswith("a/cache/"))


@pytest.mark.parametrize("stem", ["../up", "a/../../b", "/abs", "x" * 300, "nul\0"])
def test_nothing_leaves_the_cache_either(
    stem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "cache"))
    cached_arrays(stem, {"key": 1}, lambda: {"a": np.zeros(1)})
    (path,) = (each for each in tmp_path.rglob("*") if each.is_file())
    assert path.parent == tmp_path / "cache"


def test_the_app_checks_the_directory_before_it_does_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    context = Context(1, 1, {}, RecordDict(), {**TINY, "run-dir": "relative"})
    with pytest.raises(UserError, match="must be absolute"):
        app.main(LocalGrid(tiny()), context)
    assert not list(tmp_path.iterdir())
