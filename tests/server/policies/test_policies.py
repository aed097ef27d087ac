"""Every policy against a few lines of plain NumPy written from its published definition."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from common.config.fleet import fleet_codes, parse_fleet
from common.config.run import RunConfig
from common.errors import UserError
from common.submodels import CompactSubmodel, Layout
from server.fleet.assignments import request_for
from server.fleet.members import fleet_of
from server.policies.choose import policy_named, submodel_for
from server.policies.fixed import ordered
from server.policies.registry import POLICIES
from server.policies.request import GlobalWeights, Request
from tests.layouts import chain_layout

LAYOUT = chain_layout(atom=4, atoms=2)
NAMES = [*POLICIES, "core+random", "core2+rolling", "core+magnitude", "core+core+covering"]


def _request(layout: Layout = LAYOUT, k: int = 2, stretch: int = 1, seed: int = 0) -> Request:
    theta = np.random.default_rng([seed, 99]).normal(size=layout.size).astype(np.float32)
    return Request(
        layout=layout,
        k=k,
        index=0,
        count=1,
        stretch=stretch,
        rng=np.random.default_rng([seed, stretch]),
        seed=seed,
        widths=(1, 2, layout.atom),
        code=5,
        weights=GlobalWeights(layout, lambda: theta),
    )


def _compact(policy: str, request: Request) -> CompactSubmodel:
    submodel = submodel_for(policy, request)
    assert isinstance(submodel, CompactSubmodel)
    return submodel


def _inside(policy: str, request: Request) -> dict[str, np.ndarray]:
    """Return, for each axis, the kept positions of every atom, sorted."""
    submodel = _compact(policy, request)
    return {n: kept.reshape(-1, submodel.k) % 4 for n, kept in submodel.kept.items()}


WIDTHS = {
    "full": lambda k, atom: {atom},
    "ordered": lambda k, atom: {width for width in (1, 2, k) if width <= k},
    "quarters": lambda k, atom: {atom // 2},
    "quarters-ranked": lambda k, atom: {atom // 2},
}
"""Channels of an atom that a policy may keep of a request for k, where that is not k itself."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("atom", [4, 6, 8])
def test_every_policy_keeps_as_much_as_it_is_asked_for_and_the_same_each_time(
    name: str, atom: int
) -> None:
    if atom == 6 and (policy_named(name).by_type or name == "balanced"):
        pytest.skip("six channels have no quarters, and there is no field of six elements")
    layout = chain_layout(atom=atom)
    cut = [p.size for p in layout.parameters if len(p.shape) > 1]
    for k in range(1, atom + 1):
        for stretch in (1, 2, 5):
            first, again = (submodel_for(name, _request(layout, k, stretch)) for _ in range(2))
            assert first.bitmask() == again.bitmask()
            if policy_named(name).single_weights:  # gains and biases are whole
                assert first.size == layout.size - sum(cut) + sum(n * k // atom for n in cut)
            else:
                assert first.k in WIDTHS.get(name, lambda k, _: {k})(k, atom)


def test_ordered_draws_each_of_the_fleets_widths_up_to_its_own_equally_often() -> None:
    for k, widths in ((1, {1}), (2, {1, 2}), (3, {1, 2, 3}), (4, {1, 2, 4})):
        drawn: Counter[int] = Counter()
        for round in range(1, 3001):
            choice = ordered(_request(k=k, stretch=round))
            (positions,) = {tuple(each) for each in choice.values()}
            assert positions == tuple(range(len(positions)))
            drawn[len(positions)] += 1
        assert set(drawn) == widths
        # Five deviations of a binomial count leave one chance in a million.
        expected = 3000 / len(widths)
        assert all(abs(n - expected) < 5 * expected**0.5 + 1 for n in drawn.values())


def _norm(theta: np.ndarray, axis: str, channel: int) -> float:
    """Return the norm of all weights of a channel, found entry by entry."""
    total = 0.0
    for parameter in LAYOUT.parameters:
        values = LAYOUT.view(theta, parameter)
        for place in np.ndindex(*parameter.shape):
            for index, channels in zip(place, parameter.channels, strict=True):
                flat = [(a.name, i) for a in channels for i in range(a.size)]
                if flat and flat[index] == (axis, channel):
                    total += float(values[place]) ** 2
    return total**0.5


@pytest.mark.parametrize("k", [1, 3])
def test_magnitude_keeps_the_largest_channels_of_every_atom(k: int) -> None:
    request = _request(k=k)
    assert request.weights is not None
    inside = _inside("magnitude", request)
    for name in LAYOUT.axes:
        norms = np.array([_norm(request.weights.theta, name, c) for c in range(8)])
        for atom in range(2):
            best = sorted(range(4), key=lambda p: -norms[4 * atom + p])[:k]
            assert inside[name][atom].tolist() == sorted(best)


@pytest.mark.parametrize("policy", NAMES)
def test_it_is_known_which_policies_look_at_the_weights(policy: str) -> None:
    looks = []

    def theta() -> np.ndarray:
        looks.append(True)
        return np.ones(LAYOUT.size, np.float32)

    for k in (1, 3):
        request = replace(_request(k=k), weights=GlobalWeights(LAYOUT, theta))
        submodel_for(policy, request)
    assert bool(looks) == policy_named(policy).by_weights


def test_a_policy_may_look_at_the_weights_but_not_change_them() -> None:
    request = _request()
    assert request.weights is not None
    with pytest.raises(ValueError, match="read-only"):
        request.weights.theta[0] = 1


@pytest.mark.parametrize("atom", [3, 4, 6])
def test_covering_uses_every_position_before_it_uses_one_again(atom: int) -> None:
    layout = chain_layout(atom=atom)
    for k in range(1, atom + 1):
        used = {name: np.zeros(axis.size, int) for name, axis in layout.axes.items()}
        for round in range(1, 26):
            for name, kept in _compact("covering", _request(layout, k, stretch=round)).kept.items():
                used[name][kept] += 1
                assert used[name].max() - used[name].min() <= 1


def test_covering_draws_every_set_of_positions_equally_often_and_atoms_on_their_own() -> None:
    sets: Counter[tuple[int, ...]] = Counter()
    pairs = np.zeros((4, 4))
    for seed in range(1500):
        # The second draw of three from four takes the one left and two from the next pack.
        inside = _inside("covering", _request(k=3, stretch=2, seed=seed))
        sets[tuple(inside["a"][0])] += 1
        ones = _inside("covering", _request(k=1, stretch=2, seed=seed))
        pairs[ones["a"][0, 0], ones["b"][1, 0]] += 1
    assert len(sets) == 4
    assert all(abs(n - 375) < 5 * 375**0.5 for n in sets.values())
    assert np.abs(pairs - 1500 / 16).max() < 5 * (1500 / 16) ** 0.5


def test_clients_of_a_rate_draw_from_one_pack_in_covering() -> None:
    config = RunConfig(fleet="1/4x4", policy="covering")
    fleet = fleet_of(parse_fleet(config.fleet), [(0, 0)] * 4)
    for round in (1, 2):
        kept = [_inside("covering", request_for(LAYOUT, config, c, round)) for c in fleet]
        for name in LAYOUT.axes:
            together = np.concatenate([each[name] for each in kept], axis=1)
            assert (np.sort(together, axis=1) == np.arange(4)).all()


def test_random_shared_keeps_one_draw_everywhere_and_all_draws_equally_often() -> None:
    drawn: Counter[tuple[int, ...]] = Counter()
    for round in range(1, 1201):
        inside = _inside("random-shared", _request(stretch=round))
        (positions,) = {tuple(row) for rows in inside.values() for row in rows.tolist()}
        drawn[positions] += 1
    assert len(drawn) == 6
    assert all(abs(n - 200) < 5 * 200**0.5 for n in drawn.values())


def test_a_core_is_in_every_submodel_and_the_rest_is_the_other_policys() -> None:
    for round in range(1, 8):
        rows = _inside("core+rolling", _request(k=3, stretch=round))["b"].tolist()
        window = sorted(1 + (np.arange(2) + round - 1) % 3)
        assert rows == [[0, *window]] * 2
    drawn = Counter(
        tuple(_inside("core2+random", _request(k=3, stretch=round))["c"][1])
        for round in range(1, 1001)
    )
    assert set(drawn) == {(0, 1, 2), (0, 1, 3)}
    assert abs(drawn[0, 1, 2] - 500) < 5 * 250**0.5
    for k in (1, 2):
        narrow = _inside("core2+random", _request(k=k))
        assert all((rows == np.arange(k)).all() for rows in narrow.values())
    assert submodel_for("core+random", _request(k=4)).density == 1


def test_magnitude_beside_a_core_ranks_by_the_weights_without_the_core() -> None:
    request = _request(k=2)
    assert request.weights is not None
    bare = request.weights.theta.copy()
    for parameter in LAYOUT.parameters:
        view = LAYOUT.view(bare, parameter)
        for dimension, channels in enumerate(parameter.channels):
            if channels:
                np.moveaxis(view, dimension, 0)[::4] = 0
    inside = _inside("core+magnitude", request)
    for atom in range(2):
        norms = [_norm(bare, "a", 4 * atom + p) for p in (1, 2, 3)]
        assert inside["a"][atom].tolist() == [0, 1 + int(np.argmax(norms))]


TYPES = {1: "xxxx", 2: "xx.x", 3: "x.xx", 4: ".xxx", 5: "x..x", 6: ".x.x", 7: "..xx"}
"""The table in the released code: quarters from the smallest weights to the largest."""


def test_quarters_are_those_of_the_published_table() -> None:
    for code, row in TYPES.items():
        kept = [quarter for quarter in range(4) if row[quarter] == "x"]
        request = replace(_request(k=len(kept)), code=code)
        for rows in _inside("quarters", request).values():
            assert (rows == kept).all()
        assert request.weights is not None
        norms = np.array([_norm(request.weights.theta, "b", c) for c in range(8)]).reshape(2, 4)
        ranked = _inside("quarters-ranked", request)["b"]
        for atom in range(2):
            smallest_first = sorted(range(4), key=lambda p: norms[atom][p])
            assert ranked[atom].tolist() == sorted(smallest_first[q] for q in kept)
    eights = chain_layout(atom=8)
    wide = _compact("quarters", replace(_request(eights, k=4), code=6)).kept["a"]
    assert wide[:4].tolist() == [2, 3, 6, 7]


@pytest.mark.parametrize(
    ("fleet", "density", "gamma"),
    [
        ("1111223344", 0.85, 8),
        ("1111444444", 0.85, 4),
        ("1234556677", 0.625, 5),
        ("1477777777", 0.575, 1),
        ("1455666777", 0.575, 3),
    ],
)
def test_published_fleets_have_their_published_density_and_coverage(
    fleet: str, density: float, gamma: int
) -> None:
    config = RunConfig(fleet=fleet, policy="quarters")
    counts = np.zeros(4)
    for client in fleet_of(parse_fleet(fleet), [(0, 0)] * 10):
        for position in _inside("quarters", request_for(LAYOUT, config, client, 1))["a"][0]:
            counts[position] += 1
    assert counts.mean() / 10 == pytest.approx(density)
    assert counts.min() == gamma


@pytest.mark.parametrize("policy", ["random", "rolling", "covering", "balanced", "ordered"])
def test_clients_move_when_the_stretch_of_rounds_is_over(policy: str) -> None:
    config = RunConfig(fleet="1x1 1/2x1 1/4x3", policy=policy, refresh_every=3)
    fleet = fleet_of(parse_fleet(config.fleet), [(0, 0)] * 5)

    def kept(change: dict[str, int], round: int) -> list[bytes]:
        changed = config.model_copy(update=change)
        requests = [request_for(LAYOUT, changed, client, round) for client in fleet]
        return [submodel_for(policy, request).bitmask() for request in requests]

    rounds = [kept({}, round) for round in range(1, 10)]
    for start in (0, 3, 6):
        assert rounds[start] == rounds[start + 1] == rounds[start + 2]
    moving = [kept({"refresh_every": 1}, round) for round in (1, 2, 3)]
    assert rounds[::3] == moving
    assert len({tuple(each) for each in moving}) > 1
    assert kept({"refresh_every": 0}, 50) == moving[0]


@pytest.mark.parametrize(
    ("policy", "change", "message"),
    [
        ("quarters", {"code": 0}, "quarters .* need a fleet written in types"),
        ("quarters", {"layout": chain_layout(atom=6)}, "quarters cannot be had of atoms of 6"),
        ("core+element-random", {}, "has a core of channels, element-random no channels"),
        ("core+fancy", {}, "'fancy' is not one of full, static"),
    ],
)
def test_what_a_policy_cannot_do_is_said(
    policy: str, change: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        submodel_for(policy, replace(_request(), **change))  # type: ignore[arg-type]


def test_a_code_is_ten_types() -> None:
    assert fleet_codes(" 1234556677 ") == (1, 2, 3, 4, 5, 5, 6, 6, 7, 7)
    assert [str(rate) for rate in parse_fleet("1234556677")[3:6]] == ["3/4", "1/2", "1/2"]
    assert fleet_codes("1x2 1/2x3") == fleet_codes("1") == ()
    for wrong in ("111122334", "11112233445"):
        with pytest.raises(UserError, match=rf"'{wrong}' has {len(wrong)} digits; it needs ten"):
            parse_fleet(wrong)
