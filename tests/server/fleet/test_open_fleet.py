"""`fleet = "auto"`: whoever comes takes part, keeps its number, and is refused by itself."""

import json
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo

import server.fleet.refusals
import server.fleet.roster
from common import wire
from common.config.run import RunConfig
from common.data import load_partition
from common.errors import UserError
from common.network.unet import layout_of
from server.app import federate
from server.fleet.roster import Roster
from server.grid import StreamingGrid
from server.strategy import NoUsableReplyError
from tests.federations import TINY, final_state, rows_of, tiny_with
from tests.local_grid import LocalGrid

AUTO = tiny_with(fleet="auto", evaluate_every=9, start_timeout=0.3, round_timeout=0.3)
SHAPE = (1, 8, 8)
LAYOUT = layout_of(AUTO.model, 1)


class Street(LocalGrid):
    """Devices without numbers that come and go; `before[r]` is called before round r begins.

    Attributes:
        keys: The public keys of nodes that have one of their own.
    """

    def __init__(self, config: RunConfig, *names: str) -> None:
        super().__init__(config)
        self.nodes.clear()
        self.config = config
        self.keys: dict[int, bytes] = {}
        self.before: dict[int, Callable[[], Any]] = {}
        self.round = 0
        self.met = 0
        for name in names:
            self.comes(name)

    def comes(self, name: str = "", key: bytes = b"", **node: Any) -> int:
        """Let a device join and return its node id; one with a key keeps that of before."""
        self.met += 1
        number = next((n for n, k in self.keys.items() if key and k == key), 1000 - self.met)
        self.nodes[number] = self.met
        if key:
            self.keys[number] = key
            node["keyed"] = True
        node = {**node, **({"device-name": name} if name else {})}
        node = {word.replace("_", "-"): value for word, value in node.items()}
        self.contexts[number] = Context(1, number, node, RecordDict(), self.config.to_flat())
        return number

    def goes(self, name: str) -> None:
        """Let a device leave."""
        self.nodes.pop(self.node(name))

    def node(self, name: str) -> int:
        """Return the node that a device is now."""
        return next(n for n in self.nodes if self.contexts[n].node_config["device-name"] == name)

    def get_node_ids(self) -> Iterable[int]:
        done = {m.metadata.group_id for m in self.sent if m.metadata.message_type == "train"}
        while self.round < len(done) + 1:
            self.round += 1
            self.before.get(self.round, lambda: None)()
        return list(self.nodes)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=n, public_key=self.keys.get(n, b"")) for n in self.nodes]

    def tasks(self, round: int) -> dict[str, Message]:
        """Return what a round asked of whom."""
        return {
            str(self.contexts[m.metadata.dst_node_id].node_config["device-name"]): m
            for m in self.sent
            if m.metadata.group_id == str(round)
        }

    def asked(self, round: int) -> set[str]:
        """Return whom a round asked."""
        return {*self.tasks(round)}


def _roster(street: Street, path: Path | None = None, **changes: Any) -> Roster:
    config = street.config.model_copy(update=changes)
    return Roster(config, layout_of(config.model, 1), SHAPE, numbers=path)


def _numbers(roster: Roster) -> dict[str, int]:
    return {row["device"]: row["partition"] for row in roster.record() if row.get("present")}


def _refused(roster: Roster) -> dict[str, str]:
    return {row["device"]: row["refused"] for row in roster.record() if "refused" in row}


def _images(folder: Path, shape: tuple[int, int, int], count: int = 12) -> str:
    channels, height, width = shape
    pixels = np.random.default_rng(0).integers(0, 255, (count, channels, height, width), np.uint8)
    np.savez(folder / f"{channels}x{height}.npz", images=pixels)
    return f"npz:{folder / f'{channels}x{height}.npz'}"


def test_numbers_are_given_in_order_of_arrival_and_kept() -> None:
    street = Street(AUTO, "barn", "field")
    roster = _roster(street)
    roster.start(street)
    assert _numbers(roster) == {"barn": 0, "field": 1}
    street.goes("barn")
    street.comes("yard")
    roster.update(street)
    assert _numbers(roster) == {"field": 1, "yard": 2}
    assert roster.take_events() == {0: "left", 2: "joined"}
    assert [(c.partition, c.index, c.count) for c in roster.fleet() if c.present] == [
        *((1, 0, 2), (2, 1, 2))
    ]
    street.comes("barn")  # as another node: without a key its name is what it is known by
    roster.update(street)
    assert _numbers(roster) == {"barn": 0, "field": 1, "yard": 2}
    assert roster.take_events() == {0: "joined"}
    assert [(c.index, c.count) for c in roster.fleet()] == [(0, 3), (1, 3), (2, 3)]
    assert roster.fleet() is roster.fleet()


def test_a_restarted_server_knows_everybody(tmp_path: Path) -> None:
    street = Street(AUTO, "barn")
    street.comes("field", key=b"f")
    roster = _roster(street, tmp_path / "numbers.json")
    roster.start(street)
    assert _numbers(roster) == {"barn": 0, "field": 1}
    later = Street(AUTO, "yard")
    later.comes("meadow", key=b"f")  # the same key under another name, and as another node
    later.comes("barn")
    roster = _roster(later, tmp_path / "numbers.json")
    roster.start(later)
    assert _numbers(roster) == {"barn": 0, "meadow": 1, "yard": 2}
    (tmp_path / "numbers.json").write_text('{"name barn": 0, "name field": 0}')
    with pytest.raises(UserError, match=r"numbers\.json: cannot be read .* each stands once"):
        _roster(later, tmp_path / "numbers.json")


def test_a_name_does_not_replace_a_key() -> None:
    street = Street(AUTO)
    street.comes("barn", key=b"b")
    roster = _roster(street)
    roster.start(street)
    street.goes("barn")
    street.comes("barn")
    street.comes("barn", key=b"another")
    roster.update(street)
    assert [c.partition for c in roster.fleet() if c.present] == [1, 2]
    assert {row["known_by"].split()[0] for row in roster.record()} == {"key", "name"}


def test_a_second_device_of_a_name_waits_until_the_first_has_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    street = Street(AUTO, "barn")
    roster = _roster(street)
    roster.start(street)
    first = street.node("barn")
    second = street.comes("barn")
    for _ in range(50):
        roster.update(street)
    assert roster.fleet()[0].node == first
    assert _refused(roster) == {
        "barn": "another node has its name barn and still answers; give each its own"
    }
    assert caplog.text.count("device barn") == 1, "said once, not ten times a second"
    told = [m for m in street.sent if "refused" in m.content.config_records["spec"]]
    assert [m.metadata.dst_node_id for m in told] == [second]
    del street.nodes[first]  # it was the same device, whose end Flower has not noticed until now
    roster.update(street)
    assert roster.fleet()[0].node == second
    assert _refused(roster) == {}


def test_who_cannot_take_part_keeps_nobody_else_from_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = AUTO.model_copy(update={"data": "gaussian-field8", "image_shape": ""})
    street = Street(config, "barn")
    street.comes("wide", data="npz:/nowhere.npz")
    street.comes("odd", model_rate="3")
    street.comes()
    roster = _roster(street)
    roster.start(street)
    assert _numbers(roster) == {"barn": 0}
    reasons = _refused(roster)
    assert "image-shape: the run must set it" in reasons["wide"]
    assert reasons["odd"].startswith("model-rate: '3' in the node's configuration is not in (0, 1]")
    assert "neither a key nor a name" in reasons[""]
    assert "join with --key, or with --name" in reasons[""]
    assert caplog.text.count("not taken: device odd: model-rate") == 1
    assert "UserError" not in caplog.text
    roster.update(street)
    assert "the server does not take this device: model-rate: '3'" in caplog.text, "it is told"


def test_images_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    config = AUTO.model_copy(update={"data": "patches16"})
    street = Street(config, "barn")
    street.comes("small", data=_images(tmp_path, (1, 8, 8)))
    roster = Roster(config, layout_of(config.model, 3), (3, 16, 16))
    roster.start(street)
    assert _numbers(roster) == {"barn": 0}
    assert "images of 1x8x8, the run's are 3x16x16" in _refused(roster)["small"]
    # What a device claims is compared again where it is used.
    claims = Street(AUTO, "barn")
    roster = Roster(AUTO, layout_of(AUTO.model, 1), (1, 16, 16))
    roster.update(claims)
    assert _refused(roster) == {"barn": "it has images of 1x8x8, the run of 1x16x16"}
    # One that is taken already and comes back with a fault is no longer asked.
    key = Street(config)
    node = key.comes("barn", key=b"b")
    roster = Roster(config, layout_of(config.model, 3), (3, 16, 16))
    roster.start(key)
    del key.nodes[node]
    roster.update(key)
    assert key.comes("barn", key=b"b", model_rate="0") == node
    roster.update(key)
    assert not any(client.present for client in roster.fleet())
    key.goes("barn")
    roster.update(key)
    key.comes("barn", key=b"b")
    roster.update(key)
    assert _numbers(roster) == {"barn": 0}
    assert _refused(roster) == {}


def test_strangers_fill_neither_memory_nor_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server.fleet.refusals, "MOST", 3)
    street = Street(AUTO, *(f"device {i}" for i in range(12)))
    roster = _roster(street, max_clients=2)
    roster.start(street)
    assert len(roster.fleet()) == 2
    assert len(_refused(roster)) == 3
    assert "all of its max-clients=2 numbers" in _refused(roster)["device 2"]
    assert caplog.text.count("not taken:") == 3 + 1
    assert "more than 3 devices; no others are named" in caplog.text
    assert len(roster._queue) == 0


def test_everybody_gets_the_largest_width_of_the_menu_that_it_can_hold() -> None:
    def rates(fleet: str) -> list[Fraction]:
        street = Street(AUTO.model_copy(update={"fleet": fleet}))
        street.comes("a")
        street.comes("b", model_rate="3/4")
        street.comes("c", model_rate="1/4")
        roster = _roster(street)
        roster.start(street)
        assert all(client.rate <= client.accepts for client in roster.fleet() if client.present)
        return [client.rate for client in roster.fleet()]

    whole, half, quarter = Fraction(1), Fraction(1, 2), Fraction(1, 4)
    assert rates("auto") == [whole, half, quarter]
    assert rates("auto 3/4 1/4") == [Fraction(3, 4), Fraction(3, 4), quarter]
    assert rates("auto 1/2") == [half, half, Fraction(0)]


def test_a_run_begins_with_min_clients_and_says_who_was_refused() -> None:
    street = Street(AUTO, "barn")
    street.comes("odd", model_rate="3")
    with pytest.raises(UserError) as caught:
        _roster(street, min_clients=2).start(street)
    assert str(caught.value).startswith(
        "fleet: auto begins with min-clients=2, but 1 of the 2 nodes that are connected answered "
        "as one of them; not taken: device odd: model-rate: '3'"
    )
    street.comes("field")
    _roster(street, min_clients=2).start(street)


def test_a_silent_node_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.fleet.roster, "SETTLE", 0.0)
    street = Street(AUTO, "barn", "silent")
    silent = street.node("silent")
    street.there = lambda message: message.metadata.dst_node_id != silent  # type: ignore[method-assign]
    roster = _roster(street, start_timeout=60.0)
    roster.start(street)
    assert _numbers(roster) == {"barn": 0}


def test_a_fourth_joins_one_leaves_and_one_is_misconfigured(tmp_path: Path) -> None:
    street = Street(AUTO.model_copy(update={"rounds": 4}), "barn", "field", "yard")
    street.comes("odd", model_rate="3")
    street.before = {
        2: lambda: street.goes("barn"),
        3: lambda: street.comes("meadow"),
        4: lambda: street.comes("barn"),
    }
    federate(StreamingGrid(street), street.config, tmp_path)
    rows = rows_of(tmp_path)
    assert [row["clients_replied"] for row in rows[1:]] == [3, 2, 3, 4]
    assert [row["fleet_events"] for row in rows[1:]] == [
        *({}, {"0": "left"}, {"3": "joined"}, {"0": "joined"})
    ]
    assert [row["clients_absent"] for row in rows[1:]] == [0, 1, 1, 0]
    assert street.asked(3) == {"field", "yard", "meadow"}
    fleet = json.loads((tmp_path / "fleet.json").read_text())
    assert [row.get("device") for row in fleet] == ["barn", "field", "yard", "meadow", "odd"]
    assert "refused" in fleet[-1]
    state = final_state(street.config, tmp_path)
    assert state.masks.shape[0] == 4
    assert state.masks.any(axis=1).all()


@pytest.mark.parametrize("policy", ["static", "rolling", "random", "covering", "balanced"])
def test_resume_equals_never_having_stopped(tmp_path: Path, policy: str) -> None:
    config = AUTO.model_copy(update={"rounds": 4, "policy": policy, "lr_schedule": "constant"})

    def run(folder: str, config: RunConfig, *names: str, **arrivals: Any) -> None:
        street = Street(config, *names)
        street.before = {
            int(when[1:]): lambda who=who: street.comes(who)  # type: ignore[misc]
            for when, who in arrivals.items()
        }
        federate(StreamingGrid(street), config, tmp_path / folder)

    run("whole", config, "barn", "field", _3="yard")
    run("parts", config.model_copy(update={"rounds": 2}), "barn", "field")
    numbers = (tmp_path / "parts" / "numbers.json").read_text()
    # The checkpoint knows of two clients; the third is there when the server starts again, and
    # the others are met in another order.
    run("parts", config, "field", "barn", _1="yard")
    assert json.loads(numbers) == {"name barn": 0, "name field": 1}
    whole, parts = (final_state(config, tmp_path / folder) for folder in ("whole", "parts"))
    assert whole.theta.tobytes() == parts.theta.tobytes()
    assert whole.masks.tobytes() == parts.masks.tobytes()


def test_too_few_for_a_round_is_no_round(tmp_path: Path) -> None:
    config = AUTO.model_copy(update={"min_clients": 2, "round_retries": 0})
    street = Street(config, "barn", "field")
    street.before = {2: lambda: street.goes("barn")}
    with pytest.raises(NoUsableReplyError, match=r"round 2: none of 0 .* 2 are needed"):
        federate(StreamingGrid(street), config, tmp_path)


def test_a_simulation_is_a_fixed_fleet_of_the_largest_width_bit_for_bit(tmp_path: Path) -> None:
    both = {"rounds": 2, "policy": "random", "local_widths": "own"}
    auto = tiny_with(fleet="auto 1/2", simulation_clients=3, **both)
    fixed = tiny_with(fleet="1/2x3", **both)
    for name, config in (("auto", auto), ("fixed", fixed)):
        federate(LocalGrid(config), config, tmp_path / name)
    ours, theirs = (
        [
            {k: v for k, v in row.items() if k not in ("bytes_down", "by_client")}
            for row in rows_of(tmp_path / name)
        ]
        for name in ("auto", "fixed")
    )
    assert ours == theirs  # a task says the client's number, which takes some bytes
    open_, closed = final_state(auto, tmp_path / "auto"), final_state(fixed, tmp_path / "fixed")
    assert open_.theta.tobytes() == closed.theta.tobytes()
    assert open_.masks.tobytes() == closed.masks.tobytes()


def test_of_a_simulation_everybody_is_waited_for_and_a_fault_ends_it() -> None:
    config = tiny_with(fleet="auto", simulation_clients=3)
    grid = LocalGrid(config)
    roster = Roster(config, layout_of(config.model, 1), SHAPE)
    roster.start(grid)
    assert [client.partition for client in roster.fleet()] == [0, 1, 2]
    next(iter(grid.contexts.values())).node_config["model-rate"] = "7"
    with pytest.raises(UserError, match=r"roll-call: node 23757: model-rate: '7'"):
        Roster(config, layout_of(config.model, 1), SHAPE).start(grid)


def test_a_fixed_fleet_goes_on_without_who_is_misconfigured(tmp_path: Path) -> None:
    config = TINY.model_copy(
        update={
            **{"fleet": "1x2", "rounds": 2, "evaluate_every": 9, "start_timeout": 0.3},
            "min_replies": 1.0,
        }
    )
    street = Street(config)
    street.comes("barn", partition_id=0)
    street.comes("odd", partition_id=1, model_rate="3")
    street.comes("extra", partition_id=2)
    street.comes("own", partition_id=5, data=_images(tmp_path, (1, 8, 8)))
    street.comes("new")
    federate(StreamingGrid(street), config, tmp_path / "enough")
    assert street.asked(1) == street.asked(2) == {"barn"}
    fleet = json.loads((tmp_path / "enough" / "fleet.json").read_text())
    reasons = {row["device"]: row["refused"] for row in fleet if "refused" in row}
    assert reasons["extra"] == "partition-id 2 is not in 0..1"
    assert reasons["own"].startswith("it says partition-id 5, but the fleet names 2 clients")
    assert reasons["new"].startswith("partition-id: missing from the node's configuration")
    # Without min-replies the fleet is incomplete, and the line says whose fault it is.
    whole = config.model_copy(update={"min_replies": 0.0})
    with pytest.raises(UserError) as caught:
        federate(StreamingGrid(street), whole, tmp_path / "too few")
    assert "names 2 clients, but 1 of the 5 nodes" in str(caught.value)
    assert "device odd: model-rate: '3'" in str(caught.value)
    assert "num-supernodes" not in str(caught.value), "these are devices, not a simulation's"
    left = json.loads((tmp_path / "too few" / "fleet.json").read_text())
    assert {row["device"] for row in left if "refused" in row} == {"odd", "extra", "own", "new"}


def test_devices_without_images_share_no_part_of_the_runs(tmp_path: Path) -> None:
    """Their numbers say which part is whose, whatever they are called and whoever else is there."""
    names = [f"device {i}" for i in range(5)]
    changes = {"simulation_clients": 5, "partition": "linear", "start_timeout": 60.0}
    config = AUTO.model_copy(update=changes)
    street = Street(config, *names)
    street.comes("extra")
    roster = _roster(street)
    roster.start(street)
    held = {row["device"]: row["examples"] for row in roster.record() if row.get("present")}
    parts = [
        len(load_partition("digits", "linear", 0.5, 5, part, config.seed)) for part in range(5)
    ]
    assert list(held) == names
    assert list(held.values()) == parts, "each has its own part, and all together everything"
    assert _refused(roster) == {
        "extra": "data: this device brings no images, and all simulation-clients=5 parts of the "
        "run's data set are others'; join with --data, or run with more simulation-clients"
    }


def test_a_device_that_goes_on_saying_that_it_waits_is_refused() -> None:
    street = Street(AUTO.model_copy(update={"start_timeout": 60.0}), "barn")
    street.comes("liar")
    liar, answers = street.node("liar"), street._answers

    def waiting(messages: Iterable[Message]) -> list[Message]:
        replies = answers(messages)
        for reply in replies:
            record = reply.content.config_records.get("spec")
            if reply.metadata.src_node_id == liar and record and "examples" in record:
                record["examples"] = 0
                record.pop("partition-id", None)
        return replies

    street._answers = waiting  # type: ignore[method-assign]
    roster = _roster(street)
    roster.start(street)
    for _ in range(3):
        roster.update(street)
    assert _numbers(roster) == {"barn": 0}
    assert "says that it has no images" in _refused(roster)[""]
    asked = [m for m in street.sent if m.metadata.dst_node_id == liar]
    assert len(asked) == 3, "two questions and the word that it is not taken"


@pytest.mark.parametrize("policy", ["covering", "balanced"])
def test_nobody_moves_within_a_stretch_whoever_joins_or_leaves(tmp_path: Path, policy: str) -> None:
    changes = {"policy": policy, "refresh_every": 4, "rounds": 6, "lr_schedule": "constant"}
    config = AUTO.model_copy(update={**changes, "fleet": "auto 1/2 1/4"})
    names = ("barn", "field", "yard")

    def run(folder: str, rounds: int, before: dict[int, Callable[[Street], Any]]) -> Street:
        street = Street(config.model_copy(update={"rounds": rounds}), *names)
        street.before = {
            round: lambda happens=happens: happens(street)  # type: ignore[misc]
            for round, happens in before.items()
        }
        federate(StreamingGrid(street), street.config, tmp_path / folder)
        return street

    def turbulent(street: Street) -> None:
        street.goes("barn")
        street.comes("meadow", model_rate="1/4")

    whole = run(
        "whole", 6, {2: turbulent, 3: lambda s: s.comes("pond"), 4: lambda s: s.comes("barn")}
    )
    kept = {
        round: {who: wire.unpack_task(m.content, LAYOUT)[2].bitmask for who, m in tasks.items()}
        for round in range(1, 7)
        for tasks in [whole.tasks(round)]
    }
    for round in (2, 3, 4):
        for who, bitmask in kept[round].items():
            first = next(n for n in range(1, 7) if who in kept[n])
            assert bitmask == kept[first][who], f"{who} moved in round {round}"
    assert {*kept[4]} == {*names, "meadow", "pond"}
    moved = [who for who in names if kept[5][who] != kept[4][who]]
    assert moved == [*names], "another stretch has begun"
    # A server that starts again within a stretch knows where everybody was.
    run("parts", 3, {2: turbulent, 3: lambda s: s.comes("pond")})
    later = Street(config, "field", "pond", "yard")
    later.comes("meadow", model_rate="1/4")
    later.before = {1: lambda: later.comes("barn")}
    federate(StreamingGrid(later), config, tmp_path / "parts")
    one, other = (final_state(config, tmp_path / folder) for folder in ("whole", "parts"))
    assert one.masks.tobytes() == other.masks.tobytes()
    assert one.theta.tobytes() == other.theta.tobytes()
