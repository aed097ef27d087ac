from fractions import Fraction

import numpy as np
import pytest

from common.errors import UserError
from common.network.unet import layout_of
from common.submodels import Axis, CompactSubmodel, Layout, Parameter
from server.policies.balanced import axis_colours
from server.policies.choose import submodel_for
from server.policies.galois import galois_field
from server.policies.registry import POLICIES
from server.policies.request import GlobalWeights, Request
from tests.architectures import CIFAR10_DDPM, DIGITS, TINY
from tests.layouts import chain_layout

LAYOUT = chain_layout(atom=4, atoms=2)


def _request(
    k: int, slot: int = 0, count: int = 1, layout: Layout = LAYOUT, seed: int = 0
) -> Request:
    return Request(
        layout=layout,
        k=k,
        index=slot % count,
        count=count,
        stretch=slot // count + 1,
        rng=np.random.default_rng([seed, slot]),
        code=1,
        weights=GlobalWeights(layout, lambda: np.ones(layout.size, np.float32)),
    )


def _submodel(
    policy: str, k: int, slot: int = 0, count: int = 1, layout: Layout = LAYOUT, seed: int = 0
) -> CompactSubmodel:
    submodel = submodel_for(policy, _request(k, slot, count, layout, seed))
    assert isinstance(submodel, CompactSubmodel)
    return submodel


def _counts(submodels: list[CompactSubmodel]) -> list[np.ndarray]:
    """Return how many of the submodels cover each entry of each parameter."""
    layout = submodels[0].layout
    counts = [np.zeros(p.coverage_shape, np.int64) for p in layout.parameters]
    for submodel in submodels:
        for parameter, count in zip(layout.parameters, counts, strict=True):
            count[submodel.coverage_index(parameter)] += 1
    return counts


def test_static_keeps_the_first_positions_of_every_atom_in_every_round() -> None:
    for slot in range(5):
        submodel = _submodel("static", 2, slot)
        for channels in submodel.kept.values():
            np.testing.assert_array_equal(channels, [0, 1, 4, 5])


def test_rolling_moves_the_window_by_one_a_round_for_all_clients_alike() -> None:
    windows = [[0, 1, 4, 5], [1, 2, 5, 6], [2, 3, 6, 7], [0, 3, 4, 7], [0, 1, 4, 5]]
    for round, expected in enumerate(windows):
        for client in range(3):
            submodel = _submodel("rolling", 2, slot=3 * round + client, count=3)
            for channels in submodel.kept.values():
                np.testing.assert_array_equal(channels, expected)


def test_random_keeps_every_channel_equally_often_and_atoms_independently() -> None:
    submodels = [_submodel("random", 1, slot) for slot in range(4000)]
    kept = np.array([submodel.kept["a"] for submodel in submodels])
    pairs = np.zeros((4, 4))
    np.add.at(pairs, (kept[:, 0] % 4, kept[:, 1] % 4), 1)
    # 250 expected in a cell with deviation 15: five deviations leave one chance in a million.
    assert np.abs(pairs - 250).max() < 77
    assert not np.array_equal(submodels[0].kept["a"], submodels[0].kept["b"]) or (
        not np.array_equal(submodels[1].kept["a"], submodels[1].kept["b"])
    )


def test_random_depends_on_its_stream_alone() -> None:
    first, again, other = (_submodel("random", 2, 3, seed=s).bitmask() for s in (7, 7, 8))
    assert first == again != other


@pytest.mark.parametrize("policy", POLICIES)
def test_rate_one_is_the_full_model_under_every_policy(policy: str) -> None:
    assert submodel_for(policy, _request(4)).density == 1


def test_full_ignores_the_rate() -> None:
    assert _submodel("full", 1).density == 1


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("architecture", [DIGITS, CIFAR10_DDPM, TINY])
def test_balanced_covers_every_coordinate_equally_in_an_aligned_window(
    architecture: object, k: int
) -> None:
    layout = layout_of(architecture.model, architecture.channels)  # type: ignore[attr-defined]
    a = layout.atom
    assert a == 4
    for start in (0, 3 * a * a):
        window = [_submodel("balanced", k, slot, 3, layout) for slot in range(start, start + a * a)]
        for parameter, count in zip(layout.parameters, _counts(window), strict=True):
            cut = sum(bool(channels) for channels in parameter.channels)
            expected = a * a * Fraction(k, a) ** cut
            assert count.min() == count.max() == expected, parameter.name


def test_balanced_covers_every_position_equally_in_any_aligned_row_of_slots() -> None:
    for k in (1, 2, 3):
        for start in range(0, 16, 4):
            row = [_submodel("balanced", k, slot) for slot in range(start, start + 4)]
            for name in LAYOUT.axes:
                kept = np.concatenate([submodel.kept[name] for submodel in row])
                assert (np.bincount(kept, minlength=8) == k).all()


def test_lockstep_rolling_never_covers_three_quarters_of_the_position_pairs() -> None:
    rounds = [_submodel("rolling", 1, slot) for slot in range(200)]
    for parameter, count in zip(LAYOUT.parameters, _counts(rounds), strict=True):
        cut = sum(bool(channels) for channels in parameter.channels)
        never = (count == 0).mean()
        assert never == (0.75 if cut == 2 else 0.0), parameter.name


def test_axes_that_meet_in_a_tensor_have_different_colours() -> None:
    for layout in (LAYOUT, layout_of(DIGITS.model, 1), layout_of(CIFAR10_DDPM.model, 3)):
        colours = axis_colours(layout)
        assert set(colours.values()) <= set(range(layout.atom))
        for parameter in layout.parameters:
            cut = [channels for channels in parameter.channels if channels]
            if len(cut) == 2:
                first, second = ({colours[axis.name] for axis in channels} for channels in cut)
                assert not first & second, parameter.name


def test_balanced_says_why_it_cannot_serve_a_layout() -> None:
    with pytest.raises(UserError, match="prime power"):
        _submodel("balanced", 1, layout=chain_layout(atom=6))
    a, b, c = (Axis(name, 2) for name in "abc")
    triangle = [("ab", (a, b)), ("bc", (b, c)), ("ca", (c, a))]
    parameters = tuple(
        Parameter(name, (2, 2), ((x,), (y,)), 4 * i) for i, (name, (x, y)) in enumerate(triangle)
    )
    with pytest.raises(UserError, match="needs 3 colours"):
        _submodel("balanced", 1, layout=Layout(parameters, 2))


def test_an_unknown_policy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="'fancy' is not one of full, static, ordered, rolling"):
        _submodel("fancy", 1)


@pytest.mark.parametrize("order", [2, 3, 4, 5, 7, 8, 9, 16])
def test_galois_fields_are_fields(order: int) -> None:
    field = galois_field(order)
    assert field is not None
    e = np.arange(order)
    for table, neutral in ((field.add, 0), (field.multiply, 1)):
        np.testing.assert_array_equal(table, table.T)
        np.testing.assert_array_equal(table[neutral], e)
        np.testing.assert_array_equal(table[table[:, :, None], e], table[e[:, None, None], table])
    assert all(sorted(row) == list(e) for row in field.add.tolist())
    assert all(sorted(row[1:]) == list(e[1:]) for row in field.multiply[1:].tolist())
    left = field.multiply[e[:, None, None], field.add]
    right = field.add[field.multiply[:, :, None], field.multiply[:, None, :]]
    np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("order", [1, 6, 10, 12])
def test_there_is_no_field_of_other_orders(order: int) -> None:
    assert galois_field(order) is None
