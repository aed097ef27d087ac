import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from common.submodels import CompactSubmodel
from server.coverage.sums import Coverage
from tests.layouts import chain_layout, submodels

LAYOUT = chain_layout()


@given(st.lists(submodels(LAYOUT), max_size=4))
def test_sums_are_those_over_the_submodels_that_cover(chosen: list[CompactSubmodel]) -> None:
    quantities = np.array([(3**i, 10 * i) for i in range(len(chosen))], float).reshape(-1, 2)
    coverage = Coverage(LAYOUT, [submodel.bitmask() for submodel in chosen], quantities)
    for column in range(2):
        expected = np.zeros(LAYOUT.coverage_size, np.int64)
        for i, submodel in enumerate(chosen):
            for parameter, view in LAYOUT.coverage_views(expected):
                view[submodel.coverage_index(parameter)] += int(quantities[i, column])
        np.testing.assert_array_equal(coverage.vector(column), expected)
