"""A replay arrives as it was sent, or is refused."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from common import wire
from common.replay import Replay
from common.wire.records import WireError, pack_array
from common.wire.replay import IMAGES, LABELS, MOST_IMAGES, REPLAY

SHAPE = (3, 4, 2)
RNG = np.random.default_rng(0)
SENT = Replay(
    images=RNG.integers(0, 256, (5, *SHAPE), np.uint8),
    labels=np.array([0, 1, 2, 0, 1]),
    teacher=2,
    share=Fraction(7, 32),
)


def packed(replay: Replay = SENT) -> RecordDict:
    content = RecordDict()
    wire.pack_replay(content, replay)
    return content


def test_it_arrives_as_it_was_sent() -> None:
    got = wire.unpack_replay(packed(), SENT.digest, SHAPE, 3)
    assert got is not None
    np.testing.assert_array_equal(got.images, SENT.images)
    np.testing.assert_array_equal(got.labels, SENT.labels)
    assert (got.teacher, got.share, got.digest) == (2, Fraction(7, 32), SENT.digest)
    assert wire.payload_bytes(packed()) > SENT.images.size


def test_without_a_digest_there_is_none_whatever_comes_along() -> None:
    assert wire.unpack_replay(packed(), "", SHAPE, 3) is None


@pytest.mark.parametrize(
    "other",
    [
        replace(SENT, images=SENT.images ^ 1),
        replace(SENT, labels=SENT.labels[::-1].copy()),
        replace(SENT, teacher=1),
        replace(SENT, share=Fraction(1, 2)),
    ],
)
def test_another_than_the_spec_names_is_refused(other: Replay) -> None:
    assert other.digest != SENT.digest
    with pytest.raises(WireError, match="not the one that the task's spec names"):
        wire.unpack_replay(packed(other), SENT.digest, SHAPE, 3)


def _arrays(images: np.ndarray, labels: np.ndarray) -> ArrayRecord:
    return ArrayRecord({IMAGES: pack_array(images), LABELS: pack_array(labels)})


FLAT = SENT.images.reshape(-1)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda content: content.pop(REPLAY), "carries none"),
        (lambda content: content.pop(f"{REPLAY}-spec"), "carries none"),
        (
            lambda content: content.update({REPLAY: _arrays(FLAT[:-1], SENT.labels)}),
            "expected 120 values of uint8",
        ),
        (
            lambda content: content.update({REPLAY: _arrays(FLAT.astype("f4"), SENT.labels)}),
            "expected 120 values of uint8",
        ),
        (
            lambda content: content.update({REPLAY: _arrays(FLAT, SENT.labels[:3])}),
            "expected 5 values of int64",
        ),
        (
            lambda content: content.update({REPLAY: _arrays(FLAT, SENT.labels + 1)}),
            "not classes of the model",
        ),
        (
            lambda content: content.update({REPLAY: _arrays(FLAT, SENT.labels - 1)}),
            "not classes of the model",
        ),
        *(
            (
                lambda content, key=key, value=value: content.update(
                    {
                        f"{REPLAY}-spec": ConfigRecord(
                            {"teacher": 2, "share": "7/32", "count": 5} | {key: value}
                        )
                    }
                ),
                complaint,
            )
            for key, value, complaint in (
                ("count", 0, "a replay of 0 images"),
                ("count", MOST_IMAGES + 1, "a replay of"),
                ("count", "5", "'count' is missing or not int"),
                ("teacher", 0, "by 0 channels"),
                ("share", "1/0", "between 0 and 1"),
                ("share", "5/5", "between 0 and 1"),
                ("share", "0/5", "between 0 and 1"),
                ("share", "1", "a fraction"),
                ("share", "1e9/9", "a fraction"),
                ("share", f"1/{10**30}", "a fraction"),
            )
        ),
    ],
)
def test_what_is_malformed_is_refused(
    spoil: Callable[[RecordDict], object], complaint: str
) -> None:
    content = packed()
    spoil(content)
    with pytest.raises(WireError, match=complaint):
        wire.unpack_replay(content, SENT.digest, SHAPE, 3)


def test_an_unconditional_model_knows_one_class() -> None:
    plain = replace(SENT, labels=np.zeros(5, np.int64))
    assert wire.unpack_replay(packed(plain), plain.digest, SHAPE, 0) is not None
    with pytest.raises(WireError, match="not classes of the model"):
        wire.unpack_replay(packed(), SENT.digest, SHAPE, 0)


@pytest.mark.parametrize(
    ("share", "batch", "examples"), [((1, 2), 32, 16), ((1, 1), 32, 31), ((1, 100), 2, 0)]
)
def test_a_batch_is_never_without_the_client_s_own_images(
    share: tuple[int, int], batch: int, examples: int
) -> None:
    assert replace(SENT, share=Fraction(*share)).examples(batch) == examples
