"""A client's own images and those of a replay: who learns from which."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from client import training
from client.batches import Batch, draw_batch, frequencies
from client.flat import FlatModel
from client.training import train_locally
from common.config import ModelConfig, RunConfig
from common.data import ImageData, scaled
from common.network import initial_weights, layout_of
from common.replay import Replay
from common.submodels import extract, full_submodel, submodel_of_rate

MODEL = ModelConfig(widths=(8, 16), groups=2, attention=(), layers=1)
CONFIG = RunConfig(model=MODEL, batch_size=16, local_steps=2, fleet="1x1 1/2x1 1/4x1")
LAYOUT = layout_of(MODEL, 1)
THETA = initial_weights(MODEL, 1, 0)
BLACK = ImageData(
    np.zeros((6, 1, 8, 8), np.uint8), np.array([0, 0, 0, 1, 1, 2]), 4, "black", white=255
)
WHITE = Replay(
    images=np.full((8, 1, 8, 8), 255, np.uint8),
    labels=np.arange(8) % 4,
    teacher=LAYOUT.kept_per_atom(Fraction(1, 2)),
    share=Fraction(3, 8),
)


def _batch(replay: Replay | None) -> Batch:
    rng = np.random.default_rng(1)
    return draw_batch(BLACK, CONFIG, rng, torch.manual_seed(2), replay=replay)


def test_a_batch_holds_the_client_s_images_and_after_them_the_replay_s() -> None:
    batch = _batch(WHITE)
    assert (len(batch.x0), batch.replayed) == (16 + 6, 6)
    own, taught = batch.own(), batch.taught()
    assert (own.x0 == -1).all()
    for each in (own, taught):
        assert len(each.x0) == len(each.t) == len(each.noise) == 16
        assert each.replayed == 0
    assert (taught.x0[:10] == -1).all()
    assert (taught.x0[10:] == 1).all()
    torch.testing.assert_close(taught.noise[:10], own.noise[6:], rtol=0, atol=0)
    plain = _batch(None)
    assert plain.own() is plain.taught() is plain
    assert len(plain.x0) == 16


def test_a_client_learns_from_what_it_is_sent() -> None:
    full = full_submodel(LAYOUT)

    def trained(replay: Replay | None) -> np.ndarray:
        rng = np.random.default_rng(0)
        start = extract(THETA, full)
        return train_locally(start, full, BLACK, CONFIG, 1, rng, None, replay).values

    black = replace(WHITE, images=np.zeros_like(WHITE.images))
    np.testing.assert_array_equal(trained(WHITE), trained(WHITE))
    assert not np.array_equal(trained(WHITE), trained(black))
    assert not np.array_equal(trained(None), trained(black))


def test_only_widths_above_the_teacher_learn_and_all_from_as_many_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, bool]] = []
    original = training.backward

    def watched(models: list[tuple[FlatModel, Batch]], config: RunConfig) -> torch.Tensor:
        assert {len(batch.x0) for _, batch in models} == {16}
        seen.extend((model.theta.numel(), bool((batch.x0 == 1).any())) for model, batch in models)
        return original(models, config)

    monkeypatch.setattr(training, "backward", watched)
    sizes = {rate: submodel_of_rate(LAYOUT, Fraction(rate)).size for rate in ("1", "1/2", "1/4")}
    full = full_submodel(LAYOUT)
    for teacher, learn in (("1/2", {"1"}), ("1/4", {"1", "1/2"})):
        seen.clear()
        replay = replace(WHITE, teacher=LAYOUT.kept_per_atom(Fraction(teacher)))
        train_locally(
            extract(THETA, full), full, BLACK, CONFIG, 1, np.random.default_rng(0), None, replay
        )
        expected = {size: rate in learn for rate, size in sizes.items()}
        assert set(seen) == set(expected.items())


def test_a_conditional_client_is_shown_first_the_classes_that_it_lacks() -> None:
    config = CONFIG.model_copy(update={"model": MODEL.model_copy(update={"num_classes": 4})})
    weights = frequencies(WHITE, BLACK, config)
    assert weights is not None
    assert weights.sum() == pytest.approx(1)
    by_class = np.bincount(WHITE.labels, weights, minlength=4)
    # Of its own images 3, 2, 1 and 0 of six, at 5/8 of a batch: what is missing of a quarter each.
    missing = np.clip(1 / 4 - 5 / 8 * np.array([3, 2, 1, 0]) / 6, 0, None)
    np.testing.assert_allclose(by_class, missing / missing.sum())
    assert by_class[3] == by_class.max() > by_class[0]
    assert frequencies(WHITE, BLACK, CONFIG) is None, "without classes all are drawn alike"


def test_classes_that_nobody_drew_are_not_asked_for() -> None:
    config = CONFIG.model_copy(update={"model": MODEL.model_copy(update={"num_classes": 4})})
    some = replace(WHITE, labels=np.zeros(8, np.int64))
    three = frequencies(some, BLACK, config)
    assert three is None, "the client has more of class 0 than its part: any image will do"


def test_levels_are_scaled_as_the_client_s_own() -> None:
    levels = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 8, 8), np.uint8)
    batch = _batch(replace(WHITE, images=levels))
    assert set(np.unique(batch.x0[16:])) <= set(scaled(np.arange(8, dtype=np.uint8), 255))
