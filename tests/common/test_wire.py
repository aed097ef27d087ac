import struct

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from common import wire
from common.submodel import Submodel, extract, full_submodel
from tests.layouts import chain_layout, submodels

LAYOUT = chain_layout()
THETA = np.random.default_rng(0).standard_normal(LAYOUT.size, dtype=np.float32)
FULL = full_submodel(LAYOUT)
SPEC = wire.spec_for(FULL, 3, "static", "float32")
METRICS = {"loss": 0.5, "images": 64}


@given(submodels(LAYOUT), st.sampled_from(["float32", "float16", "bfloat16"]))
def test_a_task_and_its_reply_arrive_as_they_were_sent(submodel: Submodel, codec: str) -> None:
    values = extract(THETA, submodel)
    spec = wire.spec_for(submodel, 3, "balanced", codec)
    got, got_submodel, got_spec = wire.unpack_task(wire.pack_task(values, spec), LAYOUT)
    assert got_spec == spec
    assert got_submodel.bitmask() == submodel.bitmask()
    tolerance = {"float32": 0.0, "float16": 2**-11, "bfloat16": 2**-8}[codec]
    np.testing.assert_allclose(got, values, rtol=tolerance, atol=1e-7 if tolerance else 0)
    reply = wire.unpack_reply(wire.pack_reply(values, spec, METRICS), spec, submodel)
    np.testing.assert_array_equal(reply.values, got)
    assert {"loss": reply.loss, "images": reply.images} == METRICS


def test_a_message_carries_one_array_of_four_bytes_a_kept_value() -> None:
    content = wire.pack_task(THETA, SPEC)
    assert [len(record) for record in content.array_records.values()] == [1]
    data = content.array_records["weights"]["values"].data
    assert len(data) == 128 + 4 * LAYOUT.size
    assert data[128:] == THETA.tobytes()
    spec_bytes = content.config_records["spec"].count_bytes()
    assert wire.payload_bytes(content) == len(data) + len("values") + spec_bytes


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_bfloat16_rounds_as_torch_does(values: list[float]) -> None:
    array = np.array(values, np.float32)
    got = wire.decode(wire.encode(array, "bfloat16"), "bfloat16")
    expected = torch.from_numpy(array).bfloat16().float().numpy()
    np.testing.assert_array_equal(got, expected)


def _reply(array: Array, **spec: object) -> RecordDict:
    content = wire.pack_reply(THETA, SPEC, METRICS)
    content["weights"] = ArrayRecord({"values": array})
    if spec:
        content["spec"] = ConfigRecord({**content.config_records["spec"], **spec})  # type: ignore[dict-item]
    return content


def _claim(data: bytes, shape: tuple[int, ...] = (LAYOUT.size,), dtype: str = "float32") -> Array:
    return Array(dtype, shape, "numpy.ndarray", data)


GOOD = Array(THETA).data
HUGE_HEADER = Array(np.zeros(1, np.float32)).data.replace(b"(1,)", b"(9,)")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (Array(THETA[:-1]), "expected"),
        (Array(THETA.astype(np.float64)), "expected"),
        (_claim(GOOD[:-4]), "the data hold"),
        (_claim(GOOD + b"\0" * 4), "the data hold"),
        (_claim(GOOD[:40]), "not NumPy's format"),
        (_claim(b""), "not NumPy's format"),
        (_claim(b"\x93NUMPY\x01\x00" + struct.pack("<H", 4) + b"junk"), "not NumPy's format"),
        (_claim(HUGE_HEADER), "the data hold"),
        (_claim(Array(THETA.astype(">f4")).data), "the data hold"),
        (_claim(GOOD, shape=(10**12,)), "expected"),
        (_claim(GOOD, dtype="object"), "expected"),
        (Array("float32", (LAYOUT.size,), "pickle", GOOD), "expected"),
    ],
)
def test_arrays_that_are_not_what_was_asked_for_are_refused(array: Array, message: str) -> None:
    with pytest.raises(wire.WireError, match=message):
        wire.unpack_reply(_reply(array), SPEC, FULL)


def test_a_reply_to_another_round_or_without_its_records_is_refused() -> None:
    later = wire.spec_for(FULL, 4, "static", "float32")
    with pytest.raises(wire.WireError, match="does not answer"):
        wire.unpack_reply(wire.pack_reply(THETA, SPEC, METRICS), later, FULL)
    for missing in ("spec", "weights", "metrics"):
        content = wire.pack_reply(THETA, SPEC, METRICS)
        del content[missing]
        with pytest.raises(wire.WireError):
            wire.unpack_reply(content, SPEC, FULL)
    content = wire.pack_reply(THETA, SPEC, METRICS)
    content["weights"] = ArrayRecord({"values": Array(THETA), "more": Array(THETA)})
    with pytest.raises(wire.WireError, match="exactly one array"):
        wire.unpack_reply(content, SPEC, FULL)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("layout", "000000000000", "layout is 000000000000"),
        ("round", "3", "'round' is missing or not int"),
        ("round", 4, "does not match its assignment"),
        ("kept", b"\xff", "does not match its assignment"),
        ("codec", "pickle", "does not match its assignment"),
    ],
)
def test_a_tampered_task_is_refused(key: str, value: object, message: str) -> None:
    content = wire.pack_task(THETA, SPEC)
    content.config_records["spec"][key] = value  # type: ignore[assignment]
    with pytest.raises(wire.WireError, match=message):
        wire.unpack_task(content, LAYOUT)


def test_kept_channels_that_are_no_submodel_are_refused() -> None:
    with pytest.raises(wire.WireError, match="bytes of kept channels"):
        wire.submodel_from_bitmask(LAYOUT, 4, b"\xff")
    with pytest.raises(wire.WireError, match="every atom must keep"):
        wire.submodel_from_bitmask(LAYOUT, 2, FULL.bitmask())


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("loss", float("nan"), "not-finite"),
        ("loss", [0.5], "not-finite"),
        ("images", 0, "malformed"),
        ("images", 2**40, "malformed"),
        ("images", 1.5, "malformed"),
    ],
)
def test_metrics_out_of_bounds_are_refused(key: str, value: object, reason: str) -> None:
    content = wire.pack_reply(THETA, SPEC, METRICS)
    content.metric_records["metrics"][key] = value  # type: ignore[assignment]
    with pytest.raises(wire.WireError, match=f"metrics.{key}") as caught:
        wire.unpack_reply(content, SPEC, FULL)
    assert caught.value.reason == reason


@pytest.mark.parametrize("claim", [-1.0, float("inf"), float("nan"), 3, [1.0]])
def test_a_claim_of_seconds_that_makes_no_sense_counts_as_none(claim: object) -> None:
    content = wire.pack_reply(THETA, SPEC, METRICS | {"seconds": 2.5})
    assert wire.unpack_reply(content, SPEC, FULL).seconds == 2.5
    content.metric_records["metrics"]["seconds"] = claim  # type: ignore[assignment]
    assert wire.unpack_reply(content, SPEC, FULL).seconds == 0


def test_a_client_without_enough_memory_says_what_it_can_hold() -> None:
    with pytest.raises(wire.TooLargeError) as caught:
        wire.unpack_reply(wire.pack_too_large(FULL.k - 1, SPEC), SPEC, FULL)
    assert caught.value.k == FULL.k - 1
    for k in (-1, FULL.k):
        with pytest.raises(wire.WireError, match="can-hold"):
            wire.unpack_reply(wire.pack_too_large(k, SPEC), SPEC, FULL)
