import math
from fractions import Fraction

import pytest

from common.errors import UserError
from common.files import parse_bytes
from simulations.planning.cost import Cost, fit_rate

COSTS = [
    Cost(Fraction(k, 4), 100 * k**2, k**2, 10 * k + 5, 0, 0, seconds)
    for k, seconds in ((4, 1.0), (3, 0.7), (2, 0.4), (1, 0.3))
]


@pytest.mark.parametrize(
    ("memory", "seconds", "rate"),
    [
        (math.inf, math.inf, "1"),
        (45, math.inf, "1"),
        (44, math.inf, "3/4"),
        (math.inf, 0.4, "1/2"),
        (30, 0.4, "1/2"),
        (24, 1, "1/4"),
    ],
)
def test_the_largest_rate_within_both_budgets_fits(
    memory: int | float, seconds: int | float, rate: str
) -> None:
    assert fit_rate(COSTS, memory, seconds) == Fraction(rate)
    assert fit_rate(reversed(COSTS), memory, seconds) == Fraction(rate)


def test_nothing_fits_a_budget_below_the_smallest() -> None:
    assert fit_rate(COSTS, memory=14) is None
    assert fit_rate(COSTS, seconds=0.29) is None
    assert fit_rate([]) is None


def test_amounts_of_memory() -> None:
    read = [parse_bytes("memory", text) for text in ("200MiB", " 1.5 g ", "2K", "77", "3 GB")]
    assert read == [200 * 2**20, 3 * 2**29, 2048, 77, 3 * 2**30]
    for wrong in ("", "much", "-1M", "0", "3TiB"):
        with pytest.raises(UserError, match=f"memory: '{wrong}' is no amount of memory"):
            parse_bytes("memory", wrong)
