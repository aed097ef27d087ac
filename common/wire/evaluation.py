"""What the server asks clients to evaluate on their own images, and what they answer.

A question carries the weights of the client's width where its loss is wanted, and the server's
samples where it is to be seen how near these come to its images. Numbers come back, never pixels:
losses by noise level, quantiles of distances, and sums of features and of their products.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from jaxtyping import Float64, UInt8

from common.config import LOSS_LEVELS
from common.moments import Moments, fault_of, from_vector, vector_length
from common.wire.messages import VALUES
from common.wire.records import WireError, field_of, pack_array, read_array
from common.wire.rollcall import MOST_EXAMPLES

EVALUATION = "evaluation"
MOMENTS = "moments"
SAMPLES = "samples"

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75)
"""Of the distances to the nearest training image."""

MOST_LOSS = 1e6
"""Per value; noise that is predicted as 0 has a loss of 1."""

TRAINING, HELD_OUT = "training", "held_out"


def class_set(label: int) -> str:
    """Return the name of the set of training images of a class."""
    return f"class {label}"


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a client is to evaluate.

    Attributes:
        number: Names the question; an answer repeats it.
        rates: The widths whose loss is wanted, the first the one that is sent; may be none.
        features: The digest of the features whose moments are wanted, empty for none.
        samples: Images whose nearest training images are looked for, None for none.
    """

    number: str
    rates: tuple[Fraction, ...] = ()
    features: str = ""
    samples: UInt8[np.ndarray, "N C H W"] | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a client found.

    Attributes:
        held_out: Images it judged by.
        losses: By width the loss at each of the `LOSS_LEVELS`.
        moments: By the name of a set of its images, moments of their features.
        nearest: Quantiles of the samples' distances to their nearest training images.
        nearest_held_out: The same of its held-out images.
        withheld: Why it gives no moments though it was asked for some; else empty.
    """

    held_out: int
    losses: Mapping[Fraction, tuple[float, ...]] = field(default_factory=dict)
    moments: Mapping[str, Moments] = field(default_factory=dict)
    nearest: tuple[float, ...] = ()
    nearest_held_out: tuple[float, ...] = ()
    withheld: str = ""


def question_number(round: int, partition: int, purpose: str) -> str:
    """Return a number for a question: other rounds, clients and purposes have others."""
    return hashlib.sha256(f"{round} {partition} {purpose}".encode()).hexdigest()[:16]


def pack_evaluation(question: Question, task: RecordDict | None) -> RecordDict:
    """Pack a question, with the task's weights and spec where losses are wanted."""
    samples = question.samples
    record = ConfigRecord(
        {
            "number": question.number,
            "rates": [str(rate) for rate in question.rates],
            "features": question.features,
            "samples": 0 if samples is None else len(samples),
        }
    )
    content = RecordDict({**(task or {}), EVALUATION: record})
    if samples is not None:
        content[SAMPLES] = ArrayRecord({VALUES: pack_array(samples.ravel())})
    return content


def unpack_evaluation(content: RecordDict, image_shape: tuple[int, int, int]) -> Question:
    """Return the question of a message; its weights, if there are any, are a task's.

    Raises:
        WireError: A field is missing or malformed.
    """
    record = content.config_records.get(EVALUATION)
    if record is None:
        raise WireError(f"the message has no record '{EVALUATION}'")
    count = field_of(record, "samples", int)
    if not 0 <= count < MOST_EXAMPLES:
        raise WireError(f"'samples' is {count}")
    samples = None
    if count:
        flat = _array(content.array_records.get(SAMPLES), VALUES, np.uint8, count, image_shape)
        samples = flat.reshape(count, *image_shape)
    return Question(
        number=field_of(record, "number", str),
        rates=tuple(Fraction(str(rate)) for rate in field_of(record, "rates", list)),
        features=field_of(record, "features", str),
        samples=samples,
    )


def pack_answer(answer: Answer, question: Question) -> RecordDict:
    """Pack what a client found."""
    losses = [loss for rate in question.rates for loss in answer.losses[rate]]
    record = ConfigRecord(
        {
            "number": question.number,
            "held-out": answer.held_out,
            "losses": losses,
            "nearest": list(answer.nearest),
            "nearest-held-out": list(answer.nearest_held_out),
            "withheld": answer.withheld,
        }
    )
    content = RecordDict({EVALUATION: record})
    if answer.moments:
        arrays = {name: pack_array(each.vector()) for name, each in answer.moments.items()}
        content[MOMENTS] = ArrayRecord(arrays)
    return content


def unpack_answer(
    content: RecordDict,
    question: Question,
    *,
    bound: Float64[np.ndarray, "F"],
    examples: int,
    sets: Sequence[str],
) -> Answer:
    """Return what an answer says, after checking that it may be so.

    Args:
        content: The reply's.
        question: What was asked.
        bound: What no feature's size can exceed.
        examples: Images that the client trains on, as it said at the roll-call.
        sets: Names that sets of its images may have.

    Raises:
        WireError: It answers another question, or a number is missing, malformed or impossible.
    """
    record = content.config_records.get(EVALUATION)
    if record is None or record.get("number") != question.number:
        raise WireError(f"the reply does not answer question {question.number}", "assignment")
    held_out = field_of(record, "held-out", int)
    if not 1 <= held_out <= examples:
        raise WireError(f"'held-out' is {held_out}, not in 1 … {examples}")
    losses = _numbers(record, "losses", LOSS_LEVELS * len(question.rates), MOST_LOSS)
    nearest, real = (
        _numbers(record, key, 0 if question.samples is None else len(QUANTILES), 2.0)
        for key in ("nearest", "nearest-held-out")
    )
    if list(nearest) != sorted(nearest) or list(real) != sorted(real):
        raise WireError("quantiles do not grow")
    withheld = field_of(record, "withheld", str)
    moments = _moments(content, bound, examples, sets) if question.features else {}
    if question.features and bool(moments) == bool(withheld):
        raise WireError("moments are given or withheld, and not both")
    return Answer(
        held_out=held_out,
        losses={
            rate: losses[place * LOSS_LEVELS : (place + 1) * LOSS_LEVELS]
            for place, rate in enumerate(question.rates)
        },
        moments=moments,
        nearest=nearest,
        nearest_held_out=real,
        withheld="".join(letter for letter in withheld if letter.isprintable())[:200],
    )


def _moments(
    content: RecordDict, bound: Float64[np.ndarray, "F"], examples: int, sets: Sequence[str]
) -> dict[str, Moments]:
    arrays = content.array_records.get(MOMENTS)
    if arrays is None:
        return {}
    if odd := [name for name in arrays if name not in sets]:
        raise WireError(f"there are no moments of {odd[0]!r}")
    if TRAINING not in arrays:
        raise WireError("moments of the training images are missing")
    found = {}
    for name in arrays:
        vector = _array(arrays, name, np.float64, vector_length(len(bound)))
        try:
            moments = from_vector(vector)
        except ValueError as error:
            raise WireError(f"{name}: {error}") from None
        if moments.count > examples or (name == TRAINING and moments.count != examples):
            raise WireError(
                f"{name}: moments of {moments.count} images, at the roll-call there were {examples}"
            )
        if fault := fault_of(moments, bound):
            raise WireError(f"{name}: no images have these moments: {fault}", "moments")
        found[name] = moments
    return found


def _numbers(record: ConfigRecord, key: str, count: int, most: float) -> tuple[float, ...]:
    values = field_of(record, key, list)
    if len(values) != count:
        raise WireError(f"'{key}' has {len(values)} numbers, not {count}")
    for value in values:
        if not isinstance(value, float) or not math.isfinite(value) or not 0 <= value <= most:
            raise WireError(f"'{key}' has {value!r}, not in 0 … {most:g}", "not-finite")
    return tuple(values)


def _array(
    record: ArrayRecord | None, name: str, kind: type, size: int, shape: tuple[int, ...] = ()
) -> np.ndarray:
    if record is None or name not in record:
        raise WireError(f"the array '{name}' is missing")
    return read_array(record[name], np.dtype(kind), size * math.prod(shape))
