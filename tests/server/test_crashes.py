"""A server may die between any two of the things it does to its files: resumed, it ends the same.

Whatever writes goes through three calls: content reaches the disk (`fsync`), a file takes its name
(`replace`), a file goes (`unlink`). Each of them is in turn the first that no longer happens, and
nothing happens after it, as when the process is killed. Where clients judge, taking in what they
found is such a step too; with privacy, so is every release.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from common.config.run import RunConfig
from server.app import federate
from server.record.history import History
from server.record.pictures import save_grid
from server.record.recorder import Recorder
from server.state.advance import ServerState
from server.state.checkpoint import checkpoints, round_of
from server.strategy import CoverageAvg
from tests.engines import KINDS, outcome, tiny_kind
from tests.local_grid import LocalGrid


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@contextmanager
def killed_after(steps: int) -> Iterator[list[str]]:
    """Let so many steps happen and none after them; yields what has happened."""
    done: list[str] = []

    def stepping(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **keys: Any) -> Any:
            if len(done) == steps:
                raise Killed
            result = act(*args, **keys)
            done.append(name)
            return result

        return step

    with pytest.MonkeyPatch.context() as patch:
        steps_of = ((os, "fsync"), (Path, "replace"), (Path, "unlink"), (CoverageAvg, "_found"))
        for owner, name in steps_of:
            patch.setattr(owner, name, stepping(name, getattr(owner, name)))
        yield done


def _scored(self: Recorder, state: ServerState) -> dict[str, Any]:
    """Evaluate in no time; the last round takes the place of the first as the best."""
    images = self.setting.splits.train.images[:4]
    import torch

    save_grid(torch.from_numpy(images), self.run_dir / "samples" / f"round-{state.round:04d}.png")
    return {"frechet_by_width": {"1/2": {0: 9.0, 1: 2.0, 2: 5.0, 3: 8.0, 4: 1.0}[state.round]}}


def _everything(run_dir: Path, config: RunConfig) -> dict[str, Any]:
    files = {str(each.relative_to(run_dir)) for each in run_dir.rglob("*")}
    kept = [round_of(path) for path in checkpoints(run_dir / "checkpoints")]
    return {**outcome(run_dir, config), "files": files, "kept": kept}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_between_any_two_steps_of_its_writing_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(Recorder, "_evaluate", _scored)
    monkeypatch.setattr(Recorder, "summarise", lambda self, state, ask: {})
    monkeypatch.setattr(Recorder, "cost", lambda self, state: "")
    begun = tiny_kind(kind, rounds=3, lr_schedule="constant", fleet="1/2x2", local_steps=1)
    config = begun.model_copy(update={"rounds": 4})
    federate(LocalGrid(begun), begun, tmp_path / "begun")

    def go_on(name: str, steps: int) -> list[str]:
        with killed_after(steps) as done:
            federate(LocalGrid(config), config, tmp_path / name)
        return done

    shutil.copytree(tmp_path / "begun", tmp_path / "whole")
    steps = go_on("whole", -1)
    expected = _everything(tmp_path / "whole", config)
    assert expected["kept"] == [3, 4]
    # Configuration, fleet, what kind of data there is, and what is kept of them unless they are the
    # clients'; the fleet again, a picture, coverage, row and checkpoint; a row is appended, not
    # renamed.
    written = {"plain": 9, "judged": 8, "private": 10}[kind]  # with privacy, a release as well
    assert (steps.count("fsync"), steps.count("replace")) == (written, written - 1)
    assert steps.count("_found") == (2 if kind == "judged" else 0)  # in the beginning and the round
    assert steps[-2:] == ["unlink", "unlink"]
    if kind == "private":
        assert expected["rows"][-1]["epsilon"] > expected["rows"][1]["epsilon"] > 0

    for step in range(len(steps)):
        name = f"killed-{step}"
        shutil.copytree(tmp_path / "begun", tmp_path / name)
        with pytest.raises(Killed):
            go_on(name, step)
        federate(LocalGrid(config), config, tmp_path / name)
        assert _everything(tmp_path / name, config) == expected, steps[: step + 1]


@pytest.mark.parametrize("written", [0, 1, 17, -2, -1])
def test_a_row_of_which_only_a_part_reached_the_disk_is_written_again(
    tmp_path: Path, written: int
) -> None:
    path = tmp_path / "history.jsonl"
    rows = [{"round": round, "loss": 0.5} for round in range(3)]
    for row in rows:
        History(path).append(row)
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    path.write_bytes(whole[: -len(last)] + last[:written])
    history = History(path)
    assert history.rows() == rows[:2]
    history.append(rows[2])
    assert path.read_bytes() == whole
