"""Seats: within a stretch nobody moves, whoever comes, goes or gets another rate."""

from fractions import Fraction

from server.fleet.members import Client, fleet_of
from server.fleet.stretches import seated, seats_after
from tests.federations import tiny_with

HALF, QUARTER = Fraction(1, 2), Fraction(1, 4)
OPEN = tiny_with(fleet="auto", refresh_every=4)
FIXED = tiny_with(fleet="1/2x3", refresh_every=4)


def _fleet(*rates: Fraction | None) -> list[Client]:
    """Return whoever has come, of whom those without a rate are away."""
    answers = [None if rate is None else (1 + i, 9) for i, rate in enumerate(rates)]
    return fleet_of([rate or HALF for rate in rates], answers, range(len(rates)))


def _places(fleet: list[Client]) -> list[tuple[int, int, int]]:
    return [(c.partition, c.index, c.count) for c in fleet if c.present]


def test_who_comes_sits_behind_the_others_and_who_goes_leaves_a_gap() -> None:
    first = _fleet(HALF, HALF, HALF)
    seats = seats_after(OPEN, 1, seated(first, {}), {})
    assert _places(seated(first, seats)) == [(0, 0, 3), (1, 1, 3), (2, 2, 3)]
    second = seated(_fleet(None, HALF, HALF, HALF, QUARTER), seats)
    assert _places(second) == [(1, 1, 3), (2, 2, 3), (3, 3, 3), (4, 0, 1)]
    seats = seats_after(OPEN, 2, second, seats)
    third = seated(_fleet(HALF, HALF, HALF, HALF, QUARTER, HALF, QUARTER), seats)
    assert _places(third) == [
        *((0, 0, 3), (1, 1, 3), (2, 2, 3), (3, 3, 3), (4, 0, 1), (5, 4, 3), (6, 1, 1))
    ]
    assert seats_after(OPEN, 4, third, seats) == {}, "the next round begins a stretch"


def test_another_rate_is_another_seat_and_nobody_else_moves() -> None:
    seats = seats_after(OPEN, 1, _fleet(HALF, HALF, QUARTER), {})
    moved = seated(_fleet(QUARTER, HALF, QUARTER), seats)
    assert _places(moved) == [(0, 1, 1), (1, 1, 2), (2, 0, 1)]


def test_in_a_fixed_fleet_an_empty_place_is_kept() -> None:
    first = fleet_of([HALF] * 3, [None, (2, 9), (3, 9)])
    seats = seats_after(FIXED, 1, first, {})
    everybody = seated(fleet_of([HALF] * 3, [(1, 9), (2, 9), (3, 9)]), seats)
    assert _places(everybody) == [(0, 0, 3), (1, 1, 3), (2, 2, 3)]


def test_without_stretches_nothing_is_remembered() -> None:
    every = tiny_with(fleet="auto")
    assert all(seats_after(every, n, _fleet(HALF), {}) == {} for n in range(1, 9))
