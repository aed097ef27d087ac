"""Whole private federations: what they tell, how they go on, and what a client cannot change."""

import json
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message

from common.config.run import RunConfig
from common.config.sections import PrivacyConfig
from common.wire.messages import VALUES, WEIGHTS
from common.wire.records import pack_array
from server.app import federate
from server.fleet.members import Client, fleet_of, participants, sampling_rate
from server.privacy.accountant import epsilon
from server.privacy.ledger import Ledger
from server.record.history import read_rows
from server.record.recorder import Recorder
from server.state.checkpoint import checkpoints, round_of
from simulations.planning.coverage import plan_coverage
from tests.federations import final_state, rows_of, run, tiny_with
from tests.local_grid import LocalGrid, Mishap

CONFIG = tiny_with(
    fleet="1x2 1/2x2 1/4x1",
    clients_per_round=3,
    weighting="uniform",
    privacy=PrivacyConfig(noise_multiplier=0.5, clip=0.3),
)
CLIENTS = [
    *("loss", "clients_asked", "clients_replied", "clients_failed", "clients_absent"),
    *("density_mean", "pruning_error_mean", "pruning_error_max", "bytes_up", "bytes_down"),
    *("seconds_train", "seconds_aggregate", "seconds_slowest"),
]
"""Columns that clients, or who took part, decide."""


pytestmark = pytest.mark.slow


class PowerCut(BaseException):
    pass


@pytest.fixture(autouse=True)
def _no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "_evaluate", lambda self, state: {})
    monkeypatch.setattr(Recorder, "summarise", lambda self, state, ask: {})


def _with_key(run_dir: Path) -> Path:
    """Give a run to be a known key, under which somebody is drawn in rounds 1 to 3."""
    (run_dir / "privacy").mkdir(parents=True)
    (run_dir / "privacy" / "key").write_bytes(b"0123456789abcdef" * 2)
    return run_dir


def _tasks(grid: LocalGrid) -> list[tuple[int, str]]:
    """Return who was sent a task in which round."""
    train = [each.metadata for each in grid.sent if each.metadata.message_type == "train"]
    return [(grid.nodes[each.dst_node_id], each.group_id) for each in train]


def test_a_private_run_tells_its_epsilon_and_nothing_of_its_clients(tmp_path: Path) -> None:
    run(CONFIG, tmp_path)
    rows = read_rows(tmp_path / "history.jsonl")
    for row in rows:
        expected = epsilon(0.5, 0.6, 1e-5, row["round"])
        assert row["epsilon"] == expected
        assert [row[key] for key in CLIENTS] == [None] * len(CLIENTS)
        for key in ("failures", "rejections", "fleet_events", "rate_limits", "update_norms"):
            assert row[key] == {}, key
    fleet = json.loads((tmp_path / "fleet.json").read_text())
    assert fleet[4] == {"partition": 4, "present": None, "rate": "1/4", "configured_rate": "1/4"}


def test_the_summary_says_what_was_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(f"flwr.supercore.task_identity.TaskIdentity.{name}", 1)
    config = CONFIG.model_copy(update={"rounds": 1, "evaluate_every": 9})
    run(config, tmp_path)
    said = json.loads((tmp_path / "summary.json").read_text())["privacy"]
    assert said["epsilon"] == epsilon(0.5, 0.6, 1e-5, 1)
    assert (said["delta"], said["sampling"], said["sampling_rate"]) == (1e-5, "poisson", 0.6)


def test_replies_may_come_in_any_order(tmp_path: Path) -> None:
    one, _ = run(CONFIG, _with_key(tmp_path / "one"))
    other, _ = run(CONFIG, _with_key(tmp_path / "other"), order=lambda partition: -partition)
    assert one.theta.tobytes() == other.theta.tobytes()
    assert one.emas.tobytes() == other.emas.tobytes()


@pytest.mark.parametrize("codec", ["float32", "int4"])
@pytest.mark.parametrize("cut_in", [1, 3])
def test_a_run_that_dies_and_resumes_equals_one_that_never_stopped(
    tmp_path: Path, cut_in: int, codec: str
) -> None:
    changes = {"rounds": 6, "policy": "static"} if codec == "int4" else {}
    config = CONFIG.model_copy(update={"codec": codec, **changes})
    # A codec with memory goes on from the end of a stretch, so round 5 is done again.
    cut_in += 3 if codec == "int4" and cut_in == 3 else 0
    expected, rows = run(config, _with_key(tmp_path / "whole"))

    def cut(partition: int, reply: Message) -> Message:
        if reply.metadata.group_id == str(cut_in):
            raise PowerCut
        return reply

    with pytest.raises(PowerCut):
        federate(LocalGrid(config, mishap=cut), config, _with_key(tmp_path / "cut"))
    resumed, resumed_rows = run(config, tmp_path / "cut")
    assert resumed.theta.tobytes() == expected.theta.tobytes()
    assert resumed.emas.tobytes() == expected.emas.tobytes()
    assert resumed.masks.tobytes() == expected.masks.tobytes()
    assert json.dumps(resumed_rows) == json.dumps(rows)


def _shifted(partition: int, reply: Message) -> Message:
    """Let everybody reply something else."""
    if reply.metadata.message_type == "train" and reply.has_content():
        values = reply.content.array_records[WEIGHTS][VALUES].numpy() + np.float32(0.01)
        reply.content[WEIGHTS] = ArrayRecord({VALUES: pack_array(values)})
    return reply


def _nobody(partition: int, reply: Message) -> Message | None:
    return None if reply.metadata.message_type == "train" else reply


@pytest.mark.parametrize("mishap", [_shifted, _nobody])
def test_a_round_that_was_released_is_not_released_again_as_something_else(
    tmp_path: Path, mishap: Mishap
) -> None:
    """Else the same noise would cover two sums, or one round would be used twice."""
    config = CONFIG.model_copy(update={"round_timeout": 0.2})
    run(config, _with_key(tmp_path / "one"))
    expected = final_state(config, tmp_path / "one").theta.tobytes()
    other, _ = run(config, _with_key(tmp_path / "other"), mishap=mishap)
    assert other.theta.tobytes() != expected, "the replies are not another's"
    for path in checkpoints(tmp_path / "one" / "checkpoints"):
        if round_of(path) > 2:
            path.unlink()
    again, _ = run(config, tmp_path / "one", mishap=mishap)
    assert again.round == 3
    assert again.theta.tobytes() == expected


def test_a_run_without_its_key_is_not_resumed(tmp_path: Path) -> None:
    run(CONFIG, tmp_path)
    (tmp_path / "privacy" / "key").unlink()
    with pytest.raises(Exception, match="privacy/key: missing"):
        federate(LocalGrid(CONFIG), CONFIG.model_copy(update={"rounds": 4}), tmp_path)


def test_a_round_without_any_reply_is_noise_and_is_not_tried_again(tmp_path: Path) -> None:
    """Who is missing is told neither by a second attempt nor by a row."""
    config = CONFIG.model_copy(update={"round_timeout": 0.2, "round_retries": 3, "rounds": 2})
    grid = LocalGrid(config, mishap=_nobody)
    federate(grid, config, _with_key(tmp_path / "silent"))
    sent = _tasks(grid)
    assert len(sent) == len(set(sent)) > 0
    rows = rows_of(tmp_path / "silent")
    assert [row["retries"] for row in rows] == [0, 0, 0]
    _, heard = run(config, _with_key(tmp_path / "heard"))
    assert json.dumps(rows) == json.dumps(heard)
    theta = final_state(config, tmp_path / "silent").theta
    assert (theta != final_state(config, tmp_path / "heard").theta).mean() > 0.9


def test_state_besides_the_weights_does_not_depend_on_who_was_drawn_or_replied(
    tmp_path: Path,
) -> None:
    states = []
    for name, mishap in (("all", lambda _, reply: reply), ("none", _nobody)):
        config = CONFIG.model_copy(update={"round_timeout": 0.2})
        states.append(run(config, tmp_path / name, mishap=mishap)[0])
    one, other = states
    for key in ("counts", "images", "last", "masks"):
        assert getattr(one, key).tobytes() == getattr(other, key).tobytes(), key
    assert one.replies == other.replies == 15
    assert one.limits == other.limits == {}


def test_a_plan_counts_what_a_private_run_does(tmp_path: Path) -> None:
    plan = plan_coverage(CONFIG, CONFIG.rounds)
    state, rows = run(CONFIG, tmp_path)
    assert plan.counts.tobytes() == state.counts.tobytes()
    assert [row["gamma_min"] for row in plan.rows] == [row["gamma_min"] for row in rows[1:]]


def _fleet(rates: Iterable[str]) -> list[Client]:
    fleet = list(map(Fraction, rates))
    return fleet_of(fleet, [(1, 10)] * len(fleet))


def test_everybody_is_drawn_on_its_own_whoever_else_is_there(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, resumed=False)
    config = RunConfig(
        fleet="1/2x40", clients_per_round=10, weighting="uniform", privacy=CONFIG.privacy
    )
    assert sampling_rate(config) == 0.25
    fleet = _fleet(["1/2"] * 40)
    sizes, drawn = [], np.zeros(40)
    for round in range(1, 401):
        lot = ledger.page(round).lot
        chosen = [each.partition for each in participants(fleet, config, round, lot)]
        away = [replace(each, present=each.partition > 7) for each in fleet]
        others = [each.partition for each in participants(away, config, round, lot)]
        assert others == [partition for partition in chosen if partition > 7]
        sizes.append(len(chosen))
        drawn[chosen] += 1
    # Binomial, not fixed: five standard deviations of the mean and of every client's number.
    assert abs(np.mean(sizes) - 10) < 5 * np.sqrt(7.5 / 400)
    assert 5 < np.var(sizes) < 10.5
    assert np.abs(drawn - 100).max() < 5 * np.sqrt(75)


def test_a_weaker_device_changes_nobody_elses_submodel(tmp_path: Path) -> None:
    """It is not asked; to give it less would move the others of its rate, and the counts."""

    def weak(partition: int, reply: Message) -> Message:
        if partition == 0 and reply.metadata.message_type == "query":
            reply.content.config_records["spec"]["rate"] = "1/4"
        return reply

    tasks: dict[str, Any] = {}
    states = {}
    for name, mishap in (("strong", lambda _, reply: reply), ("weak", weak)):
        config = CONFIG.model_copy(update={"clients_per_round": 0})
        grid = LocalGrid(config, mishap=mishap)
        federate(grid, config, _with_key(tmp_path / name))
        tasks[name] = [task for task in _tasks(grid) if task[0] != 0]
        states[name] = final_state(config, tmp_path / name)
        assert any(task[0] == 0 for task in _tasks(grid)) == (name == "strong")
    assert tasks["weak"] == tasks["strong"]
    assert states["weak"].masks.tobytes() == states["strong"].masks.tobytes()
    assert states["weak"].counts.tobytes() == states["strong"].counts.tobytes()
