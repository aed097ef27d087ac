"""The private average: how far one client can move the sum, and the noise on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float32

from common.config.run import RunConfig
from common.config.sections import PrivacyConfig
from common.submodels import CompactSubmodel, Layout, extract, full_submodel
from server.aggregation.mean import CoverageFold
from server.privacy.fold import GRID, PrivateFold
from server.privacy.ledger import Ledger, Page
from tests.layouts import chain_layout, submodels

LAYOUT = chain_layout()
Update = tuple[CompactSubmodel, Float32[np.ndarray, "kept"]]


@dataclass(frozen=True)
class Forgetful(Page):
    """A page that writes nothing down, so that a round can be tried several ways."""

    def once(self, before, make):  # type: ignore[no-untyped-def]
        return make()


def _page(round: int = 1) -> Page:
    return Forgetful(Path(), bytes(range(32)), round)


def _config(noise: float, clip: float, rate: float = 1.0, clients: int = 1) -> RunConfig:
    privacy = PrivacyConfig(noise_multiplier=noise, clip=clip)
    drawn = round(rate * clients) if rate < 1 else 0
    fleet = f"1x{clients}"
    return RunConfig(weighting="uniform", fleet=fleet, clients_per_round=drawn, privacy=privacy)


def _fold(
    config: RunConfig,
    theta: Float32[np.ndarray, "P"],
    fleet: Sequence[CompactSubmodel],
    replies: Sequence[Update] = (),
    round: int = 1,
) -> PrivateFold:
    masks = [submodel.bitmask() for submodel in fleet]
    fold = PrivateFold(LAYOUT, config, theta, masks, _page(round))
    for submodel, values in replies:
        fold.add(values, submodel, 1.0, 64)
    return fold


def _theta(seed: int = 0, layout: Layout = LAYOUT) -> Float32[np.ndarray, "P"]:
    return np.random.default_rng(seed).normal(size=layout.size).astype(np.float32)


Drawn = tuple[int, list[tuple[CompactSubmodel, int]], float]
FLEETS = st.tuples(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(submodels(LAYOUT), st.integers(-6, 2)), min_size=1, max_size=5),
    st.sampled_from([1e-9, 1e-4, 0.3, 1.0, 7.0, 1e4]),
)
"""A seed, clients' submodels with the sizes of their updates as powers of ten, and a clip."""


def _played(drawn: Drawn) -> tuple[Float32[np.ndarray, "P"], list[Update], float]:
    """Return the weights, what clients reply, and the clip, which some exceed by far."""
    seed, clients, clip = drawn
    theta, rng = _theta(seed), np.random.default_rng(seed)
    replies = []
    for submodel, power in clients:
        values = extract(theta, submodel) + 10.0**power * rng.standard_normal(submodel.size)
        replies.append((submodel, np.clip(values, -1000, 1000).astype(np.float32)))
    return theta, replies, clip


@given(FLEETS, st.integers(0, 4), st.integers(0, 3))
def test_no_client_moves_the_sum_further_than_the_clip(drawn: Drawn, who: int, others: int) -> None:
    """In exact arithmetic: sums are whole numbers of grid steps."""
    theta, replies, clip = _played(drawn)
    who %= len(replies)
    # Some of the fleet are not drawn, and count for the divisors all the same.
    everybody = [submodel for submodel, _ in replies] + [full_submodel(LAYOUT)] * others
    config = _config(1.0, clip, clients=len(everybody))
    with_it = _fold(config, theta, everybody, replies)
    without = _fold(config, theta, everybody, replies[:who] + replies[who + 1 :])
    steps = (with_it.sums - without.sums) * GRID
    assert np.array_equal(steps, np.round(steps))
    squared = sum(Fraction(int(step)) ** 2 for step in steps)
    assert squared <= (Fraction(clip) * Fraction(with_it.share) * int(GRID)) ** 2
    # Nothing else of the round depends on it.
    assert with_it.share == without.share
    assert np.array_equal(with_it.finish(theta).counts, without.finish(theta).counts)
    assert np.array_equal(with_it.finish(theta).images, without.finish(theta).images)


def test_a_long_update_is_shortened_to_the_clip_and_a_short_one_left_as_it_is() -> None:
    theta, full = np.zeros(LAYOUT.size, np.float32), full_submodel(LAYOUT)
    for length, expected in ((0.5, 0.5), (30.0, 2.0)):
        values = np.zeros_like(theta)
        values[3], values[9] = 0.6 * length, 0.8 * length
        sums = _fold(_config(1.0, 2.0), theta, [full], [(full, values)]).sums
        assert np.linalg.norm(sums) == pytest.approx(expected, rel=1e-6)
        assert sums[3] / sums[9] == pytest.approx(0.75, rel=1e-6)


@given(FLEETS)
def test_without_noise_and_clipping_it_is_the_plain_average_with_equal_weights(
    drawn: Drawn,
) -> None:
    theta, replies, _ = _played(drawn)
    plain = CoverageFold(LAYOUT, float(len(replies)))
    for submodel, values in replies:
        plain.add(values, submodel, 1.0, 64)
    expected = plain.finish(theta)
    config = _config(0.0, 1e9, clients=len(replies))
    private = _fold(config, theta, [submodel for submodel, _ in replies], replies).finish(theta)
    assert np.array_equal(private.counts, expected.counts)
    # Each rounds to float32 once or twice, at the size of the weight or of the change.
    largest = np.maximum(np.abs(expected.theta), np.abs(theta))
    assert np.all(np.abs(private.theta - expected.theta) <= 2.0**-22 * largest + 1e-9)
    untouched = expected.theta.view(np.int32) == theta.view(np.int32)
    nobody = _nobody(expected.counts)
    assert untouched[nobody].all()
    assert private.theta[nobody].tobytes() == theta[nobody].tobytes()


def _nobody(counts: np.ndarray) -> np.ndarray:
    """Return which coordinates nobody holds."""
    none = np.empty(LAYOUT.size, bool)
    for parameter, part in LAYOUT.coverage_views(counts):
        LAYOUT.view(none, parameter)[...] = part == 0
    return none


def test_the_noise_has_the_variance_that_was_promised_on_every_coordinate() -> None:
    """That is (z C / (q N))² where N clients hold it, whoever replied: here nobody."""
    half = _submodel(2)
    fleet = [full_submodel(LAYOUT), half, half, _submodel(1)]
    config = _config(0.7, 3.0, rate=0.5, clients=len(fleet))
    theta, rounds = np.zeros(LAYOUT.size, np.float32), 600
    results = [_fold(config, theta, fleet, round=r).finish(theta) for r in range(1, rounds + 1)]
    noise = np.stack([each.theta for each in results]).astype(np.float64)
    holders = np.empty(LAYOUT.size)
    for parameter, part in LAYOUT.coverage_views(results[0].counts):
        LAYOUT.view(holders, parameter)[...] = part
    assert set(holders) >= {1.0, 3.0, 4.0}
    unit = noise / (0.7 * 3.0 / (0.5 * holders))
    # Five standard deviations, for each coordinate and for all numbers together.
    variance = (unit**2).mean(axis=0)
    assert np.abs(variance - 1).max() < 5 * np.sqrt(2 / rounds)
    assert np.abs(unit.mean(axis=0)).max() < 5 / np.sqrt(rounds)
    assert abs(variance.mean() - 1) < 5 * np.sqrt(2 / unit.size)
    for level in (1.0, 3.0, 4.0):
        some = unit[:, holders == level]
        assert abs((some**2).mean() - 1) < 5 * np.sqrt(2 / some.size)
    assert abs((unit[:, 1:] * unit[:, :-1]).mean()) < 5 / np.sqrt(unit.size)
    assert abs((unit[1:] * unit[:-1]).mean()) < 5 / np.sqrt(unit.size)


def _submodel(k: int) -> CompactSubmodel:
    positions = {
        name: np.tile(np.arange(k), (axis.size // LAYOUT.atom, 1))
        for name, axis in LAYOUT.axes.items()
    }
    return CompactSubmodel.from_positions(LAYOUT, k, positions)


def test_where_nobody_holds_a_weight_it_keeps_every_bit() -> None:
    theta = _theta()
    theta[::2] = -0.0
    fleet = [_submodel(2), _submodel(1)]
    result = _fold(_config(1.0, 1.0, clients=2), theta, fleet).finish(theta)
    nobody = _nobody(result.counts)
    assert 0 < nobody.sum() < nobody.size
    assert result.theta[nobody].tobytes() == theta[nobody].tobytes()
    assert (result.theta[~nobody] != theta[~nobody]).all()


@given(FLEETS, st.permutations(range(5)))
def test_the_order_of_replies_changes_no_bit(drawn: Drawn, order: list[int]) -> None:
    theta, replies, clip = _played(drawn)
    config = _config(0.5, clip, clients=len(replies))
    everybody = [submodel for submodel, _ in replies]
    expected = _fold(config, theta, everybody, replies).finish(theta).theta.tobytes()
    shuffled = [replies[i] for i in order if i < len(replies)]
    assert _fold(config, theta, everybody, shuffled).finish(theta).theta.tobytes() == expected


def test_a_silent_client_leaves_divisors_and_noise_as_they_are() -> None:
    """What it would have added is all that is missing."""
    theta, full, half = _theta(), full_submodel(LAYOUT), _submodel(2)
    values = (extract(theta, half) + np.float32(0.01)).astype(np.float32)
    config = _config(1.0, 100.0, clients=2)
    there, absent = (
        _fold(config, theta, [full, half], replies).finish(theta).theta.astype(np.float64)
        for replies in ([(half, values)], [])
    )
    counts = _fold(config, theta, [full, half]).counts
    holders = np.empty(LAYOUT.size)
    for parameter, part in LAYOUT.coverage_views(counts):
        LAYOUT.view(holders, parameter)[...] = part
    expected = np.where(holders == 2, 0.01 / 2, 0)
    # A weight with this noise is below 2^9, so float32 tells multiples of 2^-15 apart.
    assert there - absent == pytest.approx(expected, abs=2.0**-14)
    assert (there != absent).sum() >= (holders == 2).sum() - 5


def test_rounds_do_not_share_their_noise() -> None:
    theta, full = np.zeros(LAYOUT.size, np.float32), full_submodel(LAYOUT)
    seen = {
        _fold(_config(1.0, 1.0), theta, [full], round=r).finish(theta).theta[0] for r in range(9)
    }
    assert len(seen) == 9


def test_a_release_is_made_once_whatever_replies_come_the_second_time(tmp_path: Path) -> None:
    theta, full = _theta(), full_submodel(LAYOUT)
    page = Ledger(tmp_path, resumed=False).page(1)
    results = []
    for shift in map(np.float32, count(0)):
        fold = PrivateFold(LAYOUT, _config(1.0, 9.0), theta, [full.bitmask()], page)
        fold.add(theta + shift, full, 1.0, 64)
        results.append(fold.finish(theta).theta.tobytes())
        if shift == 2:
            break
    assert len(set(results)) == 1
