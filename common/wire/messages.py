"""What travels: one flat array and a small spec per message.

A task carries the submodel's weights in the layout's order and a spec that says which submodel, in
which round, in which codec. A reply carries the trained weights in the same order, or what training
changed of them (`common.wire.codecs`), and repeats the spec's `assignment`, a digest of everything
that has to agree; a reply to anything else is refused. Which coordinates a client kept is what the
server assigned: replies carry no mask.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from jaxtyping import Float32
from numpy.typing import NDArray

from common.submodels import Layout, Submodel, extract, submodel_from_bitmask
from common.wire.codecs import CODECS, Encoding
from common.wire.records import WireError, field_of, pack_array, read_array

WEIGHTS = "weights"
SPEC = "spec"
METRICS = "metrics"
CLIENT = "client"
VALUES = "values"

MOST_IMAGES = 2**31
"""More than a client can train on in a round."""


class TooLargeError(WireError):
    """The client ran out of memory; `k` channels in every atom are what it can hold, or none."""

    def __init__(self, k: int) -> None:
        super().__init__("out of memory", "memory")
        self.k = k


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """The small part of a task.

    Attributes:
        round: The round, from 1.
        policy: The extraction policy's name.
        k: Channels kept in every atom.
        bitmask: The kept channels of all axes, one bit each (`Submodel.bitmask`), or the kept
            coordinates of a masked submodel.
        codec: What the values are encoded in, both ways; one of `common.wire.codecs.CODECS`.
        layout: The digest of the model's layout.
        replay: The digest of the images to train on beside the client's own, empty for none.
    """

    round: int
    policy: str
    k: int
    bitmask: bytes
    codec: str
    layout: str
    replay: str = ""

    @property
    def assignment(self) -> str:
        """A digest of the whole spec, which ties a reply to its task."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a client returns for a task.

    Attributes:
        values: The trained weights of its submodel, or what training changed of them (`trained`).
        loss: Its mean training loss, finite.
        images: Images it trained on, at least 1.
        seconds: Seconds that it says its local steps took, 0 if it does not say.
    """

    values: Float32[np.ndarray, "kept"]
    loss: float
    images: int
    seconds: float = 0.0


def spec_for(submodel: Submodel, round: int, policy: str, codec: str, replay: str = "") -> TaskSpec:
    """Describe a submodel, and what to train it on, for the client that will."""
    return TaskSpec(
        round=round,
        policy=policy,
        k=submodel.k,
        bitmask=submodel.bitmask(),
        codec=codec,
        layout=submodel.layout.digest,
        replay=replay,
    )


def pack_task(values: Float32[np.ndarray, "kept"], spec: TaskSpec) -> RecordDict:
    """Pack a submodel's weights and its spec into a message's content."""
    record = ConfigRecord(
        {
            "round": spec.round,
            "policy": spec.policy,
            "kept-per-atom": spec.k,
            "kept": spec.bitmask,
            "codec": spec.codec,
            "layout": spec.layout,
            "assignment": spec.assignment,
        }
    )
    if spec.replay:  # Flower cannot count the bytes of an empty text
        record["replay"] = spec.replay
    return RecordDict({WEIGHTS: _record(CODECS[spec.codec].task.encode(values)), SPEC: record})


def address_task(content: RecordDict, number: int) -> None:
    """Tell the client that a task goes to, in its content, which number it has been given."""
    content[CLIENT] = ConfigRecord({"number": number})


def addressee(content: RecordDict) -> int | None:
    """Return the number that a task's client has been given, None if it has its own.

    Raises:
        WireError: It is no number.
    """
    record = content.config_records.get(CLIENT)
    return None if record is None else field_of(record, "number", int)


def unpack_task(
    content: RecordDict, layout: Layout
) -> tuple[NDArray[np.float32], Submodel, TaskSpec]:
    """Return a task's weights, submodel and spec.

    Raises:
        WireError: A record is missing or malformed, or the server's model has another layout.
    """
    record = content.config_records.get(SPEC)
    if record is None:
        raise WireError(f"the task has no record '{SPEC}'")
    spec = TaskSpec(
        round=field_of(record, "round", int),
        policy=field_of(record, "policy", str),
        k=field_of(record, "kept-per-atom", int),
        bitmask=field_of(record, "kept", bytes),
        codec=field_of(record, "codec", str),
        layout=field_of(record, "layout", str),
        replay=field_of(record, "replay", str) if "replay" in record else "",
    )
    if spec.layout != layout.digest:
        raise WireError(
            f"the server's model layout is {spec.layout}, this client's {layout.digest}"
        )
    if spec.assignment != record.get("assignment"):
        raise WireError("the task's spec does not match its assignment digest")
    if spec.codec not in CODECS:
        raise WireError(f"codec '{spec.codec}' is not one of {', '.join(CODECS)}")
    try:
        submodel = submodel_from_bitmask(layout, spec.k, spec.bitmask)
    except ValueError as error:
        raise WireError(str(error)) from None
    return _values(content, CODECS[spec.codec].task, submodel.size), submodel, spec


def pack_reply(array: NDArray, spec: TaskSpec, metrics: dict[str, int | float]) -> RecordDict:
    """Pack weights or an update, as the codec's `reply` encodes them, and metrics."""
    record = ConfigRecord({"round": spec.round, "assignment": spec.assignment})
    return RecordDict(
        {
            WEIGHTS: _record(array),
            SPEC: record,
            METRICS: MetricRecord(dict(metrics)),
        }
    )


def pack_too_large(k: int, spec: TaskSpec) -> RecordDict:
    """Pack the reply of a client that ran out of memory and can hold only `k`, or 0, channels."""
    record = ConfigRecord({"round": spec.round, "assignment": spec.assignment, "can-hold": k})
    return RecordDict({SPEC: record})


def unpack_reply(content: RecordDict, spec: TaskSpec, submodel: Submodel) -> Reply:
    """Return what a reply carries.

    Raises:
        WireError: It answers another task, or its array or metrics are not this task's.
        TooLargeError: The client could not hold the submodel.
    """
    record = content.config_records.get(SPEC)
    if record is None or record.get("assignment") != spec.assignment:
        raise WireError(f"the reply does not answer assignment {spec.assignment}", "assignment")
    if "can-hold" in record:
        k = field_of(record, "can-hold", int)
        if not 0 <= k < spec.k:
            raise WireError(f"'can-hold' is {k}, not in 0 … {spec.k - 1}")
        raise TooLargeError(k)
    metrics = content.metric_records.get(METRICS)
    if metrics is None:
        raise WireError(f"the reply has no record '{METRICS}'")
    loss, images = metrics.get("loss"), metrics.get("images")
    if not isinstance(loss, float) or not math.isfinite(loss):
        raise WireError(f"'{METRICS}.loss' is not finite ({loss!r})", "not-finite")
    if not isinstance(images, int) or not 0 < images < MOST_IMAGES:
        raise WireError(f"'{METRICS}.images' is {images!r}, not in 1 … {MOST_IMAGES - 1}")
    seconds = metrics.get("seconds")  # only ever shown, so a claim that makes no sense is none
    if not isinstance(seconds, float) or not 0 <= seconds < math.inf:
        seconds = 0.0
    values = _values(content, CODECS[spec.codec].reply, submodel.size)
    return Reply(values=values, loss=loss, images=images, seconds=seconds)


def trained(
    reply: Reply, spec: TaskSpec, submodel: Submodel, theta: Float32[np.ndarray, "P"]
) -> Float32[np.ndarray, "kept"]:
    """Return a client's trained weights, where it sent an update by adding it to the server's own.

    Args:
        reply: What the client returned.
        spec: What it was told.
        submodel: What it was assigned.
        theta: The global weights that the task's were cut from, in full precision.
    """
    if not CODECS[spec.codec].update:
        return reply.values
    with np.errstate(all="ignore"):  # whether the sum is finite is checked before it is used
        return extract(theta, submodel) + reply.values


def payload_bytes(content: RecordDict) -> int:
    """Return the number of bytes that a message's records occupy, as Flower counts them.

    Flower cannot count empty texts and lists, which anybody may send; these have no bytes here.
    """
    total = 0
    for record in content.values():
        if isinstance(record, ArrayRecord):
            total += record.count_bytes()
            continue
        for key, value in record.items():
            parts = value if isinstance(value, list) else [value]
            total += len(key) + sum(map(_scalar_bytes, parts))
    return total


def _scalar_bytes(value: bool | int | float | str | bytes) -> int:
    if isinstance(value, bool):
        return 1
    return len(value) if isinstance(value, str | bytes) else 8


def _record(values: NDArray) -> ArrayRecord:
    return ArrayRecord({VALUES: pack_array(values)})


def _values(content: RecordDict, encoding: Encoding, size: int) -> NDArray[np.float32]:
    """Return the decoded values after checking all that can be checked before reading them."""
    record = content.array_records.get(WEIGHTS)
    if record is None or list(record) != [VALUES]:
        raise WireError(f"the message needs exactly one array, '{WEIGHTS}.{VALUES}'")
    array = read_array(record[VALUES], encoding.dtype, encoding.length(size))
    try:
        return encoding.decode(array, size)
    except ValueError as error:
        raise WireError(str(error), "not-finite") from None
