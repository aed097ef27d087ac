"""Ten thousand malformed and hostile replies: none moves the model or stops a round."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from hypothesis import given, settings
from hypothesis import strategies as st

from common import wire
from common.config.run import RunConfig
from common.wire.codecs import CODECS
from common.wire.rollcall import RollCall, pack_roll_call
from server.attempt import Attempt
from server.fleet.roster import Roster
from server.state.advance import initial_state
from server.strategy import CoverageAvg
from tests.layouts import chain_layout

LAYOUT = chain_layout()
THETA = np.random.default_rng(0).standard_normal(LAYOUT.size, dtype=np.float32)
CLIENTS, EXAMPLES, REPLIES = 12, 20, 500

CONFIG = RunConfig(fleet=f"1x1 1/2x{CLIENTS - 1}", round_retries=0)
SHAPE = (1, 8, 8)

Attack = Callable[[RecordDict, np.random.Generator], str]
"""Spoils a reply and returns under which reason it should be counted."""


def _array(content: RecordDict, array: Array) -> None:
    content[wire.WEIGHTS] = ArrayRecord({wire.VALUES: array})


def _data(content: RecordDict) -> Array:
    return content.array_records[wire.WEIGHTS][wire.VALUES]


def _claiming(content: RecordDict, data: bytes, **claims: Any) -> None:
    old = _data(content)
    what = {"dtype": old.dtype, "shape": old.shape, "stype": old.stype, "data": data, **claims}
    _array(content, Array(**what))


def truncated(content: RecordDict, rng: np.random.Generator) -> str:
    data = _data(content).data
    _claiming(content, data[: rng.integers(len(data))])
    return "malformed"


def flipped(content: RecordDict, rng: np.random.Generator) -> str:
    data = bytearray(_data(content).data)
    data[rng.integers(20)] ^= 0xFF  # of the header: other bytes are just another weight
    _claiming(content, bytes(data))
    return "malformed"


def code_in_the_header(content: RecordDict, rng: np.random.Generator) -> str:
    header = rng.choice(["__import__('os').abort()", "(" * 3000, "{'descr': 'O'}", "\n\t\x00"])
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    _claiming(content, data + _data(content).data[128:])
    return "malformed"


def pickled(content: RecordDict, rng: np.random.Generator) -> str:
    _claiming(content, b"cos\nsystem\n(S'false'\ntR.", stype=rng.choice(["pickle", "torch"]))
    return "size"


def bad_values(content: RecordDict, rng: np.random.Generator) -> str:
    data = _data(content)
    values = np.zeros(data.shape, data.dtype)
    if data.dtype == "uint8":  # the first two bytes are a scale, the upper half of a float32
        bad = rng.choice(np.array([np.nan, np.inf, -np.inf, 1e30, 1024.0, -1e-30], np.float32))
        values[:2] = np.array([bad]).view(np.uint8)[2:]
    elif data.dtype == "uint16":
        bad = rng.choice(np.array([np.nan, np.inf, -np.inf, 1e30, -2048.0], np.float32))
        values[rng.integers(values.size)] = np.array([bad]).view(np.uint16)[1]
    else:
        values[rng.integers(values.size)] = rng.choice([np.nan, np.inf, -np.inf, 1e30, -1024.0])
    _array(content, Array(values))
    return "not-finite"


def other_dtype(content: RecordDict, rng: np.random.Generator) -> str:
    dtype = rng.choice(["float64", "float16", "int32", "complex64", "bool"])
    _array(content, Array(np.zeros(_data(content).shape, dtype)))
    return "dtype"


def other_size(content: RecordDict, rng: np.random.Generator) -> str:
    size = _data(content).shape[0] + int(rng.choice([-1, 1, 7, 1000]))
    _array(content, Array(np.zeros(size, _data(content).dtype)))
    return "size"


def other_shape(content: RecordDict, rng: np.random.Generator) -> str:
    _claiming(content, _data(content).data, shape=(2**62, int(rng.integers(9))))
    return "size"


def other_round(content: RecordDict, rng: np.random.Generator) -> str:
    content.config_records[wire.SPEC]["assignment"] = f"{rng.integers(2**32):016x}"
    return "assignment"


def no_record(content: RecordDict, rng: np.random.Generator) -> str:
    name = str(rng.choice([wire.WEIGHTS, wire.SPEC, wire.METRICS]))
    del content[name]
    return "assignment" if name == wire.SPEC else "malformed"


def two_arrays(content: RecordDict, rng: np.random.Generator) -> str:
    content[wire.WEIGHTS] = ArrayRecord({"a": _data(content), wire.VALUES: _data(content)})
    return "malformed"


def bad_metrics(content: RecordDict, rng: np.random.Generator) -> str:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"loss": float("nan"), "images": 3}, "not-finite"),
        ({"loss": [1.0], "images": 3}, "not-finite"),
        ({"images": 3}, "not-finite"),
        ({"loss": 0.1, "images": -3}, "malformed"),
        ({"loss": 0.1, "images": 2**60}, "malformed"),
    ]
    metrics, reason = bad[rng.integers(len(bad))]
    content[wire.METRICS] = MetricRecord(metrics)
    return reason


def greedy(content: RecordDict, rng: np.random.Generator) -> str:
    content.config_records[wire.SPEC]["can-hold"] = int(rng.choice([-1, 4, 99]))
    return "malformed"


ATTACKS: list[Attack] = [
    *(truncated, flipped, code_in_the_header, pickled, bad_values, other_dtype, other_size),
    *(other_shape, other_round, no_record, two_arrays, bad_metrics, greedy),
]


class OneRound(Grid):
    """Everybody answers the roll-call; tasks are kept, with an honest reply to each."""

    def __init__(self) -> None:
        self.waiting: list[Message] = []
        self.tasks: list[Message] = []
        self.numbers = 0

    def get_node_ids(self) -> Iterable[int]:
        return range(1, CLIENTS + 1)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        for message in messages:
            self.numbers += 1
            message.metadata.__dict__["_message_id"] = str(self.numbers)
            asks = message.metadata.message_type == "query"
            (self.waiting if asks else self.tasks).append(message)
            yield str(self.numbers)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for message in [self.waiting.pop(0) for _ in range(len(self.waiting))]:
            answer = RollCall(message.metadata.dst_node_id - 1, 10, SHAPE)
            yield Message(pack_roll_call(answer), reply_to=message)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        raise NotImplementedError

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError


def _honest(task: Message) -> RecordDict:
    values, _, spec = wire.unpack_task(task.content, LAYOUT)
    codec = CODECS[spec.codec]
    carried = np.full_like(values, 0.5) + (0 if codec.update else values)
    return wire.pack_reply(codec.reply.encode(carried), spec, {"loss": 1.0, "images": 5})


def _copy(content: RecordDict) -> RecordDict:
    """Return records that an attack may change."""
    return RecordDict(
        {
            wire.WEIGHTS: content[wire.WEIGHTS],
            wire.SPEC: ConfigRecord(dict(content.config_records[wire.SPEC])),
            wire.METRICS: content[wire.METRICS],
        }
    )


def _hostile(
    tasks: list[Message], honest: list[RecordDict], rng: np.random.Generator, totals: Counter[str]
) -> Iterator[Message]:
    """Yield hostile replies to one task after another, and note what each should count as."""
    while totals.total() < REPLIES:
        which = int(rng.integers(1, len(tasks)))
        task, attack, whim = tasks[which], ATTACKS[rng.integers(len(ATTACKS))], rng.random()
        content = _copy(honest[which])
        reasons = attack(content, rng)
        reply = Message(content, reply_to=task)
        if whim < 0.05:
            reply, reasons = Message(Error(1, "x" * 5000), reply_to=task), "error"
        elif whim < 0.1:  # one that pretends to be another node is not even looked at
            reply.metadata.__dict__["_src_node_id"] = 999
            reasons = "unasked"
        elif whim < 0.15:
            reply.metadata.__dict__["_reply_to_message_id"] = "no-such-task"
            reasons = "unasked"
        totals[reasons] += 1
        yield reply


def _after(
    replies: Callable[[list[Message], Attempt], Iterator[Message]], codec: str = "float32"
) -> CoverageAvg:
    """Return the strategy after a round in which these replies come."""
    config = CONFIG.model_copy(update={"codec": codec})
    grid, roster = OneRound(), Roster(config, LAYOUT, SHAPE)
    roster.start(grid)
    state = initial_state(LAYOUT, THETA, config)
    strategy = CoverageAvg(config, LAYOUT, roster, state)
    list(grid.push_messages(strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid)))
    assert strategy._attempt is not None
    strategy.aggregate_train(1, replies(grid.tasks, strategy._attempt))
    return strategy


def _only_the_first(tasks: list[Message], _: Attempt) -> Iterator[Message]:
    yield Message(_honest(tasks[0]), reply_to=tasks[0])


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_no_hostile_reply_moves_the_model_and_each_is_counted(seed: int) -> None:
    _attack("float32", seed)


@pytest.mark.parametrize("codec", ["bfloat16", "int8", "int4"])
@settings(max_examples=2, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_nor_does_one_in_another_codec(codec: str, seed: int) -> None:
    _attack(codec, seed)


def _attack(codec: str, seed: int) -> None:
    expected = Counter[str]()

    def replies(tasks: list[Message], attempt: Attempt) -> Iterator[Message]:
        honest = [_honest(task) for task in tasks]
        attempt.tasks._enter_by_number()
        still_open = dict(attempt.tasks._open)
        for reply in _hostile(tasks, honest, np.random.default_rng(seed), expected):
            yield reply
            # The next one shall find its task as this one did.
            attempt.tasks._open.update(still_open)
        yield from _only_the_first(tasks, attempt)

    strategy = _after(replies, codec)
    assert strategy.state.theta.tobytes() == _after(_only_the_first, codec).state.theta.tobytes()
    assert strategy.report.replied == 1
    counted = sum(strategy.report.rejections.values(), Counter[str]())
    assert counted.pop("no reply") == CLIENTS - 1
    assert counted == expected


def test_a_second_answer_is_not_asked_for() -> None:
    def twice(tasks: list[Message], attempt: Attempt) -> Iterator[Message]:
        yield from _only_the_first(tasks, attempt)
        yield from _only_the_first(tasks, attempt)

    strategy = _after(twice)
    assert strategy.report.rejections[0] == {"unasked": 1}
    assert strategy.state.theta.tobytes() == _after(_only_the_first).state.theta.tobytes()
