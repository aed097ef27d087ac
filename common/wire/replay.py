"""A replay on its way.

Its images travel with a task as bytes, and the task's spec names their digest, so that a reply to a
task is a reply to its replay as well.
"""

import math
from fractions import Fraction

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from common.replay import Replay
from common.wire.records import WireError, field_of, pack_array, read_array

REPLAY = "replay"
IMAGES, LABELS = "images", "labels"

MOST_IMAGES = 2**16
"""Images of a replay at most."""


def pack_replay(content: RecordDict, replay: Replay) -> None:
    """Put a replay into a task's content."""
    arrays = {IMAGES: replay.images.reshape(-1), LABELS: replay.labels}
    content[REPLAY] = ArrayRecord({name: pack_array(array) for name, array in arrays.items()})
    content[f"{REPLAY}-spec"] = ConfigRecord(
        {"teacher": replay.teacher, "share": str(replay.share), "count": len(replay)}
    )


def unpack_replay(
    content: RecordDict, digest: str, shape: tuple[int, int, int], num_classes: int
) -> Replay | None:
    """Return a task's replay, None if there is none.

    Args:
        content: The task's.
        digest: What its spec says of a replay, empty for none.
        shape: (C, H, W) of the client's images.
        num_classes: Of the model, 0 for an unconditional one.

    Raises:
        WireError: It is not the one that the spec names, or malformed.
    """
    if not digest:
        return None
    arrays = content.array_records.get(REPLAY)
    record = content.config_records.get(f"{REPLAY}-spec")
    if arrays is None or record is None or sorted(arrays) != [IMAGES, LABELS]:
        raise WireError("the task names a replay and carries none")
    count, teacher = field_of(record, "count", int), field_of(record, "teacher", int)
    if not 0 < count <= MOST_IMAGES or teacher < 1:
        raise WireError(f"a replay of {count} images by {teacher} channels of an atom")
    images = read_array(arrays[IMAGES], np.dtype(np.uint8), count * math.prod(shape))
    labels = read_array(arrays[LABELS], np.dtype(np.int64), count)
    if labels.min() < 0 or labels.max() >= max(1, num_classes):
        raise WireError("the replay's labels are not classes of the model")
    replay = Replay(
        images=images.reshape(count, *shape), labels=labels, teacher=teacher, share=_share(record)
    )
    if replay.digest != digest:
        raise WireError("the replay is not the one that the task's spec names")
    return replay


def _share(record: ConfigRecord) -> Fraction:
    above, _, below = field_of(record, "share", str).partition("/")
    if not (above.isdecimal() and below.isdecimal() and len(above + below) < 20):
        raise WireError("a replay's share is a fraction, such as 1/2")
    if not 0 < int(above) < int(below):
        raise WireError(f"a replay's share is between 0 and 1, not {above}/{below}")
    return Fraction(int(above), int(below))
