"""A run that goes on from its checkpoints, of this version and of earlier ones."""

import json
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from common.config.sections import EmaConfig
from server.app import federate
from server.record.recorder import Recorder
from server.state.advance import ServerState
from server.state.checkpoint import checkpoints, round_of
from tests.federations import run, tiny_with
from tests.local_grid import LocalGrid


@pytest.mark.parametrize(
    ("round_of_crash", "changes"),
    [
        (1, {}),
        (2, {}),
        (3, {}),
        (2, {"policy": "magnitude", "refresh_every": 2}),
        (2, {"codec": "bfloat16"}),
        # Clients keep something of round 5, without which nobody can go on from there.
        (6, {"codec": "int4", "policy": "static", "rounds": 6, "evaluate_every": 9}),
    ],
)
def test_a_run_that_dies_and_resumes_equals_one_that_never_stopped(
    tmp_path: Path, round_of_crash: int, changes: dict[str, Any]
) -> None:
    config = tiny_with(
        **{"fleet": "1x1 1/2x1", "ema": EmaConfig(half_life=(100_000, 50)), **changes}
    )
    expected, rows = run(config, tmp_path / "whole")

    class PowerCut(BaseException):
        pass

    replies = 0

    def cut(_: int, reply: Message) -> Message:
        nonlocal replies
        replies += reply.metadata.message_type == "train"
        if replies == 2 * round_of_crash:
            raise PowerCut
        return reply

    with pytest.raises(PowerCut):
        federate(LocalGrid(config, mishap=cut), config, tmp_path / "cut")
    # The row of the round that was under way may have been written before its checkpoint.
    with (tmp_path / "cut" / "history.jsonl").open("a") as file:
        file.write(json.dumps({"round": round_of_crash, "loss": 123}) + "\n" + '{"round": 9')
    resumed, resumed_rows = run(config, tmp_path / "cut")
    assert resumed.theta.tobytes() == expected.theta.tobytes()
    assert resumed.emas.tobytes() == expected.emas.tobytes()
    assert resumed.counts.tobytes() == expected.counts.tobytes()
    assert json.dumps(resumed_rows) == json.dumps(rows)


def test_the_best_round_is_kept_and_named_also_by_a_run_that_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {0: 9.0, 1: 8.0, 2: 3.0, 3: 5.0, 4: 3.0, 5: 6.0}

    def scored(self: Recorder, state: ServerState) -> dict[str, float]:
        return {"frechet_ema": scores[state.round]}

    monkeypatch.setattr(Recorder, "_evaluate", scored)
    for last, kept in ((3, [2, 3]), (5, [2, 4, 5])):
        run(tiny_with(fleet="1/2x1", rounds=last, lr_schedule="constant"), tmp_path)
        assert [round_of(path) for path in checkpoints(tmp_path / "checkpoints")] == kept
        assert json.loads((tmp_path / "summary.json").read_text())["best_round"] == 2
