import numpy as np
import pytest
from flwr.app import Array
from numpy.typing import NDArray

from common.config.run import RunConfig
from common.submodels import CompactSubmodel, Submodel, extract, pruning_error
from common.wire.codecs import CODECS
from common.wire.messages import SPEC, VALUES, WEIGHTS, pack_task, spec_for
from common.wire.records import pack_array
from server.fleet.tasks import Packer
from tests.layouts import chain_layout

LAYOUT = chain_layout()
THETA = np.random.default_rng(0).standard_normal(LAYOUT.size, dtype=np.float32)


def _at(*positions: int) -> Submodel:
    kept = {name: np.array(positions) for name in LAYOUT.axes}
    return CompactSubmodel.from_positions(LAYOUT, len(positions), kept)


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_packed_is_the_task_that_was_asked_for(codec: str) -> None:
    packer = Packer(THETA, RunConfig(codec=codec), 3)
    for submodel in (_at(0, 2), _at(0, 2), _at(1, 2), _at(0, 2), _at(3)):
        spec, content, error = packer.pack(submodel)
        assert spec == spec_for(submodel, 3, "static", codec)
        values = extract(THETA, submodel)
        expected = pack_task(values, spec)
        assert content[SPEC] == expected[SPEC]
        assert content[WEIGHTS] == expected[WEIGHTS]
        assert error == pruning_error(THETA, values)


def test_neighbours_share_what_they_are_sent_but_not_the_record() -> None:
    packer = Packer(THETA, RunConfig(), 1)
    first, again = (packer.pack(_at(0, 2)).content for _ in range(2))
    other = packer.pack(_at(1, 2)).content
    assert first is not again
    assert first[WEIGHTS] is again[WEIGHTS]
    assert first[WEIGHTS] != other[WEIGHTS]
    del first[WEIGHTS]
    assert VALUES in again.array_records[WEIGHTS]


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int8, np.uint8, np.uint16])
@pytest.mark.parametrize("step", [1, 2])
def test_arrays_are_packed_to_the_bytes_that_flower_makes_of_them(kind: type, step: int) -> None:
    values: NDArray = np.arange(100).astype(kind)[::step]
    assert pack_array(values) == Array(values)
