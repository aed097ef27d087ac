"""Who teaches whom, and how much."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.replay import Lesson, Measured, plan

FULL, HALF, QUARTER = Fraction(1), Fraction(1, 2), Fraction(1, 4)
HELD = {FULL: 2.0, HALF: 3.0, QUARTER: 3.0}


def lessons(
    distances: dict[Fraction, float], *taught: Fraction, held: dict[Fraction, float] = HELD
) -> dict[Fraction, Lesson]:
    return plan(Measured(distances, frozenset(taught)), held, 64)


def test_a_perfect_teacher_stands_in_for_all_that_a_width_never_sees() -> None:
    taught = lessons({FULL: 0.9, HALF: 0.0, QUARTER: 0.5})
    assert taught == {FULL: Lesson(HALF, Fraction(6, 8))}, "the half width is at the goal already"
    taught = lessons({FULL: 0.9, HALF: 0.4, QUARTER: 0.0})
    assert taught == {FULL: Lesson(QUARTER, Fraction(6, 8)), HALF: Lesson(QUARTER, Fraction(3, 8))}


def test_who_begins_to_be_taught_mixes_in_inverse_proportion_to_the_distances() -> None:
    assert lessons({FULL: 0.9, HALF: 0.6})[FULL].share == Fraction(38, 64), "9 parts of 15"
    assert lessons({FULL: 0.61, HALF: 0.6})[FULL].share == Fraction(32, 64)


def test_who_is_taught_goes_on_as_what_it_has_become_says() -> None:
    """By w t / (w + t), which the mixture leads to, the share stays what it was."""
    own, theirs = 0.9, 0.7
    mixed = own * theirs / (own + theirs)
    begun = lessons({FULL: own, HALF: theirs})[FULL]
    assert mixed < theirs
    assert lessons({FULL: mixed, HALF: theirs}) == {}, "nobody begins with a worse teacher"
    assert lessons({FULL: mixed, HALF: theirs}, FULL)[FULL] == begun
    assert lessons({FULL: theirs, HALF: theirs}, FULL)[FULL].share == Fraction(6, 8)
    assert lessons({FULL: theirs / 1000, HALF: theirs}, FULL) == {}, "it needs no teacher any more"


@pytest.mark.parametrize("taught", [(), (FULL, HALF)])
def test_what_is_no_better_than_noise_teaches_nothing(taught: tuple[Fraction, ...]) -> None:
    for rubbish in (1.0, 1.7):
        assert lessons({FULL: 2.0, HALF: rubbish, QUARTER: rubbish}, *taught) == {}


def test_the_teacher_is_the_one_that_samples_best_and_of_equals_the_wider() -> None:
    assert lessons({FULL: 0.9, HALF: 0.3, QUARTER: 0.2})[FULL].teacher == QUARTER
    assert lessons({FULL: 0.9, HALF: 0.3, QUARTER: 0.3})[FULL].teacher == HALF


def test_where_nothing_is_known_nobody_is_taught() -> None:
    assert lessons({}) == {}
    assert lessons({HALF: 0.1}) == {}, "the full width's own distance is not a number"
    assert lessons({FULL: 0.1}) == {}


def test_whoever_holds_all_images_needs_no_others() -> None:
    assert lessons({FULL: 0.9, HALF: 0.1}, held={FULL: 5.0, HALF: 0.0}) == {}
    few = lessons({FULL: 0.9, HALF: 0.1}, held={FULL: 100.0, HALF: 0.5})
    assert few == {}, "not one image of a batch"


@given(
    st.dictionaries(st.sampled_from([FULL, HALF, QUARTER]), st.floats(0, 3), min_size=1),
    st.sets(st.sampled_from([FULL, HALF, QUARTER])),
    st.dictionaries(st.sampled_from([FULL, HALF, QUARTER]), st.floats(0.1, 1e3), min_size=1),
    st.integers(2, 256),
)
def test_a_teacher_is_narrower_and_known_and_its_share_whole_examples(
    distances: dict[Fraction, float],
    taught: set[Fraction],
    held: dict[Fraction, float],
    batch: int,
) -> None:
    measured = Measured(distances, frozenset(taught))
    for width, lesson in plan(measured, held, batch).items():
        assert lesson.teacher < width
        assert distances[lesson.teacher] < 1
        assert 0 < lesson.share <= 1
        assert (lesson.share * batch).denominator == 1


def test_the_order_of_widths_makes_no_difference() -> None:
    distances = {FULL: 0.9, HALF: 0.123, QUARTER: 0.5}
    again = lessons(dict(reversed(distances.items())), held=dict(reversed(HELD.items())))
    assert lessons(distances) == again
