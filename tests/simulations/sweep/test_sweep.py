"""Sweeps of tiny runs: killed and gone on with, failing in part, edited."""

from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli_w
from typer.testing import CliRunner

from simulations import cli
from tests.engines import BIN, alive, descendants, engine, linux, tiny, wait_for, write_toml

AXES: dict[str, Any] = {
    "grid": {"seed": [0, 1], "policy": ["static", "balanced"]},
    "method": [
        {"name": "both"},
        {"name": "own", "local-widths": "own"},
        {"name": "strong", "participants": "full"},
    ],
}
NUMBERS = ("frechet_ema", "held_out_loss", "bytes", "summary.frechet_ema")


def _study(folder: Path, name: str = "study", **changes: Any) -> Path:
    """Write a sweep over the tiny run, which lies beside it."""
    write_toml(tiny(), folder)
    file = folder / f"{name}.toml"
    tree = {"base": "tiny.toml", "columns": list(NUMBERS), **AXES, **changes}
    file.write_text(tomli_w.dumps(tree))
    return file


def _sweep(*words: str) -> Any:
    return CliRunner().invoke(cli.app, ["sweep", *words])


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _none_of(family: set[psutil.Process]) -> bool:
    return not alive(family)


def _finished(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/summary.json"))


@linux
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twelve_runs_killed_twice_and_gone_on_with_come_to_the_table_of_twelve_in_one_go(
    tmp_path: Path,
) -> None:
    killed = tmp_path / "runs" / "study"
    with engine(tmp_path) as (processes, output):

        def start(name: str) -> Any:
            return processes.start(str(BIN / "scorequilt"), "sweep", str(_study(tmp_path, name)))

        def stopped_after(runs: int) -> set[psutil.Process]:
            """Kill a sweep once so many runs are finished, and return what it had started."""
            sweep = start("study")
            wait_for(lambda: len(_finished(killed)) >= runs or sweep.poll() is not None, 600)
            assert sweep.poll() is None, output.read_text()
            family = descendants(sweep.pid)
            assert len(family) > 2  # runs are under way
            sweep.kill()
            return family

        for begun in (2, 7):
            family = stopped_after(begun)
            wait_for(partial(_none_of, family), 60)
            assert not (killed / "summary.csv").exists()
        before = {path: path.stat().st_mtime_ns for path in _finished(killed)}
        assert 7 <= len(before) < 12
        assert start("study").wait() == 0, output.read_text()
        assert start("at-once").wait() == 0, output.read_text()
    for path, written in before.items():
        assert path.stat().st_mtime_ns == written  # a finished run is not run again
    assert len(_finished(killed)) == 12
    for name in ("summary.csv", "summary.md"):
        table = (killed / name).read_text()
        assert table == (tmp_path / "runs" / "at-once" / name).read_text()
        assert len(table.splitlines()) > 6


@pytest.mark.slow
def test_a_run_that_fails_stops_no_other_and_is_tried_again(tmp_path: Path) -> None:
    # Nobody can tell beforehand that this learning rate sends every client's weights to infinity.
    cases: list[dict[str, Any]] = [{"name": "well"}, {"name": "ill", "learning-rate": 1e30}]
    file = _study(tmp_path, method=cases, grid={"seed": [0]}, set={"rounds": 1})
    done = _sweep(file.name, "--jobs", "1")
    assert done.exit_code == 1, done.output
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 1
    assert failed[0].startswith("failed: ill_seed-0: round 1: none of 2 clients returned")
    assert "1 of 2 runs are finished" in done.stdout
    assert [path.parent.name for path in _finished(Path("runs/study"))] == ["well_seed-0"]
    assert "| ill |" in Path("runs/study/summary.md").read_text()
    listed = _sweep(file.name, "--list").stdout.splitlines()
    assert listed == ["well_seed-0  finished", "ill_seed-0  round 0 of 1"]

    # What has begun with another configuration is refused before anything starts.
    cases[1]["learning-rate"] = 0.001
    _study(tmp_path, method=cases, grid={"seed": [0, 1]}, set={"rounds": 1})
    edited = _sweep(file.name)
    assert edited.exit_code == 2
    assert len(edited.stderr.splitlines()) == 1
    assert "learning-rate of run ill_seed-0 is 0.001, but" in edited.stderr
    assert "has begun with 1e+30; give the sweep another name" in edited.stderr
    assert not Path("runs/study/well_seed-1").exists()


def test_a_run_of_the_sweeps_name_is_not_written_into(tmp_path: Path) -> None:
    file = _study(tmp_path)
    folder = tmp_path / "runs" / "study"
    folder.mkdir(parents=True)
    write_toml(tiny(), folder).rename(folder / "config.toml")
    refused = _sweep(file.name)
    assert refused.exit_code == 2
    assert f"{folder} is a run; give the sweep another name" in refused.stderr
