"""The roll-call: what the server asks a client that it meets, and what the client says of itself.

Everything here is a claim. The server bounds it, and uses it only where a wrong claim harms nobody
but the client that makes it, with one exception: the number of images, its weight in the average,
which is why nodes should authenticate themselves.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from flwr.app import ConfigRecord, RecordDict

from common.wire.messages import SPEC
from common.wire.records import WireError, field_of

MOST_EXAMPLES = 2**40
LONGEST_NAME = 64

StepSeconds = tuple[tuple[Fraction, float], ...]
"""Measured seconds of a local step by model rate."""


@dataclass(frozen=True)
class RollCall:
    """A client's answer to the roll-call.

    Attributes:
        partition: The number that names the client for the whole run, from 0.
        examples: Images it holds.
        image_shape: (C, H, W) of these images.
        name: What its owner calls the device; may be empty.
        skipped: Files that it could not read as images.
        rate: The highest model rate that it accepts, in (0, 1].
        memory_free: Bytes that the device has free now, 0 if it cannot tell.
        step_seconds: Measured seconds of a local step by model rate, if the server asked.
    """

    partition: int
    examples: int
    image_shape: tuple[int, ...]
    name: str = ""
    skipped: int = 0
    rate: Fraction = Fraction(1)
    memory_free: int = 0
    step_seconds: StepSeconds = ()


def pack_question(measure: bool) -> RecordDict:
    """Pack the server's question; `measure` also asks for step times, which take seconds."""
    return RecordDict({SPEC: ConfigRecord({"measure": measure})})


def unpack_question(content: RecordDict) -> bool:
    """Return whether the server asks for step times."""
    return content.config_records.get(SPEC, ConfigRecord()).get("measure") is True


def pack_roll_call(answer: RollCall) -> RecordDict:
    """Pack a roll-call answer into a reply's content."""
    record = ConfigRecord(
        {
            "partition-id": answer.partition,
            "examples": answer.examples,
            "image-shape": list(answer.image_shape),
            "device-name": answer.name,
            "skipped": answer.skipped,
            "rate": str(answer.rate),
            "memory-free": answer.memory_free,
            "step-rates": [str(rate) for rate, _ in answer.step_seconds],
            "step-seconds": [seconds for _, seconds in answer.step_seconds],
        }
    )
    return RecordDict({SPEC: record})


def unpack_roll_call(content: RecordDict) -> RollCall:
    """Return a client's roll-call answer.

    Raises:
        WireError: A field is missing, of another type or out of its range.
    """
    record = content.config_records.get(SPEC, ConfigRecord())
    shape = field_of(record, "image-shape", list)
    rates, seconds = field_of(record, "step-rates", list), field_of(record, "step-seconds", list)
    answer = RollCall(
        _whole(record, "partition-id", 2**31),
        _whole(record, "examples", MOST_EXAMPLES),
        tuple(n for n in shape if isinstance(n, int)),
        field_of(record, "device-name", str),
        _whole(record, "skipped", MOST_EXAMPLES),
        _rate(field_of(record, "rate", str)),
        _whole(record, "memory-free", 2**63),
        tuple(zip(map(_rate, rates), map(_positive, seconds), strict=False)),
    )
    if answer.examples < 1:
        raise WireError("the client says that it has no images")
    if len(answer.name) > LONGEST_NAME or not answer.name.isprintable():
        raise WireError(f"a device-name is at most {LONGEST_NAME} printable characters")
    if len({rate for rate, _ in answer.step_seconds}) != len(rates) or len(rates) != len(seconds):
        raise WireError("'step-rates' and 'step-seconds' do not belong together")
    return answer


def _whole(record: ConfigRecord, key: str, limit: int) -> int:
    value = field_of(record, key, int)
    if not 0 <= value < limit:
        raise WireError(f"'{key}' is {value}, not in 0 … {limit - 1}")
    return value


def _rate(text: object) -> Fraction:
    # Fraction would also read exponents, and compute their powers.
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{1,6}(/[1-9][0-9]{0,5})?", text):
        raise WireError("a rate is written as a fraction, such as 1/2")
    rate = Fraction(text)
    if not 0 < rate <= 1:
        raise WireError(f"a rate is in (0, 1], not {text}")
    return rate


def _positive(value: object) -> float:
    if not isinstance(value, float) or not math.isfinite(value) or value <= 0:
        raise WireError(f"a step takes a positive number of seconds, not {value!r}")
    return value
