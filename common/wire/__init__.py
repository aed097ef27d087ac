"""What travels between server and clients."""

from common.wire.codecs import CODECS, STRETCH, quantise_with_feedback, residual_counts
from common.wire.messages import (
    METRICS,
    SPEC,
    VALUES,
    WEIGHTS,
    Reply,
    TaskSpec,
    TooLargeError,
    pack_reply,
    pack_task,
    pack_too_large,
    payload_bytes,
    spec_for,
    trained,
    unpack_reply,
    unpack_task,
)
from common.wire.records import WireError, field_of, pack_array
from common.wire.rollcall import (
    LONGEST_NAME,
    RollCall,
    StepSeconds,
    pack_question,
    pack_roll_call,
    unpack_question,
    unpack_roll_call,
)
from common.wire.scores import UNSCORED

__all__ = [
    "CODECS",
    "LONGEST_NAME",
    "METRICS",
    "SPEC",
    "STRETCH",
    "UNSCORED",
    "VALUES",
    "WEIGHTS",
    "Reply",
    "RollCall",
    "StepSeconds",
    "TaskSpec",
    "TooLargeError",
    "WireError",
    "field_of",
    "pack_array",
    "pack_question",
    "pack_reply",
    "pack_roll_call",
    "pack_task",
    "pack_too_large",
    "payload_bytes",
    "quantise_with_feedback",
    "residual_counts",
    "spec_for",
    "trained",
    "unpack_question",
    "unpack_reply",
    "unpack_roll_call",
    "unpack_task",
]
