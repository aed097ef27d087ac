"""The roll-call: what the server asks a client that it meets, and what the client says of itself.

Everything here is a claim. The server bounds it, and uses it only where a wrong claim harms nobody
but the client that makes it, with one exception: the number of images, its weight in the average,
which is why nodes should authenticate themselves.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from textwrap import shorten

from flwr.app import ConfigRecord, RecordDict

from common.data.classes import MOST_CLASSES
from common.wire.messages import SPEC
from common.wire.records import WireError, field_of

MOST_EXAMPLES = 2**40
LONGEST_NAME = 64
LONGEST_REASON = 300
LONGEST_CLASS = 255
"""As the name of a folder may be."""

CLASSES = "classes"

StepSeconds = tuple[tuple[Fraction, float], ...]
"""Measured seconds of a local step by model rate."""


@dataclass(frozen=True)
class RollCall:
    """A client's answer to the roll-call.

    Attributes:
        partition: The number that names the client for the whole run, from 0; None if it has none.
        examples: Images it holds; 0 while its number is awaited, which says which part of the
            run's data set these are.
        image_shape: (C, H, W) of these images.
        name: What its owner calls the device; may be empty.
        skipped: Files that it could not read as images.
        rate: The highest model rate that it accepts, in (0, 1].
        memory_free: Bytes that the device has free now, 0 if it cannot tell.
        step_seconds: Measured seconds of a local step by model rate, if the server asked.
        keyed: Whether its key stays the same when it starts again.
        partitions: How many clients the simulation has that it is one of; 0 is a device.
        classes: The names of the classes of its own images, in a run that is conditional on them.
    """

    partition: int | None
    examples: int
    image_shape: tuple[int, ...]
    name: str = ""
    skipped: int = 0
    rate: Fraction = Fraction(1)
    memory_free: int = 0
    step_seconds: StepSeconds = ()
    keyed: bool = False
    partitions: int = 0
    classes: tuple[str, ...] = ()


class UnfitError(WireError):
    """A client says that it cannot take part, and why.

    Args:
        reason: In plain words.
        name: The device's name, as in `RollCall`.
        partitions: As in `RollCall`.
    """

    def __init__(self, reason: str, name: str = "", partitions: int = 0) -> None:
        super().__init__(reason)
        self.name = name
        self.partitions = partitions


def pack_question(measure: bool) -> RecordDict:
    """Pack the server's question; `measure` also asks for step times, which take seconds."""
    return RecordDict({SPEC: ConfigRecord({"measure": measure})})


def unpack_question(content: RecordDict) -> bool:
    """Return whether the server asks for step times."""
    return content.config_records.get(SPEC, ConfigRecord()).get("measure") is True


def pack_verdict(reason: str) -> RecordDict:
    """Pack what a device is told that is refused: why, in a line."""
    return RecordDict({SPEC: ConfigRecord({"refused": reason})})


def unpack_verdict(content: RecordDict) -> str:
    """Return why the server refuses the device, empty if it asks something else."""
    reason = content.config_records.get(SPEC, ConfigRecord()).get("refused")
    return reason if isinstance(reason, str) else ""


def pack_unfit(reason: str, name: str, partitions: int) -> RecordDict:
    """Pack the roll-call answer of a client that cannot take part, see `UnfitError`."""
    record = ConfigRecord(
        {"unfit": " ".join(reason.split()), "device-name": name, "partitions": partitions}
    )
    return RecordDict({SPEC: record})


def pack_roll_call(answer: RollCall) -> RecordDict:
    """Pack a roll-call answer into a reply's content."""
    number = {} if answer.partition is None else {"partition-id": answer.partition}
    record = ConfigRecord(
        {
            **number,
            "examples": answer.examples,
            "image-shape": list(answer.image_shape),
            "device-name": answer.name,
            "skipped": answer.skipped,
            "rate": str(answer.rate),
            "memory-free": answer.memory_free,
            "step-rates": [str(rate) for rate, _ in answer.step_seconds],
            "step-seconds": [seconds for _, seconds in answer.step_seconds],
            "keyed": answer.keyed,
            "partitions": answer.partitions,
            "classes": list(answer.classes),
        }
    )
    return RecordDict({SPEC: record})


def name_classes(content: RecordDict, names: Sequence[str]) -> None:
    """Tell a client in a message's content what the run calls its classes, in their order.

    Of no names nothing is told: classes are numbers then.
    """
    if names:
        content[CLASSES] = ConfigRecord({"names": list(names)})


def named_classes(content: RecordDict) -> tuple[str, ...]:
    """Return what the run calls its classes, nothing where these are numbers.

    Raises:
        WireError: They are no names.
    """
    record = content.config_records.get(CLASSES)
    return () if record is None else _classes(record, "names")


def unpack_roll_call(content: RecordDict) -> RollCall:
    """Return a client's roll-call answer.

    Raises:
        WireError: A field is missing, of another type or out of its range.
        UnfitError: The client says that it cannot take part.
    """
    record = content.config_records.get(SPEC, ConfigRecord())
    partitions = _whole(record, "partitions", 2**31)
    if "unfit" in record:
        name, reason = _name(record), field_of(record, "unfit", str)
        reason = "".join(letter for letter in reason if letter.isprintable())
        raise UnfitError(shorten(reason, LONGEST_REASON, placeholder=" …"), name, partitions)
    shape = field_of(record, "image-shape", list)
    rates, seconds = field_of(record, "step-rates", list), field_of(record, "step-seconds", list)
    answer = RollCall(
        _whole(record, "partition-id", 2**31) if "partition-id" in record else None,
        _whole(record, "examples", MOST_EXAMPLES),
        tuple(n for n in shape if isinstance(n, int)),
        _name(record),
        _whole(record, "skipped", MOST_EXAMPLES),
        _rate(field_of(record, "rate", str)),
        _whole(record, "memory-free", 2**63),
        tuple(zip(map(_rate, rates), map(_positive, seconds), strict=False)),
        record.get("keyed") is True,
        partitions,
        _classes(record, "classes"),
    )
    if answer.examples < 1 and answer.partition is not None:
        raise WireError("the client says that it has no images")
    if len({rate for rate, _ in answer.step_seconds}) != len(rates) or len(rates) != len(seconds):
        raise WireError("'step-rates' and 'step-seconds' do not belong together")
    return answer


def _name(record: ConfigRecord) -> str:
    name = field_of(record, "device-name", str)
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise WireError(f"a device-name is at most {LONGEST_NAME} printable characters")
    return name


def _classes(record: ConfigRecord, key: str) -> tuple[str, ...]:
    names = field_of(record, key, list)
    if len(names) > MOST_CLASSES or len(set(names)) < len(names):
        raise WireError(f"'{key}' are at most {MOST_CLASSES} different names of classes")
    for name in names:
        if (
            not isinstance(name, str)
            or not 0 < len(name) <= LONGEST_CLASS
            or not name.isprintable()
        ):
            raise WireError(f"the name of a class is 1 to {LONGEST_CLASS} printable characters")
    return tuple(map(str, names))


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
