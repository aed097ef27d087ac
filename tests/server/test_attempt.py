"""One attempt at a round, and the numbers that a round leaves, also where things go wrong."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message

from common import wire
from common.config.run import RunConfig
from common.network.unet import initial_weights, layout_of
from server.fleet.roster import Roster
from server.record.recorder import Recorder
from server.state.advance import initial_state
from server.strategy import CoverageAvg
from tests.federations import run, tiny_with
from tests.local_grid import LocalGrid, Mishap

CONFIG = tiny_with(fleet="1x1 1/2x2", policy="rolling", evaluate_every=9, round_timeout=0.2)
LAYOUT = layout_of(CONFIG.model, 1)


@pytest.fixture(autouse=True)
def _no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "_evaluate", lambda self, state: {})
    monkeypatch.setattr(Recorder, "summarise", lambda self, state, ask: {})


def _strategy(config: RunConfig, grid: LocalGrid) -> CoverageAvg:
    roster = Roster(config, LAYOUT, (1, 8, 8))
    roster.start(grid)
    theta = initial_weights(config.model, 1, 0)
    return CoverageAvg(config, LAYOUT, roster, initial_state(LAYOUT, theta, config))


def test_a_task_is_known_by_its_reply_before_the_next_one_is_made() -> None:
    """Whoever draws messages may answer one of them and never come back for the next."""
    config = tiny_with(fleet="1/2x1")
    grid = LocalGrid(config)
    strategy = _strategy(config, grid)
    tasks = iter(strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid))
    first = next(tasks)
    replies = list(grid.pull_messages(grid.push_messages([first])))
    strategy.aggregate_train(1, replies)
    assert (strategy.report.asked, strategy.report.replied) == (1, 1)
    assert strategy.report.rejections == {}
    assert strategy.state.round == 1


def test_a_reply_that_comes_while_tasks_go_out_finds_its_task() -> None:
    grid = LocalGrid(CONFIG)
    strategy = _strategy(CONFIG, grid)
    tasks = iter(strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid))

    def one_by_one() -> Iterable[Message]:
        for task in tasks:
            yield from grid.pull_messages(grid.push_messages([task]))

    strategy.aggregate_train(1, one_by_one())
    assert (strategy.report.asked, strategy.report.replied) == (3, 3)
    assert strategy.report.rejections == {}


def _losing(times: int, partition: int | None = None, round: str = "2") -> Mishap:
    lost = 0

    def lose(who: int, reply: Message) -> Message | None:
        nonlocal lost
        if reply.metadata.group_id == round and partition in (None, who) and lost < times:
            lost += 1
            return None
        return reply

    return lose


def test_the_bytes_of_all_attempts_are_counted(tmp_path: Path) -> None:
    _, plain = run(CONFIG, tmp_path / "plain")
    _, rows = run(CONFIG, tmp_path / "retried", mishap=_losing(3))
    assert rows[2]["retries"] == 1
    assert rows[2]["bytes_down"] == 2 * plain[2]["bytes_down"]
    assert rows[2]["bytes_up"] == plain[2]["bytes_up"]  # nothing came of the first attempt
    assert rows[2]["clients_asked"] == 3
    same = ("bytes_down", "by_client", "retries", "rejections")
    assert {k: v for k, v in rows[2].items() if k not in same} == {
        k: v for k, v in plain[2].items() if k not in same
    }


def test_the_bytes_of_replies_that_are_not_used_are_counted(tmp_path: Path) -> None:
    def spoil(who: int, reply: Message) -> Message:
        if who == 0 and reply.metadata.group_id == "2":
            reply.content.config_records[wire.SPEC]["assignment"] = "0123456789abcdef"
        return reply

    _, plain = run(CONFIG, tmp_path / "plain")
    _, rows = run(CONFIG, tmp_path / "spoilt", mishap=spoil)
    assert rows[2]["clients_replied"] == 2
    assert rows[2]["bytes_up"] == plain[2]["bytes_up"]


def test_a_client_that_is_not_asked_is_not_counted_as_asked(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"policy": "full", "fleet": "1x3"})
    grid = LocalGrid(config)
    (node,) = (node for node, partition in grid.nodes.items() if partition == 1)
    grid.contexts[node].node_config["model-rate"] = "1/2"
    strategy = _strategy(config, grid)
    tasks = strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid)
    strategy.aggregate_train(1, grid.send_and_receive(tasks))
    row = strategy.report.row()
    asked = [m for m in grid.sent if m.metadata.message_type == "train"]
    assert len(asked) == row["clients_asked"] == row["clients_replied"] == 2
    assert row["clients_failed"] == 0
    assert row["rejections"] == {"1": {"too large": 1}}
    assert row["failures"] == {"1": "accepts no submodel so large"}


def test_only_a_client_whose_update_was_taken_in_has_held_its_submodel(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"rounds": 2})
    before, _ = run(config.model_copy(update={"rounds": 1, "lr_schedule": "constant"}), tmp_path)
    after, lost = run(config, tmp_path / "lost", mishap=_losing(1, partition=1))
    whole, full = run(config, tmp_path / "whole")
    assert lost[2]["failures"] == {"1": "no reply"}
    # Clients 1 and 2 roll: what client 1 was asked for in round 2 is not what it holds.
    assert after.masks[1].tobytes() == before.masks[1].tobytes() != whole.masks[1].tobytes()
    assert after.masks[2].tobytes() == whole.masks[2].tobytes() != before.masks[2].tobytes()
    assert after.replies == whole.replies - 1 == 5
    # Of clients 0 and 2 alone, one holds nothing new.
    assert full[2]["mask_change"] * 3 == pytest.approx(2 * 2 * lost[2]["mask_change"])

    never, first = run(config, tmp_path / "never", mishap=_losing(9, partition=1, round="1"))
    assert first[1]["failures"] == {"1": "no reply"}
    assert never.masks[1].tobytes() == whole.masks[1].tobytes()
    assert first[2]["mask_change"] == lost[2]["mask_change"], "a first time is no change"


def test_a_limit_found_in_a_failed_attempt_holds_in_the_next_and_is_part_of_the_state() -> None:
    config = tiny_with(fleet="1x1", policy="static", round_timeout=0.2)
    grid = LocalGrid(config)
    strategy = _strategy(config, grid)

    def full(which: Any, reply: Message) -> Message:
        content = reply.content
        (task,) = (m for m in grid.sent if m.metadata.message_id == _number(reply))
        spec = wire.unpack_task(task.content, LAYOUT)[2]
        if spec.k == LAYOUT.atom:
            content = wire.pack_too_large(LAYOUT.atom // 2, spec)
        return Message(content, reply_to=task)

    grid.mishap = full
    tasks = strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid)
    strategy.aggregate_train(1, grid.send_and_receive(tasks))
    assert strategy.report.retries == 1
    assert strategy.report.rejections == {0: {"memory": 1}}
    assert strategy.state.limits == {0: Fraction(1, 2)}
    assert strategy.report.row()["rate_limits"] == {"0": "1/2"}
    sizes = [
        m.content.array_records[wire.WEIGHTS][wire.VALUES].shape[0]
        for m in grid.sent
        if m.metadata.message_type == "train"
    ]
    assert sizes[0] == LAYOUT.size > 2 * sizes[1]
    assert np.isfinite(strategy.state.theta).all()


def _number(reply: Message) -> str:
    return reply.metadata.reply_to_message_id
