"""StreamingGrid: replies come as they arrive, payloads go as they are used, deadlines hold."""

import gc
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from server.grid import LONGEST_PAUSE, PAUSE, SHORTEST_PAUSE, StreamingGrid
from tests.federations import TINY
from tests.local_grid import LocalGrid

START = 100.0


class FakeGrid(Grid):
    """Answers each message some seconds after its push, on a clock that only sleep moves."""

    def __init__(self, delays: dict[int, float], twice: bool = False, refuse: int = 0) -> None:
        self.delays = delays
        self.twice = twice
        self.refuse = refuse
        self.now = START
        self.pauses: list[float] = []
        self.pushed: list[int] = []
        self.asked: list[list[str]] = []
        self._due: dict[str, tuple[float, Message]] = {}

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids: list[Any] = []
        for message in messages:
            node = message.metadata.dst_node_id
            self.pushed.append(node)
            if node == self.refuse:
                ids.append(None)  # as the networked grid does
                continue
            message.metadata.__dict__["_message_id"] = f"to-{node}"
            content = RecordDict({"c": ConfigRecord({"node": node})})
            reply: Any = Error(code=1, reason="broke") if node < 0 else content
            self._due[f"to-{node}"] = (
                self.now + self.delays[node],
                Message(reply, reply_to=message),
            )
            ids.append(f"to-{node}")
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.asked.append(list(message_ids))
        if self.twice:  # as a network might: everything that is due, asked for or not, every time
            return [reply for due, reply in self._due.values() if due <= self.now]
        ready = [each for each in self.asked[-1] if each in self._due]
        return [self._due.pop(each)[1] for each in ready if self._due[each][0] <= self.now]

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.delays)

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError


def _message(node: int) -> Message:
    return Message(RecordDict(), node, "train", group_id="1")


def _streaming(fake: FakeGrid, held: int = 4) -> StreamingGrid:
    return StreamingGrid(fake, held=held, clock=lambda: fake.now, sleep=fake.sleep)


def _nodes(replies: Iterable[Message]) -> list[int]:
    return [reply.metadata.src_node_id for reply in replies]


def test_replies_come_in_order_of_arrival() -> None:
    fake = FakeGrid({1: 3.0, 2: 1.0, 3: 2.0})
    assert _nodes(_streaming(fake).send_and_receive(map(_message, (1, 2, 3)))) == [2, 3, 1]


def test_first_reply_is_yielded_before_the_others_exist() -> None:
    fake = FakeGrid({1: 1.0, 2: 1000.0})
    replies = iter(_streaming(fake).send_and_receive(map(_message, (1, 2))))
    next(replies)
    assert fake.now < START + 2.0


def test_messages_are_pushed_even_if_nobody_iterates() -> None:
    fake = FakeGrid({1: 1.0, 2: 1.0})
    _streaming(fake).send_and_receive(map(_message, (1, 2)))
    assert fake.pushed == [1, 2]


def test_a_single_message_is_alive_while_pushing() -> None:
    fake = FakeGrid(dict.fromkeys(range(1, 9), 1.0))
    # The reply's metadata is a copy, so nothing but the pushing code can hold a message.
    alive: weakref.WeakSet[Message] = weakref.WeakSet()
    peaks = []

    def messages() -> Iterator[Message]:
        for node in fake.delays:
            gc.collect()
            peaks.append(len(alive))
            message = _message(node)
            alive.add(message)
            yield message
            del message

    _streaming(fake).send_and_receive(messages())
    assert peaks == [0] * 8


@pytest.mark.parametrize("held", [1, 3])
def test_no_more_replies_are_held_than_allowed(held: int) -> None:
    fake = FakeGrid(dict.fromkeys(range(1, 9), 0.0))
    alive: weakref.WeakSet[Message] = weakref.WeakSet()
    pull = fake.pull_messages
    peak = 0

    def watched(message_ids: Iterable[str]) -> Iterable[Message]:
        nonlocal peak
        replies = list(pull(message_ids))
        alive.update(replies)
        peak = max(peak, len(alive))
        return replies

    fake.pull_messages = watched  # type: ignore[method-assign]
    count = 0
    for reply in _streaming(fake, held).send_and_receive(map(_message, fake.delays)):
        count += 1
        del reply
    assert count == 8
    assert peak == held


def test_deadline_ends_the_iteration_without_the_late() -> None:
    fake = FakeGrid({1: 1.0, 2: 10.0})
    assert _nodes(_streaming(fake).send_and_receive(map(_message, (1, 2)), timeout=5.0)) == [1]
    assert fake.now == pytest.approx(START + 5.0)


def test_a_reply_that_is_there_at_the_deadline_counts() -> None:
    fake = FakeGrid({1: 5.0})
    assert _nodes(_streaming(fake).send_and_receive([_message(1)], timeout=5.0)) == [1]


def test_deadline_runs_from_the_call_not_from_the_first_look() -> None:
    fake = FakeGrid({1: 8.0})
    replies = _streaming(fake).send_and_receive([_message(1)], timeout=5.0)
    fake.now += 6.0
    assert _nodes(replies) == []


def test_polling_slows_down_while_nothing_comes_and_starts_over_on_arrival() -> None:
    fake = FakeGrid({1: 3.0, 2: 3.5})
    replies = iter(_streaming(fake).send_and_receive(map(_message, (1, 2))))
    next(replies)
    waiting = list(fake.pauses)
    assert waiting[0] == SHORTEST_PAUSE
    assert waiting == sorted(waiting)
    assert waiting[-1] == LONGEST_PAUSE
    next(replies)
    assert fake.pauses[len(waiting)] == SHORTEST_PAUSE


@pytest.mark.parametrize("delay", [0.001, 0.02, 0.1, 0.33, 1.0, 7.7])
def test_a_reply_is_seen_soon_for_the_time_it_took_with_few_looks(delay: float) -> None:
    fake = FakeGrid({1: delay})
    assert _nodes(_streaming(fake).send_and_receive([_message(1)])) == [1]
    late = fake.now - START - delay
    assert late <= min(max(PAUSE * delay, SHORTEST_PAUSE), LONGEST_PAUSE)
    assert len(fake.asked) <= 40 + 4 * delay


def test_error_replies_are_passed_on() -> None:
    fake = FakeGrid({1: 0.0, -2: 0.0})
    errors = [
        each.has_error() for each in _streaming(fake).send_and_receive(map(_message, (1, -2)))
    ]
    assert errors == [False, True]


def test_no_reply_is_yielded_twice() -> None:
    fake = FakeGrid({1: 0.0, 2: 1.0, 3: 2.0}, twice=True)
    assert _nodes(_streaming(fake, 1).send_and_receive(map(_message, (1, 2, 3)))) == [1, 2, 3]


def test_a_refused_message_is_not_waited_for() -> None:
    fake = FakeGrid({1: 0.0, 2: 0.0}, refuse=2)
    assert _nodes(_streaming(fake).send_and_receive(map(_message, (1, 2)))) == [1]
    assert all("to-2" not in asked for asked in fake.asked)


def test_nothing_sent_asks_nothing() -> None:
    fake = FakeGrid({})
    assert list(_streaming(fake).send_and_receive([])) == []
    assert fake.asked == []


def test_other_methods_are_those_of_the_wrapped_grid() -> None:
    fake = FakeGrid({4: 0.0, 5: 0.0})
    grid = _streaming(fake)
    assert grid.get_node_ids() == [4, 5]
    assert [info.node_id for info in grid.get_nodes()] == [4, 5]
    assert list(grid.push_messages([_message(4)])) == ["to-4"]
    assert _nodes(grid.pull_messages(["to-4"])) == [4]


def test_the_grid_of_other_tests_streams_too_and_keeps_to_its_order() -> None:
    config = TINY.model_copy(update={"fleet": "1/4x6"})
    events: list[str] = []

    def note(partition: int, reply: Message) -> Message | None:
        events.append(f"trained {partition}")
        return None if partition == 3 else reply

    grid = LocalGrid(config, order=lambda partition: -partition, mishap=note)

    def tasks() -> Iterator[Message]:
        for node, partition in grid.nodes.items():
            yield Message(
                RecordDict(), node, "train"
            )  # an empty task, which they answer with errors
            events.append(f"sent {partition}")

    for reply in grid.send_and_receive(tasks(), timeout=3600.0):
        events.append(f"received {grid.nodes[reply.metadata.src_node_id]}")
    assert events == [
        *(f"sent {partition}" for partition in range(6)),
        *("trained 5", "trained 4", "received 5", "received 4"),
        *("trained 3", "trained 2", "received 2"),
        *("trained 1", "trained 0", "received 1", "received 0"),
    ]
    assert grid.now > 3600  # one reply was waited for until the deadline
