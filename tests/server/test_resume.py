"""A run that goes on from its checkpoints, of this version and of earlier ones."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from common.config.sections import EmaConfig
from common.network.unet import layout_of
from common.wire.messages import VALUES, WEIGHTS
from common.wire.records import pack_array
from server.app import federate
from server.record.recorder import Recorder
from server.state.advance import ServerState, initial_state
from server.state.checkpoint import checkpoints, load_checkpoint, round_of, save_checkpoint
from tests.federations import TINY, run, tiny_with
from tests.local_grid import LocalGrid, Mishap


class PowerCut(BaseException):
    pass


def _cut_in(round: int, before: Mishap = lambda _, reply: reply) -> Mishap:
    """Let the power fail when the second reply of a round comes, as it was before then."""
    replies = 0

    def cut(partition: int, reply: Message) -> Message | None:
        nonlocal replies
        replies += reply.metadata.group_id == str(round)
        if replies == 2:
            raise PowerCut
        return before(partition, reply)

    return cut


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

    with pytest.raises(PowerCut):
        federate(LocalGrid(config, mishap=_cut_in(round_of_crash)), config, tmp_path / "cut")
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

    def scored(self: Recorder, state: ServerState) -> dict[str, Any]:
        return {"frechet_by_width": {"1": 0.5, "1/2": scores[state.round]}}  # 1 is nobody's

    monkeypatch.setattr(Recorder, "_evaluate", scored)
    for last, kept in ((3, [2, 3]), (5, [2, 4, 5])):
        run(tiny_with(fleet="1/2x1", rounds=last, lr_schedule="constant"), tmp_path)
        assert [round_of(path) for path in checkpoints(tmp_path / "checkpoints")] == kept
        assert json.loads((tmp_path / "summary.json").read_text())["best_round"] == 2


def _astray(partition: int, reply: Message) -> Message:
    """Let client 0 come back from far away in round 3 and ever after."""
    late = reply.metadata.group_id in ("3", "4", "5")
    if partition == 0 and late and reply.metadata.message_type == "train":
        values = reply.content.array_records[WEIGHTS][VALUES].numpy().copy()
        values[:1000] += 3
        reply.content[WEIGHTS] = ArrayRecord({VALUES: pack_array(values)})
    return reply


CHECKED = tiny_with(fleet="1/2x4 1/4x1", rounds=5, evaluate_every=9)


@pytest.mark.parametrize("mode", ["clip", "reject"])
@pytest.mark.parametrize("saved", [True, False])
def test_a_resumed_run_judges_updates_by_the_same_norms(
    tmp_path: Path, mode: str, saved: bool
) -> None:
    """They are in the checkpoint; in one of before they were, the history has them."""
    config = CHECKED.model_copy(update={"update_check": mode})
    expected, rows = run(config, tmp_path / "whole", mishap=_astray)
    free, _ = run(CHECKED, tmp_path / "free", mishap=_astray)
    assert expected.theta.tobytes() != free.theta.tobytes(), "no update was judged"
    refused = [row["rejections"].get("0", {}).get("norm", 0) for row in rows]
    assert refused == ([0, 0, 0, 1, 1, 1] if mode == "reject" else [0] * 6)

    with pytest.raises(PowerCut):
        federate(LocalGrid(config, mishap=_cut_in(3, _astray)), config, tmp_path / "cut")
    if not saved:
        _as_before_norms_were_saved(checkpoints(tmp_path / "cut" / "checkpoints")[-1])
    resumed, resumed_rows = run(config, tmp_path / "cut", mishap=_astray)
    assert resumed.theta.tobytes() == expected.theta.tobytes()
    assert resumed.emas.tobytes() == expected.emas.tobytes()
    assert resumed.masks.tobytes() == expected.masks.tobytes()
    assert (resumed.norms, resumed.limits) == (expected.norms, expected.limits)
    assert len(resumed.norms) == 5
    assert json.dumps(resumed_rows) == json.dumps(rows)


def _as_before_norms_were_saved(path: Path) -> None:
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    del metadata["norms"], metadata["limits"]
    save_file(load_file(path), path, metadata)


def test_what_a_checkpoint_of_before_lacks_is_taken_from_the_history_up_to_its_round(
    tmp_path: Path,
) -> None:
    layout = layout_of(TINY.model, 1)
    theta = np.zeros(layout.size, np.float32)
    state = replace(initial_state(layout, theta, TINY), round=2)
    path = save_checkpoint(tmp_path, state, TINY, layout)
    _as_before_norms_were_saved(path)
    rows: list[dict[str, Any]] = [
        {"round": 0, "update_norms": {}, "rate_limits": {}},
        {"round": 1, "update_norms": {"1": [0.1, 0.2]}, "rate_limits": {"3": "1/2"}},
        {"round": 2, "update_norms": {"1": [0.3]}, "rate_limits": {"3": "1/2", "2": "0"}},
        {"round": 3, "update_norms": {"1": [9.0]}, "rate_limits": {"0": "1/4"}},
    ]
    read = load_checkpoint(path, TINY, layout, rows)
    assert read.norms == ({"1": (0.1, 0.2)}, {"1": (0.3,)})
    assert read.limits == {3: Fraction(1, 2), 2: Fraction(0)}
    nothing = load_checkpoint(path, TINY, layout)
    assert (nothing.norms, nothing.limits) == ((), {})
