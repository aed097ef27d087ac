"""Who teaches whom, and how much."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.replay import Lesson, plan

FULL, HALF, QUARTER = Fraction(1), Fraction(1, 2), Fraction(1, 4)
HELD = {FULL: 2.0, HALF: 3.0, QUARTER: 3.0}


def test_a_perfect_teacher_stands_in_for_all_that_a_width_never_sees() -> None:
    lessons = plan({FULL: 0.9, HALF: 0.0, QUARTER: 0.5}, HELD, 64)
    assert lessons[FULL] == Lesson(HALF, Fraction(6, 8))
    # Of the half width's clients and wider ones, three images of eight are out of reach; and what
    # teaches them has come half the way from noise.
    assert HALF not in lessons, "it is at the goal already"
    assert plan({FULL: 0.9, HALF: 0.4, QUARTER: 0.5}, HELD, 64)[HALF] == Lesson(
        QUARTER, Fraction(12, 64)
    )


def test_a_teacher_is_trusted_as_far_as_it_has_come() -> None:
    shares = [
        plan({FULL: 0.9, HALF: distance}, HELD, 64)[FULL].share for distance in (0.5, 0.25, 0.0)
    ]
    assert shares == [Fraction(24, 64), Fraction(36, 64), Fraction(48, 64)]
    for rubbish in (1.0, 1.7):
        assert plan({FULL: 2.0, HALF: rubbish, QUARTER: rubbish}, HELD, 64) == {}


def test_the_teacher_is_the_one_that_samples_best_and_of_equals_the_wider() -> None:
    assert plan({FULL: 0.9, HALF: 0.3, QUARTER: 0.2}, HELD, 64)[FULL].teacher == QUARTER
    assert plan({FULL: 0.9, HALF: 0.3, QUARTER: 0.3}, HELD, 64)[FULL].teacher == HALF


def test_a_width_that_does_better_than_the_mixture_would_is_not_taught() -> None:
    share = 0.75 * (1 - 0.2)
    for distance, taught in ((share**2 * 0.2 * 1.01, True), (share**2 * 0.2 * 0.99, False)):
        assert (FULL in plan({FULL: distance, HALF: 0.2, QUARTER: 0.9}, HELD, 64)) == taught


def test_where_nothing_is_known_nobody_is_taught() -> None:
    assert plan({}, HELD, 64) == {}
    assert plan({HALF: 0.1}, HELD, 64) == {}, "the full width's own distance is not a number"
    assert plan({FULL: 0.1}, HELD, 64) == {}


def test_whoever_holds_all_images_needs_no_others() -> None:
    assert plan({FULL: 0.9, HALF: 0.1}, {FULL: 5.0, HALF: 0.0}, 64) == {}
    assert plan({FULL: 0.9, HALF: 0.1}, {FULL: 100.0, HALF: 0.5}, 64) == {}, "not one of a batch"


@given(
    st.dictionaries(st.sampled_from([FULL, HALF, QUARTER]), st.floats(0, 3), min_size=1),
    st.dictionaries(st.sampled_from([FULL, HALF, QUARTER]), st.floats(0.1, 1e3), min_size=1),
    st.integers(2, 256),
)
def test_a_teacher_is_always_narrower_and_a_batch_never_all_its_own(
    distances: dict[Fraction, float], held: dict[Fraction, float], batch: int
) -> None:
    for width, lesson in plan(distances, held, batch).items():
        assert lesson.teacher < width
        assert lesson.teacher in distances
        assert 0 < lesson.share <= 1
        assert (lesson.share * batch).denominator == 1


@pytest.mark.parametrize("batch", [2, 32, 64])
def test_the_same_measurements_make_the_same_plan(batch: int) -> None:
    distances = {FULL: 0.9, HALF: 0.123, QUARTER: 0.5}
    again = plan(dict(reversed(distances.items())), dict(reversed(HELD.items())), batch)
    assert plan(distances, HELD, batch) == again
