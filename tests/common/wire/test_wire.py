import struct
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from common import wire
from common.config.run import RunConfig
from common.network.unet import layout_of
from common.submodels import CompactSubmodel, Submodel, extract, full_submodel
from common.wire.codecs import CODECS
from common.wire.records import WireError
from tests.layouts import chain_layout, submodels

LAYOUT = chain_layout()
THETA = np.random.default_rng(0).standard_normal(LAYOUT.size, dtype=np.float32)
FULL = full_submodel(LAYOUT)
SPEC = wire.spec_for(FULL, 3, "static", "float32")
METRICS = {"loss": 0.5, "images": 64}
INT8_LENGTH = CODECS["int8"].reply.length(LAYOUT.size)


BOUNDS = {"float32": (0, 0), "float16": (2**-11, 1e-7), "bfloat16": (2**-8, 0)}
"""How far a decoded value may be off, relatively and absolutely; integers go by their block."""


@given(submodels(LAYOUT), st.sampled_from(list(CODECS)))
def test_a_task_and_its_reply_arrive_as_they_were_sent(submodel: Submodel, codec: str) -> None:
    values = extract(THETA, submodel)
    largest = float(np.abs(values).max())
    spec = wire.spec_for(submodel, 3, "balanced", codec)
    got, got_submodel, got_spec = wire.unpack_task(wire.pack_task(values, spec), LAYOUT)
    assert got_spec == spec
    assert got_submodel.bitmask() == submodel.bitmask()
    rtol, atol = BOUNDS.get(codec, (0, largest / 250))
    np.testing.assert_allclose(got, values, rtol=rtol, atol=atol)
    rtol, atol = BOUNDS.get(codec, (0, largest / (250 if codec == "int8" else 13)))
    array = CODECS[codec].reply.encode(values)
    reply = wire.unpack_reply(wire.pack_reply(array, spec, METRICS), spec, submodel)
    np.testing.assert_allclose(reply.values, values, rtol=rtol, atol=atol)
    assert {"loss": reply.loss, "images": reply.images} == METRICS


@given(submodels(LAYOUT))
def test_updates_are_added_to_the_servers_own_weights(submodel: Submodel) -> None:
    update = np.full(submodel.size, 0.5, np.float32)
    reply = wire.Reply(values=update, loss=0.1, images=5)
    for codec, expected in (
        ("float32", update),
        ("float16", extract(THETA, submodel) + update),
        ("int8", extract(THETA, submodel) + update),
    ):
        spec = wire.spec_for(submodel, 3, "balanced", codec)
        got = wire.trained(reply, spec, submodel, THETA)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("codec", "down", "up"),
    [
        ("float32", 4.0, 4.0),
        ("float16", 2.0, 2.0),
        ("bfloat16", 2.0, 2.0),
        ("int8", 1.016, 1.016),
        ("int4", 1.016, 0.516),
    ],
)
def test_a_whole_message_is_within_a_hundredth_of_its_values(
    codec: str, down: float, up: float
) -> None:
    """With the spec, the array's header and the metrics, for half of the default model."""
    layout = layout_of(RunConfig().model, 1)
    submodel = CompactSubmodel.from_positions(layout, 2, dict.fromkeys(layout.axes, np.arange(2)))
    assert submodel.size > 100_000
    values = np.ones(submodel.size, np.float32)
    spec = wire.spec_for(submodel, 1, "static", codec)
    task = wire.payload_bytes(wire.pack_task(values, spec))
    array = CODECS[codec].reply.encode(values)
    reply = wire.payload_bytes(wire.pack_reply(array, spec, METRICS))
    for sent, bytes_a_value in ((task, down), (reply, up)):
        assert 0.999 < sent / submodel.size / bytes_a_value < 1.01


def test_a_message_carries_one_array_of_four_bytes_a_kept_value() -> None:
    content = wire.pack_task(THETA, SPEC)
    assert [len(record) for record in content.array_records.values()] == [1]
    data = content.array_records["weights"]["values"].data
    assert len(data) == 128 + 4 * LAYOUT.size
    assert data[128:] == THETA.tobytes()
    spec_bytes = content.config_records["spec"].count_bytes()
    assert wire.payload_bytes(content) == len(data) + len("values") + spec_bytes


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
    with pytest.raises(WireError, match=message):
        wire.unpack_reply(_reply(array), SPEC, FULL)


@pytest.mark.parametrize(
    ("array", "reason", "message"),
    [
        (np.zeros(INT8_LENGTH - 1, np.uint8), "size", "expected .* values of uint8"),
        (np.zeros(INT8_LENGTH + 1, np.uint8), "size", "expected .* values of uint8"),
        (np.zeros(LAYOUT.size, np.uint8), "size", "expected .* values of uint8"),
        (np.zeros(INT8_LENGTH, np.int8), "dtype", "expected .* values of uint8"),
        (THETA, "dtype", "expected .* values of uint8"),
        (np.full(INT8_LENGTH, 0x7F, np.uint8), "not-finite", "a block's scale"),
    ],
)
def test_integers_that_are_not_what_was_asked_for_are_refused(
    array: np.ndarray, reason: str, message: str
) -> None:
    spec = wire.spec_for(FULL, 3, "static", "int8")
    with pytest.raises(WireError, match=message) as caught:
        wire.unpack_reply(wire.pack_reply(array, spec, METRICS), spec, FULL)
    assert caught.value.reason == reason


def test_a_task_in_a_codec_that_nobody_knows_is_refused() -> None:
    content = wire.pack_task(THETA, SPEC)
    record = content.config_records["spec"]
    record["codec"] = "int2"
    record["assignment"] = replace(SPEC, codec="int2").assignment
    with pytest.raises(WireError, match="codec 'int2' is not one of float32, float16, bfl"):
        wire.unpack_task(content, LAYOUT)


def test_a_reply_to_another_round_or_without_its_records_is_refused() -> None:
    later = wire.spec_for(FULL, 4, "static", "float32")
    with pytest.raises(WireError, match="does not answer"):
        wire.unpack_reply(wire.pack_reply(THETA, SPEC, METRICS), later, FULL)
    for missing in ("spec", "weights", "metrics"):
        content = wire.pack_reply(THETA, SPEC, METRICS)
        del content[missing]
        with pytest.raises(WireError):
            wire.unpack_reply(content, SPEC, FULL)
    content = wire.pack_reply(THETA, SPEC, METRICS)
    content["weights"] = ArrayRecord({"values": Array(THETA), "more": Array(THETA)})
    with pytest.raises(WireError, match="exactly one array"):
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
    with pytest.raises(WireError, match=message):
        wire.unpack_task(content, LAYOUT)


def test_kept_channels_that_are_no_submodel_are_refused() -> None:
    for change, message in (
        ({"bitmask": b"\xff"}, "bytes of kept channels"),
        ({"k": 2}, "every atom must keep"),
    ):
        content = wire.pack_task(THETA, replace(SPEC, **change))
        with pytest.raises(WireError, match=message):
            wire.unpack_task(content, LAYOUT)


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
    with pytest.raises(WireError, match=f"metrics.{key}") as caught:
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
        with pytest.raises(WireError, match="can-hold"):
            wire.unpack_reply(wire.pack_too_large(k, SPEC), SPEC, FULL)


def test_a_configuration_may_name_every_codec_and_no_other() -> None:
    assert set(get_args(RunConfig.model_fields["codec"].annotation)) == set(CODECS)
