"""The roll-call's messages: what is sent arrives, and claims are bounded."""

from dataclasses import replace
from fractions import Fraction

import pytest
from flwr.app import ConfigRecord, RecordDict

from common.wire.messages import SPEC
from common.wire.records import WireError
from common.wire.rollcall import (
    RollCall,
    name_classes,
    named_classes,
    pack_question,
    pack_roll_call,
    unpack_question,
)
from common.wire.rollcall import unpack_roll_call as unpack

ANSWER = RollCall(4, 180, (3, 8, 8), "Käfer 4", 2, Fraction(1, 2), 2**33, ((Fraction(1, 4), 0.01),))
NAMED = replace(ANSWER, classes=("Käfer", "2021"))


def test_the_roll_call_arrives_as_it_was_sent() -> None:
    assert unpack(pack_roll_call(ANSWER)) == ANSWER
    assert unpack(pack_roll_call(NAMED)) == NAMED
    assert unpack_question(pack_question(True))
    assert not unpack_question(pack_question(False))
    assert not unpack_question(RecordDict())


def test_what_the_run_calls_its_classes_arrives_in_its_order() -> None:
    content = RecordDict()
    name_classes(content, ())
    assert named_classes(content) == ()
    name_classes(content, ("b", "a"))
    assert named_classes(content) == ("b", "a")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("partitions", None, "'partitions' is missing"),
        ("partition-id", -1, "'partition-id' is -1"),
        ("examples", 0, "has no images"),
        ("examples", 2**50, "'examples' is"),
        ("image-shape", "1x8x8", "'image-shape' is missing or not list"),
        ("device-name", "x" * 65, "at most 64 printable"),
        ("device-name", "a\nb", "at most 64 printable"),
        ("rate", "1e400000000", "written as a fraction"),
        ("rate", "3/2", "not 3/2"),
        ("step-seconds", [float("nan")], "positive number of seconds"),
        ("step-seconds", [0.1, 0.2], "do not belong together"),
        ("classes", None, "'classes' is missing"),
        ("classes", ["a", "a"], "at most 1000 different names"),
        ("classes", [str(n) for n in range(1001)], "at most 1000 different names"),
        ("classes", ["a\nb"], "1 to 255 printable"),
        ("classes", ["x" * 256], "1 to 255 printable"),
        ("classes", [3], "1 to 255 printable"),
        ("step-rates", ["x"], "written as a fraction"),
    ],
)
def test_claims_out_of_bounds_are_refused(key: str, value: object, message: str) -> None:
    content = pack_roll_call(ANSWER)
    record = dict(content.config_records[SPEC])
    record.pop(key)
    if value is not None:
        record[key] = value  # type: ignore[assignment]
    with pytest.raises(WireError, match=message):
        unpack(RecordDict({SPEC: ConfigRecord(record)}))
