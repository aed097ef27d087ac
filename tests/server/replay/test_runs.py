"""Replay in whole runs: who is sent what, that it is the same again, and where it is refused."""

import logging
import time
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord

from common.config import EvaluationConfig, ReplayConfig, RunConfig
from common.errors import UserError
from common.wire import SPEC, payload_bytes
from common.wire.replay import IMAGES, LABELS, REPLAY
from server.app import federate
from server.preflight import preflight
from server.record.recorder import Recorder
from server.replay import Lesson, Measured, replays
from server.replay import images as drawing
from tests.federations import run, tiny_with
from tests.local_grid import LocalGrid
from tests.server.test_resume import PowerCut, _cut_in

FULL, HALF = Fraction(1), Fraction(1, 2)
CONFIG = tiny_with(
    policy="static",
    rounds=4,
    evaluation=EvaluationConfig(samples=64, evaluations=2),
    replay=ReplayConfig(mode="on", images=16),
)


def by_every_digit(
    measured: Measured, held: Mapping[Fraction, float], batch_size: int
) -> dict[Fraction, Lesson]:
    """Teach the full width from the start, as much as the last digits of a distance say.

    After a few steps nobody samples better than noise, of whom the product's plan makes nothing.
    """
    if not measured.distances:
        return {}
    digits = int(measured.distances[HALF] * 1e9) + len(measured.taught)
    examples = 1 + digits % (batch_size - 1)
    return {FULL: Lesson(HALF, Fraction(examples, batch_size))}


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "plan", by_every_digit)


@pytest.mark.usefixtures("always")
def test_clients_of_the_taught_width_are_sent_images_and_nobody_else(tmp_path: Path) -> None:
    grid = LocalGrid(CONFIG)
    federate(grid, CONFIG, tmp_path)
    tasks = [each for each in grid.sent if each.metadata.message_type == "train"]
    rows = run(CONFIG, tmp_path)[1]  # which is complete: nothing is trained again
    for round in range(1, 5):
        mine = [each for each in tasks if each.metadata.group_id == str(round)]
        full = mine[0].content
        assert all(REPLAY not in each.content and "replay" not in each.content[SPEC]
                   for each in mine[1:])  # fmt: skip
        # Round 1 has nothing to go by, and round 2 goes by what was measured before training.
        assert (REPLAY in full) == (round > 1)
        taught = rows[round]["replay"]
        assert set(taught) == ({"1"} if round > 1 else set())
        assert rows[round]["bytes_down"] == sum(payload_bytes(each.content) for each in mine)
        if round > 1:
            arrays = full[REPLAY]
            assert isinstance(arrays, ArrayRecord)
            assert arrays[IMAGES].shape == (16 * 8 * 8,)
            assert arrays[LABELS].numpy().tolist() == [0] * 16
            assert taught["1"]["teacher"] == "1/2"
            assert taught["1"]["images"] == 16
            assert 0 < taught["1"]["share"] < 1


@pytest.mark.usefixtures("always")
def test_images_are_new_every_round_and_those_of_the_averaged_narrow_width(tmp_path: Path) -> None:
    grid = LocalGrid(CONFIG)
    federate(grid, CONFIG, tmp_path)
    records = [each.content.array_records for each in grid.sent]
    sent = [each[REPLAY][IMAGES].numpy() for each in records if REPLAY in each]
    assert len({each.tobytes() for each in sent}) == len(sent) == 3


@pytest.mark.parametrize(
    ("round_of_crash", "changes"),
    [
        (2, {}),
        (3, {}),
        (4, {}),
        (3, {"evaluate_every": 2}),
        (4, {"codec": "int8"}),
        (3, {"fleet": "auto 1 1/2 1/4", "simulation_clients": 3}),
    ],
)
@pytest.mark.usefixtures("always")
def test_a_run_that_dies_and_resumes_replays_the_same(
    tmp_path: Path, round_of_crash: int, changes: dict[str, Any]
) -> None:
    config = CONFIG.model_copy(update=changes)
    expected, rows = run(config, tmp_path / "whole")
    with pytest.raises(PowerCut):
        federate(LocalGrid(config, mishap=_cut_in(round_of_crash)), config, tmp_path / "cut")
    resumed, resumed_rows = run(config, tmp_path / "cut")
    assert resumed.theta.tobytes() == expected.theta.tobytes()
    assert resumed_rows == rows
    assert any(row["replay"] for row in rows) or config.auto


@pytest.mark.usefixtures("always")
def test_any_order_of_replies_and_any_delay_of_the_recorder_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(CONFIG, tmp_path / "a")[0]
    original = Recorder.measured_before

    def when_all_is_written(self: Recorder, round: int) -> Measured:
        while max((row["round"] for row in self.history.rows()), default=-1) < round - 1:
            time.sleep(0.01)  # a slow round would have waited for it
        return original(self, round)

    monkeypatch.setattr(Recorder, "measured_before", when_all_is_written)
    got = run(CONFIG, tmp_path / "b", order=lambda partition: -partition)[0]
    assert got.theta.tobytes() == expected.theta.tobytes()


def test_a_plan_without_lessons_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "plan", lambda *_: {})
    off = CONFIG.model_copy(update={"replay": ReplayConfig(mode="off")})
    plain, with_it = run(off, tmp_path / "off")[0], run(CONFIG, tmp_path / "on")[0]
    assert plain.theta.tobytes() == with_it.theta.tobytes()


@pytest.mark.usefixtures("always")
def test_weights_that_have_diverged_teach_nothing(tmp_path: Path) -> None:
    setting = preflight(CONFIG)
    state = run(CONFIG, tmp_path)[0]
    replayer = drawing.Replayer(setting, lambda _: Measured({HALF: 0.5}))
    assert set(replayer.draw(state, [])) == {FULL}
    state.emas[:] = np.nan
    assert replayer.draw(state, []) == {}


LAYOUT = preflight(CONFIG).layout


@pytest.mark.parametrize("policy", ["static", "ordered"])
def test_where_widths_are_networks_they_teach_by_themselves(policy: str) -> None:
    config = CONFIG.model_copy(update={"policy": policy, "replay": ReplayConfig()})
    assert replays(config, LAYOUT)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        *(
            ({"policy": policy}, f"with policy={policy} a narrow width is no network of its own")
            for policy in ("rolling", "random", "balanced", "covering", "magnitude", "full")
        ),
        ({"policy": "element-random"}, "a narrow width is no network"),
        ({"policy": "core+rolling"}, "a narrow width is no network"),
        ({"fleet": "1/2x3"}, "no client of fleet=1/2x3 trains a narrower width than another"),
        ({"participants": "full"}, "trains a narrower width"),
        ({"evaluation": EvaluationConfig(widths="full")}, "evaluation.widths=full"),
        ({"evaluate_every": 3}, "with evaluate-every=3 nothing is measured in time"),
        ({"batch_size": 1}, "a batch of one image"),
    ],
)
def test_where_they_cannot_it_is_off_or_refused_by_name(changes: dict[str, Any], why: str) -> None:
    config = CONFIG.model_copy(update=changes)
    with pytest.raises(UserError, match=r"^replay\.mode: on, but ") as refused:
        replays(config, LAYOUT)
    assert why in str(refused.value)
    for mode in ("auto", "off"):
        quiet: RunConfig = config.model_copy(update={"replay": ReplayConfig(mode=mode)})
        assert not replays(quiet, LAYOUT)


def test_a_client_that_knows_no_replay_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One of before replay reads a spec without it, whose digest then is another."""
    monkeypatch.setattr(drawing, "plan", by_every_digit)
    config = CONFIG.model_copy(update={"rounds": 3})

    class Older(LocalGrid):
        """Client 0 is older: it takes no notice of the record that it does not know."""

        def push_messages(self, sent: Any) -> Any:
            sent = list(sent)
            for each in sent:
                if each.metadata.message_type == "train" and REPLAY in each.content:
                    del each.content[SPEC]["replay"]
            return super().push_messages(sent)

    with caplog.at_level(logging.WARNING, "flwr"):
        federate(Older(config), config, tmp_path)
    failed = [line for line in caplog.messages if "round 2: client 0 failed" in line]
    assert failed
    assert "does not match its assignment digest" in failed[0]
