"""What travels: one flat array and a small spec per message.

A task carries the submodel's weights in the layout's order and a spec that says which submodel, in
which round, in which encoding. A reply carries the trained weights in the same order and repeats
the spec's `assignment`, a digest of everything that has to agree; a reply to anything else is
refused. Which coordinates a client kept is what the server assigned: replies carry no mask.
"""

import hashlib
import math
from dataclasses import dataclass
from io import BytesIO
from typing import TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from jaxtyping import Float32
from numpy.typing import NDArray

from common.masked import masked_submodel
from common.submodel import Layout, Submodel

WEIGHTS = "weights"
SPEC = "spec"
METRICS = "metrics"
VALUES = "values"

MOST_IMAGES = 2**31
"""More than a client can train on in a round."""

_DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


_T = TypeVar("_T", int, str, bytes, list)


class WireError(ValueError):
    """A message is not what it should be; the text says what was expected.

    Args:
        message: One line.
        reason: The kind of error in a word, for counting.
    """

    def __init__(self, message: str, reason: str = "malformed") -> None:
        super().__init__(message)
        self.reason = reason


class TooLargeError(WireError):
    """The client ran out of memory; `k` channels in every atom are what it can hold, or none."""

    def __init__(self, k: int) -> None:
        super().__init__("out of memory", "memory")
        self.k = k


@dataclass(frozen=True)
class TaskSpec:
    """The small part of a task.

    Attributes:
        round: The round, from 1.
        policy: The extraction policy's name.
        k: Channels kept in every atom.
        bitmask: The kept channels of all axes, one bit each (`Submodel.bitmask`), or the kept
            coordinates of a masked submodel.
        codec: The encoding of the values, both ways.
        layout: The digest of the model's layout.
    """

    round: int
    policy: str
    k: int
    bitmask: bytes
    codec: str
    layout: str

    @property
    def assignment(self) -> str:
        """A digest of the whole spec, which ties a reply to its task."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Reply:
    """What a client returns for a task.

    Attributes:
        values: The trained weights of its submodel.
        loss: Its mean training loss, finite.
        images: Images it trained on, at least 1.
        seconds: Seconds that it says its local steps took, 0 if it does not say.
    """

    values: Float32[np.ndarray, "kept"]
    loss: float
    images: int
    seconds: float = 0.0


def spec_for(submodel: Submodel, round: int, policy: str, codec: str) -> TaskSpec:
    """Describe a submodel for the client that will train it."""
    layout = submodel.layout.digest
    return TaskSpec(round, policy, submodel.k, submodel.bitmask(), codec, layout)


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
    return RecordDict({WEIGHTS: _array_record(values, spec.codec), SPEC: record})


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
        field_of(record, "round", int),
        field_of(record, "policy", str),
        field_of(record, "kept-per-atom", int),
        field_of(record, "kept", bytes),
        field_of(record, "codec", str),
        field_of(record, "layout", str),
    )
    if spec.layout != layout.digest:
        raise WireError(
            f"the server's model layout is {spec.layout}, this client's {layout.digest}"
        )
    if spec.assignment != record.get("assignment"):
        raise WireError("the task's spec does not match its assignment digest")
    submodel = submodel_from_bitmask(layout, spec.k, spec.bitmask)
    return _values(content, spec.codec, submodel.size), submodel, spec


def pack_reply(
    values: Float32[np.ndarray, "kept"], spec: TaskSpec, metrics: dict[str, int | float]
) -> RecordDict:
    """Pack trained weights and metrics into a reply's content."""
    record = ConfigRecord({"round": spec.round, "assignment": spec.assignment})
    return RecordDict(
        {
            WEIGHTS: _array_record(values, spec.codec),
            SPEC: record,
            METRICS: MetricRecord(dict(metrics)),
        }
    )


def pack_too_large(k: int, spec: TaskSpec) -> RecordDict:
    """Pack the reply of a client that ran out of memory and can hold only `k`, or 0, channels."""
    record = ConfigRecord({"round": spec.round, "assignment": spec.assignment, "can-hold": k})
    return RecordDict({SPEC: record})


def unpack_reply(content: RecordDict, spec: TaskSpec, submodel: Submodel) -> Reply:
    """Return a reply's trained weights and metrics.

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
    return Reply(_values(content, spec.codec, submodel.size), loss, images, seconds)


def payload_bytes(content: RecordDict) -> int:
    """Return the number of bytes that a message's records occupy, as Flower counts them."""
    return sum(record.count_bytes() for record in content.values())


def submodel_from_bitmask(layout: Layout, k: int, bitmask: bytes) -> Submodel:
    """Rebuild a submodel from its bits, one for each channel, or for each coordinate if masked.

    Raises:
        WireError: The bits are not those of a submodel of this layout.
    """
    sizes = [axis.size for axis in layout.axes.values()]
    if k == layout.atom and len(bitmask) == -(-layout.size // 8):
        bits = np.unpackbits(np.frombuffer(bitmask, dtype=np.uint8), count=layout.size)
        if not bits.any():
            raise WireError("the task keeps no coordinate")
        return masked_submodel(layout, bits.astype(bool))
    if len(bitmask) != -(-sum(sizes) // 8):
        raise WireError(f"{len(bitmask)} bytes of kept channels for {sum(sizes)} channels")
    bits = np.unpackbits(np.frombuffer(bitmask, dtype=np.uint8), count=sum(sizes))
    runs = np.split(bits, np.cumsum(sizes)[:-1])
    kept = {name: np.flatnonzero(run) for name, run in zip(layout.axes, runs, strict=True)}
    try:
        return Submodel(layout, k, kept)
    except ValueError as error:
        raise WireError(str(error)) from None


def encode(values: Float32[np.ndarray, "n"], codec: str) -> NDArray:
    """Encode float32 values; bfloat16 travels as the upper halves of their bits, rounded."""
    if codec == "bfloat16":
        bits = values.view(np.uint32)
        # Round to nearest, ties to even, on the integer representation.
        return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16).astype(np.uint16)
    return values.astype(_DTYPES[codec], copy=False)


def decode(array: NDArray, codec: str) -> NDArray[np.float32]:
    """Return the float32 values that `encode` encoded."""
    if codec == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)


def _array_record(values: NDArray[np.float32], codec: str) -> ArrayRecord:
    return ArrayRecord({VALUES: Array(encode(values, codec))})


def _values(content: RecordDict, codec: str, size: int) -> NDArray[np.float32]:
    """Return the decoded values after checking all that can be checked before reading them."""
    record = content.array_records.get(WEIGHTS)
    if record is None or list(record) != [VALUES]:
        raise WireError(f"the message needs exactly one array, '{WEIGHTS}.{VALUES}'")
    if codec not in _DTYPES:
        raise WireError(f"codec '{codec}' is not one of {', '.join(_DTYPES)}")
    return decode(_read(record[VALUES], np.dtype(_DTYPES[codec]), size), codec)


def _read(array: Array, dtype: np.dtype, size: int) -> NDArray:
    """Return the array's values as a view of its bytes; nothing is allocated by what it claims."""
    claim = f"{array.dtype} of shape {tuple(array.shape)}"
    if array.stype != "numpy.ndarray" or array.dtype != dtype.name or array.shape != (size,):
        kind = "dtype" if array.dtype != dtype.name else "size"
        raise WireError(f"expected {size} values of {dtype.name}, got {claim}", kind)
    stream = BytesIO(array.data)
    try:
        version = np.lib.format.read_magic(stream)
        shape, _, held = np.lib.format.read_array_header_1_0(stream)
    except Exception as error:  # NumPy parses the header as Python, which can fail in many ways
        raise WireError(f"the array is not NumPy's format 1.0: {error}") from None
    payload = memoryview(array.data)[stream.tell() :]
    if (
        version != (1, 0)
        or held != dtype
        or shape != (size,)
        or len(payload) != size * dtype.itemsize
    ):
        raise WireError(
            f"expected {size} values of {dtype.name}, the data hold {len(payload)} bytes of {held} "
            f"for shape {shape}"
        )
    return np.frombuffer(payload, dtype=dtype)


def field_of(record: ConfigRecord, key: str, kind: type[_T]) -> _T:
    """Return a field of a record, or raise WireError if it is missing or of another type."""
    value = record.get(key)
    if not isinstance(value, kind):
        raise WireError(f"the spec's '{key}' is missing or not {kind.__name__}")
    return value
