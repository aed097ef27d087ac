"""Ten thousand answers that no client's images give: none is taken in."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from common.features import untrained
from common.moments import Moments, fault_of, from_vector, moments_of, vector_length
from common.wire import (
    EVALUATION,
    HELD_OUT,
    TRAINING,
    Answer,
    Question,
    WireError,
    pack_answer,
    pack_evaluation,
    unpack_answer,
    unpack_evaluation,
)
from common.wire.evaluation import MOMENTS
from common.wire.records import pack_array

FEATURES, EXAMPLES, EACH = 8, 40, 400
BOUND = np.full(FEATURES, 10.0)
SETS = (TRAINING, HELD_OUT, "noisy")
QUESTION = Question(
    number="0123456789abcdef",
    rates=(Fraction(1, 2), Fraction(1, 4)),
    features="abcdef",
    samples=np.zeros((3, 1, 2, 2), np.uint8),
)
POINTS = np.random.default_rng(0).standard_normal((EXAMPLES, FEATURES))


def _answer() -> Answer:
    return Answer(
        held_out=10,
        losses=dict.fromkeys(QUESTION.rates, (0.5,) * 8),
        moments={TRAINING: moments_of(POINTS), HELD_OUT: moments_of(POINTS[:10])},
        nearest=(0.1, 0.2, 0.3, 0.4, 0.5),
        nearest_held_out=(0.1, 0.1, 0.3, 0.4, 0.5),
    )


def _read(content: RecordDict) -> Answer:
    return unpack_answer(content, QUESTION, bound=BOUND, examples=EXAMPLES, sets=SETS)


def test_an_honest_answer_arrives_as_it_was() -> None:
    given, taken = _answer(), _read(pack_answer(_answer(), QUESTION))
    assert taken.losses == given.losses
    assert taken.nearest == given.nearest
    for name, moments in given.moments.items():
        np.testing.assert_array_equal(taken.moments[name].vector(), moments.vector())


def test_a_question_arrives_as_it_was() -> None:
    asked = unpack_evaluation(pack_evaluation(QUESTION, None), (1, 2, 2))
    assert (asked.number, asked.rates, asked.features) == (
        QUESTION.number,
        QUESTION.rates,
        QUESTION.features,
    )
    assert asked.samples is not None
    np.testing.assert_array_equal(asked.samples, QUESTION.samples)


Attack = Callable[[RecordDict, np.random.Generator], None]


def _record(content: RecordDict) -> ConfigRecord:
    return content.config_records[EVALUATION]


def _spoil(content: RecordDict, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    arrays = content.array_records[MOMENTS]
    vector = np.array(arrays[name].numpy())
    content[MOMENTS] = ArrayRecord({**arrays, name: pack_array(change(vector))})


def _one(
    rng: np.random.Generator, value: float, low: int = 1
) -> Callable[[np.ndarray], np.ndarray]:
    def change(vector: np.ndarray) -> np.ndarray:
        vector[rng.integers(low, len(vector))] = value
        return vector

    return change


def _count(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(vector: np.ndarray) -> np.ndarray:
        vector[0] = value
        return vector

    return change


def _not_positive(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    def change(vector: np.ndarray) -> np.ndarray:
        moments = from_vector(vector)
        axis = rng.standard_normal(FEATURES)
        axis /= np.linalg.norm(axis)
        # A little more than all the variance in one direction is taken away.
        least = moments.count * float(axis @ moments.covariance @ axis)
        products = moments.products - (1 + rng.uniform(0.01, 1)) * least * np.outer(axis, axis)
        return Moments(moments.count, moments.sum, products).vector()

    return change


def _set(key: str, value: Callable[[np.random.Generator], object]) -> Attack:
    def attack(content: RecordDict, rng: np.random.Generator) -> None:
        _record(content)[key] = value(rng)  # type: ignore[assignment]

    return attack


def _losses(value: object) -> Attack:
    def attack(content: RecordDict, rng: np.random.Generator) -> None:
        losses: list[object] = [0.5] * 16
        losses[rng.integers(16)] = value
        _record(content)["losses"] = losses  # type: ignore[assignment]

    return attack


def _either(rng: np.random.Generator) -> str:
    return (TRAINING, HELD_OUT)[rng.integers(2)]


def _drop_training(content: RecordDict, _: np.random.Generator) -> None:
    arrays = content.array_records[MOMENTS]
    content[MOMENTS] = ArrayRecord({HELD_OUT: arrays[HELD_OUT]})


def _strange_set(content: RecordDict, rng: np.random.Generator) -> None:
    arrays = content.array_records[MOMENTS]
    content[MOMENTS] = ArrayRecord({**arrays, f"class {rng.integers(99)}": arrays[TRAINING]})


ATTACKS: dict[str, Attack] = {
    "nan": lambda c, r: _spoil(c, _either(r), _one(r, np.nan)),
    "infinite": lambda c, r: _spoil(c, _either(r), _one(r, -np.inf)),
    "huge": lambda c, r: _spoil(c, _either(r), _one(r, 10 ** r.uniform(5, 300))),
    "negative count": lambda c, r: _spoil(c, _either(r), _count(-float(r.integers(1, 2**40)))),
    "no image": lambda c, r: _spoil(c, _either(r), _count(0.0)),
    "half an image": lambda c, r: _spoil(c, _either(r), _count(r.integers(1, 40) + 0.5)),
    "enormous count": lambda c, r: _spoil(c, _either(r), _count(float(r.integers(41, 2**50)))),
    "nan count": lambda c, r: _spoil(c, _either(r), _count(np.nan)),
    "fewer than said": lambda c, r: _spoil(c, TRAINING, _count(float(r.integers(1, 40)))),
    "negative variance": lambda c, r: _spoil(c, _either(r), _not_positive(r)),
    "wrong length": lambda c, r: _spoil(
        c, _either(r), lambda v: np.resize(v, r.choice([0, 1, 44, 46, 999]))
    ),
    "wrong type": lambda c, r: _spoil(c, _either(r), lambda v: v.astype(np.float32)),
    "no training set": _drop_training,
    "strange set": _strange_set,
    "losses not finite": _losses(float("nan")),
    "losses negative": _losses(-1e-9),
    "losses enormous": _losses(1e300),
    "losses of text": _set("losses", lambda r: ["0.5"] * 16),
    "too few losses": _set("losses", lambda r: [0.5] * int(r.integers(1, 16))),
    "no losses": _set("losses", lambda r: []),
    "quantiles that fall": _set("nearest", lambda r: [0.5, 0.4, 0.3, 0.2, 0.1]),
    "quantiles out of range": _set("nearest-held-out", lambda r: [0.0, 0.1, 0.2, 0.3, 2.1]),
    "no image held out": _set("held-out", lambda r: -int(r.integers(0, 2**40))),
    "enormous held out": _set("held-out", lambda r: int(r.integers(41, 2**40))),
    "another question": _set("number", lambda r: "0" * 16),
    "given and withheld": _set("withheld", lambda r: "none of your business"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_no_images_give_is_refused(name: str) -> None:
    rng = np.random.default_rng(len(name))
    for _ in range(EACH):
        content = pack_answer(_answer(), QUESTION)
        ATTACKS[name](content, rng)
        with pytest.raises(WireError):
            _read(content)
    assert EACH * len(ATTACKS) > 10_000


def test_what_was_cut_short_is_refused() -> None:
    content = pack_answer(_answer(), QUESTION)
    for key in list(content):
        less = RecordDict({name: value for name, value in content.items() if name != key})
        with pytest.raises(WireError):
            _read(less)
    for key in list(_record(content)):
        content = pack_answer(_answer(), QUESTION)
        del _record(content)[key]
        with pytest.raises(WireError):
            _read(content)


@pytest.mark.parametrize("features", [1, 2, 7, 64, 2048])
def test_a_vector_says_how_many_features_it_is_of(features: int) -> None:
    if features > 64:
        assert vector_length(features) == 1 + 2048 + 2048 * 2049 // 2
        return
    points = np.random.default_rng(features).standard_normal((9, features))
    moments = moments_of(points)
    back = from_vector(moments.vector())
    np.testing.assert_array_equal(back.products, moments.products)
    np.testing.assert_allclose(back.covariance, np.cov(points.T, bias=True).reshape(features, -1))


def test_no_image_has_features_beyond_the_bound() -> None:
    import torch

    network = untrained((3, 8, 8))
    bound = network.bound()
    signs = (
        torch.randint(0, 2, (500, 3, 8, 8), generator=torch.Generator().manual_seed(0)) * 2 - 1.0
    )
    found = network.features(signs).numpy()
    assert (abs(found) <= bound).all()
    assert np.isfinite(bound).all()
    assert fault_of(moments_of(found), bound) == ""
