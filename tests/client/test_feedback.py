"""What a client keeps of its updates, and when it lets go of it."""

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from numpy.typing import NDArray

from client.feedback import RESIDUAL, encoded
from common.submodels import CompactSubmodel
from common.wire.codecs import CODECS
from common.wire.messages import VALUES, TaskSpec, spec_for
from tests.layouts import chain_layout

LAYOUT = chain_layout()
SIZE = CompactSubmodel.from_positions(LAYOUT, 2, dict.fromkeys(LAYOUT.axes, np.arange(2))).size
RECEIVED = np.ones(SIZE, np.float32)
TRAINED = np.random.default_rng(0).standard_normal(SIZE, dtype=np.float32)
UPDATE = TRAINED - RECEIVED


def _spec(round: int, positions: tuple[int, int] = (0, 1), codec: str = "int4") -> TaskSpec:
    kept = dict.fromkeys(LAYOUT.axes, np.array(positions))
    return spec_for(CompactSubmodel.from_positions(LAYOUT, 2, kept), round, "static", codec)


def _node(run: int = 1, state: RecordDict | None = None) -> Context:
    return Context(run, 1, {}, RecordDict() if state is None else state, {})


def _kept(node: Context) -> NDArray[np.float32]:
    return node.state.array_records[RESIDUAL][VALUES].numpy()


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_what_was_dropped_is_added_next_time(codec: str) -> None:
    node, encoding = _node(), CODECS[codec].reply
    first = encoded(RECEIVED, TRAINED, _spec(1, codec=codec), node)
    np.testing.assert_array_equal(first, encoding.encode(UPDATE))
    dropped = UPDATE - encoding.decode(first, SIZE)
    np.testing.assert_array_equal(_kept(node), dropped)
    second = encoded(RECEIVED, TRAINED, _spec(2, codec=codec), node)
    np.testing.assert_array_equal(second, encoding.encode(UPDATE + dropped))
    assert second.tobytes() != first.tobytes()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (_spec(1), _spec(2, (0, 3))),  # has moved
        (_spec(4), _spec(5)),  # another stretch
        (_spec(1), _spec(1)),  # the round is tried again
        (_spec(6), _spec(5)),  # an earlier checkpoint's run goes on
    ],
)
def test_else_it_starts_with_nothing(before: TaskSpec, after: TaskSpec) -> None:
    node = _node()
    first = encoded(RECEIVED, TRAINED, before, node)
    assert _kept(node).any()
    second = encoded(RECEIVED, TRAINED, after, node)
    assert second.tobytes() == first.tobytes()
    assert node.state.config_records[f"{RESIDUAL}-of"]["round"] == after.round


@pytest.mark.parametrize("codec", ["float32", "float16", "bfloat16"])
def test_other_codecs_keep_nothing(codec: str) -> None:
    node = _node()
    array = encoded(RECEIVED, TRAINED, _spec(1, codec=codec), node)
    sent = TRAINED if codec == "float32" else UPDATE
    np.testing.assert_array_equal(array, CODECS[codec].reply.encode(sent))
    assert not node.state


def test_what_was_kept_of_another_run_is_not_used() -> None:
    node = _node(1)
    first = encoded(RECEIVED, TRAINED, _spec(1), node)
    other = _node(2, node.state)
    second = encoded(RECEIVED, TRAINED, _spec(2), other)
    assert second.tobytes() == first.tobytes()
