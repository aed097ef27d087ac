"""Clients that come late, go, hang, run out of memory or never answer, and what the run says."""

import json
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict

from client.capability import training_bytes
from common.config.run import RunConfig
from common.errors import UserError
from common.network.unet import layout_of
from server.app import federate
from server.fleet.members import highest_rate, required
from server.grid import StreamingGrid
from server.record.history import Row, read_rows
from server.state.advance import ServerState
from server.state.checkpoint import checkpoints, load_checkpoint
from server.strategy import NoUsableReplyError
from tests.local_grid import LocalGrid

TINY = RunConfig.from_flat(
    {
        "rounds": 3,
        "local-steps": 1,
        "batch-size": 8,
        "fleet": "1x1 1/2x2",
        "model.widths": "8,16",
        "model.groups": 2,
        "evaluation.samples": 64,
        "evaluation.evaluations": 1,
        "evaluate-every": 4,
        "round-timeout": 1.0,
        "start-timeout": 0.2,
    }
)


class Town(LocalGrid):
    """A local grid in which things happen: `before[r]` is called before round r asks anybody.

    Attributes:
        away: Partitions that are not connected.
        slow: Partitions whose updates are not there until they are taken out of this set.
    """

    def __init__(self, config: RunConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.away: set[int] = set()
        self.slow: set[int] = set()
        self.before: dict[int, Any] = {}
        self.round = 0

    def get_node_ids(self) -> Iterable[int]:
        done = {m.metadata.group_id for m in self.sent if m.metadata.message_type == "train"}
        while self.round < len(done) + 1:
            self.round += 1
            self.before.get(self.round, lambda: None)()
        return [node for node, partition in self.nodes.items() if partition not in self.away]

    def there(self, message: Message) -> bool:
        if not super().there(message):
            return False
        partition = self.nodes[message.metadata.dst_node_id]
        return message.metadata.message_type != "train" or partition not in self.slow

    def restart(self, partition: int) -> None:
        """Let a device come back under another node id."""
        (old,) = (node for node, p in self.nodes.items() if p == partition)
        new = old + 1
        self.nodes[new] = self.nodes.pop(old)
        context = self.contexts.pop(old)
        self.contexts[new] = Context(1, new, context.node_config, RecordDict(), context.run_config)


def _with(**changes: Any) -> RunConfig:
    return TINY.model_copy(update=changes)


def _run(grid: LocalGrid, config: RunConfig, run_dir: Path) -> tuple[ServerState, list[Row]]:
    federate(StreamingGrid(grid), config, run_dir)
    last = checkpoints(run_dir / "checkpoints")[-1]
    rows = read_rows(run_dir / "history.jsonl")
    return load_checkpoint(last, config, layout_of(config.model, 1)), rows


def _asked(grid: LocalGrid, round: int) -> list[int]:
    return sorted(
        grid.nodes[m.metadata.dst_node_id]
        for m in grid.sent
        if m.metadata.message_type == "train" and m.metadata.group_id == str(round)
    )


def test_a_client_leaves_and_comes_back(tmp_path: Path) -> None:
    grid = Town(TINY)
    grid.before = {2: lambda: grid.away.add(1), 3: grid.away.clear}
    _, rows = _run(grid, TINY, tmp_path)
    assert [row["clients_asked"] for row in rows[1:]] == [3, 2, 3]
    assert [row["clients_absent"] for row in rows[1:]] == [0, 1, 0]
    assert [row["fleet_events"] for row in rows[1:]] == [{}, {"1": "left"}, {"1": "joined"}]
    assert all(row["clients_failed"] == 0 for row in rows[1:])


def test_a_device_that_starts_again_under_another_node_id_takes_its_place(tmp_path: Path) -> None:
    grid = Town(TINY)
    grid.before = {2: lambda: grid.restart(0)}
    state, rows = _run(grid, TINY, tmp_path / "a")
    assert rows[2]["fleet_events"] == {"0": "joined"}
    assert [row["clients_replied"] for row in rows[1:]] == [3, 3, 3]
    # Node ids decide nothing: the run is the one in which nobody ever left.
    undisturbed, _ = _run(Town(TINY), TINY, tmp_path / "b")
    assert state.theta.tobytes() == undisturbed.theta.tobytes()


def test_nobody_takes_the_place_of_one_who_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grid = Town(TINY)

    def impostor() -> None:
        (node,) = (node for node, p in grid.nodes.items() if p == 1)
        grid.nodes[5], grid.contexts[5] = 1, grid.contexts[node]

    grid.before = {2: impostor}
    _run(grid, TINY, tmp_path)
    assert 5 not in {m.metadata.dst_node_id for m in grid.sent if m.metadata.group_id}
    assert caplog.text.count("node 5: it says partition-id 1, which another node has") == 1


def test_a_run_may_begin_with_enough_clients_and_others_join_late(tmp_path: Path) -> None:
    config = _with(min_replies=2.0)
    grid = Town(config)
    grid.away = {2}
    grid.before = {3: grid.away.clear}
    _, rows = _run(grid, config, tmp_path)
    assert _asked(grid, 1) == _asked(grid, 2) == [0, 1]
    assert _asked(grid, 3) == [0, 1, 2]
    assert rows[3]["fleet_events"] == {"2": "joined"}


def test_without_min_replies_the_whole_fleet_is_waited_for_and_then_asked_for(
    tmp_path: Path,
) -> None:
    grid = Town(TINY)
    grid.away = {2}
    with pytest.raises(UserError, match="names 3 clients, but 2 of the 2 nodes that are connected"):
        _run(grid, TINY, tmp_path)


def test_a_round_closes_with_enough_replies_and_late_ones_are_recognised(tmp_path: Path) -> None:
    config = _with(min_replies=2.0, round_timeout=600.0)
    grid = Town(config)
    grid.slow = {1}
    grid.before = {3: grid.slow.clear}
    state, rows = _run(grid, config, tmp_path)
    assert rows[1]["clients_replied"] == 2
    assert rows[1]["failures"] == {"1": "no reply"}
    # Busy with round 1, it is not asked in round 2; its answer comes then and counts for nothing.
    assert _asked(grid, 2) == [0, 2]
    assert rows[3]["rejections"]["1"] == {"late": 1}
    assert np.isfinite(state.theta).all()


def test_a_round_with_enough_replies_may_wait_for_the_others(tmp_path: Path) -> None:
    config = _with(min_replies=2.0, close_early=False, round_timeout=600.0)
    _, rows = _run(Town(config), config, tmp_path / "all")
    assert rows[1]["clients_replied"] == 3
    config = config.model_copy(update={"round_timeout": 0.5})
    grid = Town(config)
    grid.slow = {1}
    _, rows = _run(grid, config, tmp_path / "but one")
    assert (rows[1]["clients_replied"], rows[1]["retries"]) == (2, 0)
    # It was given up, not left to itself: it is asked in the next round.
    assert _asked(grid, 2) == [0, 1, 2]


def test_a_client_that_is_waited_for_in_vain_is_asked_again(tmp_path: Path) -> None:
    grid = Town(TINY)
    grid.slow = {1}
    grid.before = {2: grid.slow.clear}
    _, rows = _run(grid, TINY, tmp_path)
    assert rows[1]["failures"] == {"1": "no reply"}
    assert rows[2]["clients_replied"] == 3
    assert rows[2]["rejections"] == {"1": {"late": 1}}


def test_a_round_is_tried_again_and_then_the_run_stops_and_can_be_resumed(tmp_path: Path) -> None:
    lost = 0

    def lose(partition: int, reply: Message) -> Message | None:
        nonlocal lost
        lost += reply.metadata.group_id == "2"
        return None if reply.metadata.group_id == "2" and lost <= limit else reply

    config = _with(round_timeout=0.2)
    limit = 3
    state, rows = _run(LocalGrid(config, mishap=lose), config, tmp_path / "once")
    assert rows[2]["retries"] == 1
    assert rows[2]["rejections"] == {str(p): {"no reply": 1} for p in range(3)}
    assert rows[2]["failures"] == {}
    undisturbed, _ = _run(LocalGrid(config), config, tmp_path / "never")
    assert state.theta.tobytes() == undisturbed.theta.tobytes()

    limit, lost = 99, 0
    with pytest.raises(NoUsableReplyError, match=r"round 2: none of 3 clients .* no reply"):
        _run(LocalGrid(config, mishap=lose), config, tmp_path / "always")
    assert lost == 6
    resumed, _ = _run(LocalGrid(config), config, tmp_path / "always")
    assert resumed.theta.tobytes() == undisturbed.theta.tobytes()


def test_too_few_replies_are_none(tmp_path: Path) -> None:
    config = _with(min_replies=0.9, round_timeout=0.2, round_retries=0)
    grid = LocalGrid(config, mishap=lambda p, r: None if p == 0 and r.metadata.group_id else r)
    with pytest.raises(NoUsableReplyError, match=r"2 of 3 clients .* update; 3 are needed"):
        _run(grid, config, tmp_path)


def test_a_client_out_of_memory_gets_the_rate_it_can_do_and_keeps_it_after_a_resume(
    tmp_path: Path,
) -> None:
    import client.training

    train = client.training.train_locally

    def small_device(values: Any, submodel: Any, *rest: Any) -> Any:
        if submodel.rate > Fraction(1, 2):
            torch.empty(2**60)  # PyTorch's own words
        return train(values, submodel, *rest)

    config = _with(rounds=2, lr_schedule="constant")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client.training, "train_locally", small_device)
        _, rows = _run(LocalGrid(config), config, tmp_path)
    assert rows[1]["failures"] == {"0": "out of memory at rate 1, can do 1/2"}
    assert rows[1]["rejections"] == {"0": {"memory": 1}}
    assert rows[1]["rate_limits"] == rows[2]["rate_limits"] == {"0": "1/2"}
    assert rows[2]["clients_replied"] == 3

    longer = _with(rounds=3, lr_schedule="constant")
    grid = LocalGrid(longer)
    _, rows = _run(grid, longer, tmp_path)
    assert rows[3]["rate_limits"] == {"0": "1/2"}
    sizes = [
        m.content.array_records["weights"]["values"].shape[0]
        for m in grid.sent
        if m.metadata.group_id == "3"
    ]
    assert len(set(sizes)) == 1  # all at 1/2 now


def test_a_node_says_what_it_accepts_and_never_gets_more(tmp_path: Path) -> None:
    config = _with(rounds=1, fleet="1x4")
    grid = LocalGrid(config)
    layout = layout_of(config.model, 1)
    enough_for_half = training_bytes(config, layout, layout.atom // 2, (1, 8, 8)) / 2**20
    for node, partition in grid.nodes.items():
        mine: dict[int, dict[str, Any]] = {
            0: {"model-rate": "1/2", "device-name": "phone"},
            1: {"memory": enough_for_half},
        }
        grid.contexts[node].node_config.update(mine.get(partition, {}))
    _run(grid, config, tmp_path)
    fleet = json.loads((tmp_path / "fleet.json").read_text())
    assert [row["configured_rate"] for row in fleet] == ["1"] * 4
    assert fleet[0]["rate"] == fleet[0]["accepts_rate"] == "1/2"
    assert fleet[0]["device"] == "phone"
    assert fleet[1]["rate"] == fleet[1]["accepts_rate"] == "1/2"
    assert [row["rate"] for row in fleet[2:]] == ["1", "1"]
    sizes = {
        grid.nodes[m.metadata.dst_node_id]: m.content.array_records["weights"]["values"].shape[0]
        for m in grid.sent
        if m.metadata.group_id == "1"
    }
    assert sizes[2] == layout.size
    assert max(sizes[0], sizes[1]) < layout.size / 3


def test_step_times_are_measured_only_when_a_budget_asks_for_them(tmp_path: Path) -> None:
    config = _with(rounds=1, fleet="1x1", round_budget=1e-9)
    _run(LocalGrid(config), config, tmp_path)
    (row,) = json.loads((tmp_path / "fleet.json").read_text())
    assert list(row["step_seconds"]) == ["1/4", "1"]
    assert row["step_seconds"]["1/4"] > 0
    assert row["rate"] == "1/4"


def test_requirements_and_rates() -> None:
    layout = layout_of(TINY.model, 1)
    assert [required(_with(min_replies=x), 10) for x in (0, 0.25, 0.9, 1, 3, 99)] == [
        *(1, 3, 9, 1, 3, 10)
    ]
    half = Fraction(1, 2)
    assert highest_rate(layout, half, TINY) == half
    assert highest_rate(layout, Fraction(2, 3), TINY) == half
    assert highest_rate(layout, Fraction(1, 100), TINY) == 0
    budget = _with(round_budget=10.0, local_steps=10)
    # A step takes 0.2 + 1.6 r^2 seconds: 0.3, 0.6, 1.1, 1.8 at 1/4 … 1.
    times = ((Fraction(1, 4), 0.3), (Fraction(1), 1.8))
    assert highest_rate(layout, Fraction(1), budget, times) == half
    assert highest_rate(layout, Fraction(1), _with(round_budget=0.1), times) == Fraction(1, 4)
    assert highest_rate(layout, Fraction(1), TINY, times) == 1
