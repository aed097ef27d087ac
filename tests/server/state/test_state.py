from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from common.config.run import RunConfig
from common.config.sections import EmaConfig, ServerConfig
from common.submodels import CompactSubmodel, Submodel, extract, full_submodel
from server.aggregation.mean import CoverageFold
from server.state.advance import ServerState, advance, initial_state
from server.state.optimizers import OPTIMIZERS
from tests.layouts import chain_layout
from tests.rounds import round_of

LAYOUT = chain_layout()
RNG = np.random.default_rng(1)


def _round(
    state: ServerState,
    submodel: Submodel,
    images: int,
    half_lives: Sequence[int] = (1000,),
    ramp: float = 10.0,
    server: ServerConfig = ServerConfig(),  # noqa: B008 - frozen
) -> ServerState:
    fold = CoverageFold(LAYOUT, 1.0)
    fold.add(extract(state.theta + np.float32(1), submodel), submodel, 1.0, images)
    config = RunConfig(ema=EmaConfig(half_life=tuple(half_lives), ramp=ramp), server=server)
    return advance(state, round_of(fold.finish(state.theta)), LAYOUT, config)


def _submodel(position: int) -> CompactSubmodel:
    positions = {name: np.array([position]) for name in LAYOUT.axes}
    return CompactSubmodel.from_positions(LAYOUT, 1, positions)


def _start(averages: int = 1, optimizer: Any = "plain") -> ServerState:
    theta = RNG.standard_normal(LAYOUT.size, dtype=np.float32)
    config = RunConfig(
        ema=EmaConfig(half_life=tuple(range(averages))), server=ServerConfig(optimizer=optimizer)
    )
    return initial_state(LAYOUT, theta, config)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_uncovered_coordinates_stay_bit_identical_through_twenty_rounds(optimizer: Any) -> None:
    server = ServerConfig(optimizer=optimizer)
    start = state = _start(optimizer=optimizer)
    for round in range(20):
        # Positions 2 and 3 are never trained.
        state = _round(state, _submodel(round % 2), 64, server=server)
    covered = set()
    for position in (0, 1):
        coordinates = extract(np.arange(LAYOUT.size, dtype=np.float32), _submodel(position))
        covered |= set(coordinates.astype(int))
    never = np.array(sorted(set(range(LAYOUT.size)) - covered))
    assert not state.moments[:, never].any()
    for before, after in ((start.theta, state.theta), (start.ema, state.ema)):
        assert before[never].tobytes() == after[never].tobytes()
        assert not np.isclose(before[sorted(covered)], after[sorted(covered)]).any()
    assert state.round == 20


def test_the_half_life_is_counted_in_images_that_trained_the_coordinate() -> None:
    start = _start()
    half = _round(start, _submodel(0), 1000)
    middle = extract((start.ema + half.theta) / 2, _submodel(0))
    np.testing.assert_allclose(extract(half.ema, _submodel(0)), middle, rtol=1e-6)
    quarter = _round(start, _submodel(0), 2000)
    expected = 0.25 * start.ema + 0.75 * quarter.theta
    np.testing.assert_allclose(
        extract(quarter.ema, _submodel(0)), extract(expected, _submodel(0)), rtol=1e-5
    )


def test_splitting_a_round_does_not_change_what_the_old_average_keeps() -> None:
    start = _start()
    once = _round(start, _submodel(0), 600)
    first = _round(start, _submodel(0), 300)
    ours = extract(np.arange(LAYOUT.size, dtype=np.float32), _submodel(0)).astype(int)
    kept_twice = ((first.theta - first.ema)[ours] / (first.theta - start.ema)[ours]) ** 2
    kept_once = (once.theta - once.ema)[ours] / (once.theta - start.ema)[ours]
    np.testing.assert_allclose(kept_twice, kept_once, rtol=1e-4)


def test_the_ramp_lets_go_of_the_initial_weights_and_zero_turns_averaging_off() -> None:
    start = _start()
    ours = extract(np.arange(LAYOUT.size, dtype=np.float32), _submodel(0)).astype(int)
    # All images so far came in this round: the half-life is a tenth of it, ten halvings.
    ramped = _round(start, _submodel(0), 500, half_lives=[10**9], ramp=0.1)
    kept = (ramped.theta - ramped.ema)[ours] / (ramped.theta - start.ema)[ours]
    np.testing.assert_allclose(kept, 2.0**-10, rtol=1e-2)
    off = _round(start, _submodel(0), 500, half_lives=[0])
    np.testing.assert_array_equal(off.ema[ours], off.theta[ours])


def test_several_averages_are_each_what_it_would_be_alone() -> None:
    half_lives = [5000, 100, 0]
    start = several = _start(3)
    alone = [replace(start, emas=start.emas[:1]) for _ in half_lives]
    for round in range(3):
        submodel = _submodel(round % 2)
        several = _round(several, submodel, 64, half_lives)
        alone = [
            _round(state, submodel, 64, [half_life])
            for state, half_life in zip(alone, half_lives, strict=True)
        ]
    for average, state in zip(several.emas, alone, strict=True):
        assert average.tobytes() == state.ema.tobytes()
    assert several.ema.tobytes() == several.emas[0].tobytes()
    assert len({average.tobytes() for average in several.emas}) == 3
    assert several.emas[2].tobytes() == several.theta.tobytes()
    assert (start.emas == start.theta).all(), "the state before is left alone"


def test_counts_and_images_add_up_over_rounds() -> None:
    state = _start()
    for _ in range(3):
        state = _round(state, _submodel(1), 64)
    for parameter, counts in LAYOUT.coverage_views(state.counts):
        expected = np.zeros(parameter.coverage_shape)
        expected[_submodel(1).coverage_index(parameter)] = 3
        np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(state.images, 64 * state.counts)


def test_an_average_counts_every_coordinate_s_own_images_also_where_atoms_differ() -> None:
    """Against the definition on every coordinate, after a round in which each atom had its own."""
    rng = np.random.default_rng(4)
    own = {
        name: np.stack([rng.permutation(LAYOUT.atom)[:2] for _ in range(axis.size // LAYOUT.atom)])
        for name, axis in LAYOUT.axes.items()
    }
    state = _start()
    (seen, last), ema = np.zeros((2, LAYOUT.size)), state.ema.astype(np.float64)
    for submodel, images in (
        (CompactSubmodel.from_positions(LAYOUT, 2, own), 300),
        (full_submodel(LAYOUT), 100),
        (_submodel(1), 50),
    ):
        state = _round(state, submodel, images, half_lives=(1000,), ramp=0.5)
        trained = np.zeros(LAYOUT.size)
        kept = extract(np.arange(LAYOUT.size, dtype=np.float32), submodel).astype(int)
        trained[kept] = images
        seen += trained
        keep = 2 ** (-trained / np.clip(np.minimum(1000, 0.5 * seen), 1e-9, None))
        ema = keep * ema + (1 - keep) * state.theta
        np.testing.assert_allclose(state.ema, ema, rtol=1e-5, atol=1e-6)
        last[kept] = state.round
        for vector, expected in ((state.images, seen), (state.last, last)):
            for parameter, view in LAYOUT.coverage_views(vector):
                on_all = np.broadcast_to(view, parameter.shape)
                np.testing.assert_array_equal(on_all, LAYOUT.view(expected, parameter))


def test_a_round_moves_all_of_the_state_on() -> None:
    config = RunConfig(fleet="1/4x3", policy="magnitude", refresh_every=3, update_check="clip")
    theta = RNG.standard_normal(LAYOUT.size, dtype=np.float32)
    first = initial_state(LAYOUT, theta, config)

    def after(state: ServerState, partition: int, norm: float, limit: str) -> ServerState:
        fold = CoverageFold(LAYOUT, 1.0)
        submodel = _submodel(partition)
        fold.add(extract(state.theta + np.float32(1), submodel), submodel, 1.0, 10)
        round = round_of(
            fold.finish(state.theta),
            masks={partition: submodel.bitmask()},
            norms={"1/4": (norm,)},
            limits={partition: Fraction(limit)},
        )
        return advance(state, round, LAYOUT, config)

    second = after(first, 2, 0.5, "1/4")
    third = after(second, 0, 0.7, "0")
    assert [state.round for state in (first, second, third)] == [0, 1, 2]
    assert [state.replies for state in (first, second, third)] == [0, 1, 2]
    assert third.norms == ({"1/4": (0.5,)}, {"1/4": (0.7,)})
    assert third.limits == {0: Fraction(0)}
    assert third.masks[2].tobytes() == _submodel(2).bitmask()
    assert third.masks[0].tobytes() == _submodel(0).bitmask()
    assert not third.masks[1].any()
    # In the later rounds of a stretch policies look at the weights before the first.
    assert first.looked_at is first.theta
    assert second.looked_at is second.anchor is theta
    assert third.looked_at is third.anchor is theta
    fourth = after(third, 1, 0.6, "0")
    assert fourth.anchor is None
    assert fourth.looked_at is fourth.theta
    assert not first.masks.any(), "the state before is left alone"
    unlooking = config.model_copy(update={"policy": "rolling"})
    aggregate = CoverageFold(LAYOUT, 1.0).finish(theta)
    assert advance(first, round_of(aggregate), LAYOUT, unlooking).anchor is None
