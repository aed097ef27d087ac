"""Trackers are told of everything once, and nothing that they do reaches the run."""

import sys
import threading
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from common.config.run import RunConfig
from simulations.trackers import follow, interface
from simulations.trackers.follow import Trackers
from simulations.trackers.interface import Session, numbers

ROWS: list[dict[str, Any]] = [{"round": round, "loss": 0.5} for round in range(3)]


class Recording:
    """Remembers what it is told; `wrong` happens in round 1."""

    told: list[tuple[Any, ...]]
    wrong: Any = None

    def __init__(self, session: Session) -> None:
        type(self).told.append(("made", session.name, session.id, session.config["rounds"]))

    def row(self, row: dict[str, Any]) -> None:
        if self.wrong is not None and row["round"] == 1:
            self.wrong()
        self.told.append(("row", row["round"]))

    def image(self, name: str, path: Path, round: int) -> None:
        self.told.append(("image", name, path.name, round))

    def file(self, path: Path) -> None:
        self.told.append(("file", path.name))

    def end(self, failed: bool) -> None:
        self.told.append(("end", failed))


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> type[Recording]:
    """Install a tracker called "mine" as another package would, by an entry point."""
    module = ModuleType("somebody_elses")
    kind = type("Mine", (Recording,), {"told": []})
    module.Mine = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somebody_elses", module)
    point = EntryPoint("mine", "somebody_elses:Mine", interface.GROUP)
    found = {interface.GROUP: [point]}
    monkeypatch.setattr(interface, "entry_points", lambda group: found[group])
    return kind


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "samples").mkdir(parents=True)
    (folder / "plots").mkdir()
    for name in ("samples/round-0001.png", "plots/coverage.png"):
        Image.new("L", (2, 2)).save(folder / name)
    (folder / "summary.json").write_text("{}")
    return folder


def _follow(run_dir: Path, *names: str, rows: Any = ROWS, skipped: int = 0) -> list[str]:
    said: list[str] = []
    with Trackers(names, run_dir, RunConfig(), said.append) as trackers:
        trackers.skip(rows[:skipped])
        for count in range(len(rows) + 1):
            trackers.rows(rows[:count])
    return said


def test_a_tracker_of_somebody_else_s_is_told_of_everything_once(
    recording: type[Recording], run_dir: Path
) -> None:
    assert _follow(run_dir, "mine") == []
    (_, name, number, rounds), *told = recording.told
    assert (name, rounds) == ("run", 16)
    assert told == [
        ("row", 0),
        *(("row", 1), ("image", "samples", "round-0001.png", 1)),
        ("row", 2),
        ("image", "plots/coverage", "coverage.png", 2),
        *(("file", "summary.json"), ("file", "coverage.png"), ("end", False)),
    ]
    recording.told.clear()
    _follow(run_dir, "mine", skipped=2)
    assert recording.told[0][2] == number  # the same run, gone on with
    assert [each[1] for each in recording.told if each[0] == "row"] == [2]


def test_a_run_that_fails_ends_as_failed(recording: type[Recording], run_dir: Path) -> None:
    def interrupted(trackers: Trackers) -> None:
        with trackers:
            trackers.rows(ROWS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(Trackers(["mine"], run_dir, RunConfig(), lambda line: None))
    assert recording.told[-1] == ("end", True)


@pytest.mark.parametrize("error", [OSError("no route\nto host"), SystemExit(3)])
def test_what_a_tracker_raises_is_one_line(
    error: BaseException, recording: type[Recording], run_dir: Path
) -> None:
    def wrong(_: Any) -> None:
        raise error

    recording.wrong = wrong
    (line,) = _follow(run_dir, "mine")
    said = "no route to host" if isinstance(error, OSError) else "3"
    assert line == f"tracker mine: {said}; the run goes on"
    assert [each for each in recording.told if each[0] == "row"] == [("row", 0)]


def test_a_tracker_that_hangs_is_left_behind(
    recording: type[Recording], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "PATIENCE", 0.2)
    released = threading.Event()
    recording.wrong = lambda _: released.wait(20)
    (line,) = _follow(run_dir, "mine")
    released.set()
    assert line == "tracker mine: did not end within 0 s, and is left behind; the run goes on"


def test_trackers_that_are_not_there_are_one_line_each(
    recording: type[Recording], run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    lines = sorted(_follow(run_dir, "wandb", "yours"))
    assert lines[0].startswith("tracker wandb: not installed (")
    assert lines[0].endswith("; pip install wandb; the run goes on")
    known = "tensorboard, wandb, mlflow, trackio, mine"
    assert (
        lines[1] == f"tracker yours: there is no such tracker; there are {known}; the run goes on"
    )


def test_numbers_have_names_in_parts() -> None:
    row = {
        "round": 3,
        "loss": 0.5,
        "frechet": None,
        "bytes_up": 7,
        "by_client": {"0": {"rate": "1/2", "loss": 0.25}, "1": {"rate": "1"}},
        "held_out_by_client": {"0": {"1/2": 0.75}},
        "failures": {"1": "no reply"},
        "update_norms": {"1": [1.0, 2.0]},
        "something_new": 4,
    }
    assert numbers(row) == {
        "quality/loss": 0.5,
        "bytes/bytes_up": 7.0,
        "client_loss/0": 0.25,
        "held_out_by_client/0/1_2": 0.75,
        "other/something_new": 4.0,
    }
