from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from common.submodels import (
    CompactSubmodel,
    extract,
    full_submodel,
    narrowed,
    nested_coordinates,
    pruning_error,
    scatter,
)
from tests.layouts import chain_layout, submodels

LAYOUT = chain_layout()
THETA = np.arange(LAYOUT.size, dtype=np.float32)


@given(submodels(LAYOUT))
def test_scatter_after_extract_changes_nothing(submodel: CompactSubmodel) -> None:
    into = THETA.copy()
    scatter(extract(THETA, submodel), submodel, into)
    np.testing.assert_array_equal(into, THETA)


@given(submodels(LAYOUT))
def test_the_pruning_error_is_what_a_mask_takes_off_the_norm(submodel: CompactSubmodel) -> None:
    masked = np.zeros_like(THETA)
    scatter(extract(THETA, submodel), submodel, masked)
    dropped = ((THETA - masked).astype(float) ** 2).sum() / (THETA.astype(float) ** 2).sum()
    assert pruning_error(THETA, extract(THETA, submodel)) == pytest.approx(dropped, abs=1e-6)
    assert pruning_error(np.zeros_like(THETA), extract(0 * THETA, submodel)) == 0


@given(submodels(LAYOUT))
def test_scatter_writes_the_kept_coordinates_and_no_other(submodel: CompactSubmodel) -> None:
    into = np.full(LAYOUT.size, -1, np.float32)
    values = extract(THETA, submodel)
    scatter(values, submodel, into)
    assert set(into[into >= 0]) == set(values)
    assert (into >= 0).sum() == submodel.size == len(values)
    np.testing.assert_array_equal(extract(into, submodel), values)


def test_extract_cuts_the_block_that_plain_indexing_cuts() -> None:
    kept = {"a": [0, 2, 5, 7], "b": [1, 3, 4, 6], "c": [0, 1, 6, 7]}
    submodel = CompactSubmodel(LAYOUT, 2, {name: np.array(c) for name, c in kept.items()})
    tensors = {p.name: LAYOUT.view(THETA, p) for p in LAYOUT.parameters}
    a, b, c = kept["a"], kept["b"], kept["c"]
    expected = [
        tensors["first"][a],
        tensors["first.bias"][a],
        tensors["second"][b][:, a],
        tensors["joined"][c][:, a + [8 + channel for channel in b]],
        tensors["last"][:, c],
        tensors["last.bias"],
    ]
    flat = np.concatenate([block.ravel() for block in expected])
    np.testing.assert_array_equal(extract(THETA, submodel), flat)


def test_the_full_submodel_keeps_everything_in_order() -> None:
    full = full_submodel(LAYOUT)
    np.testing.assert_array_equal(extract(THETA, full), THETA)
    assert full.density == 1
    assert full.rate == 1


@given(submodels(LAYOUT))
def test_coverage_of_a_coordinate_is_read_off_the_coverage_vector(
    submodel: CompactSubmodel,
) -> None:
    vector = np.zeros(LAYOUT.coverage_size, np.int64)
    for parameter, view in LAYOUT.coverage_views(vector):
        view[submodel.coverage_index(parameter)] = 1
    assert LAYOUT.coverage_sizes @ vector == submodel.size
    for parameter, view in LAYOUT.coverage_views(vector):
        kept = np.zeros(parameter.shape, np.int64)
        kept[submodel.index(parameter)] = 1
        np.testing.assert_array_equal(np.broadcast_to(view, parameter.shape), kept)


@given(submodels(LAYOUT), st.data())
def test_nested_coordinates_find_the_inner_submodel(
    outer: CompactSubmodel, data: st.DataObject
) -> None:
    inner = narrowed(outer, data.draw(st.integers(1, outer.k)))
    place = nested_coordinates(inner, outer)
    np.testing.assert_array_equal(extract(THETA, outer)[place], extract(THETA, inner))


def test_nested_coordinates_refuse_what_is_not_nested() -> None:
    low, high = (
        CompactSubmodel.from_positions(LAYOUT, 1, {name: np.array([p]) for name in "abc"})
        for p in (0, 3)
    )
    with pytest.raises(ValueError, match="does not"):
        nested_coordinates(low, high)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ({"a": [0, 1], "b": [0, 1]}, "missing: c"),
        ({"a": [0, 4], "b": [0, 1], "c": [0, 1]}, "must be in 0 … 3"),
        ({"a": [0, 0], "b": [0, 1], "c": [0, 1]}, "every atom must keep 2 distinct"),
        ({"a": [0], "b": [0, 1], "c": [0, 1]}, "shape"),
    ],
)
def test_positions_that_are_no_submodel_are_refused(
    positions: dict[str, list[int]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        CompactSubmodel.from_positions(LAYOUT, 2, {n: np.array(p) for n, p in positions.items()})


def test_unequal_atoms_are_refused() -> None:
    kept = {name: np.array([0, 1, 2, 4]) for name in "abc"}  # three from one atom, one from another
    with pytest.raises(ValueError, match="every atom must keep 2"):
        CompactSubmodel(LAYOUT, 2, kept)


def test_a_rate_the_atoms_do_not_allow_is_refused_with_those_they_do() -> None:
    assert LAYOUT.kept_per_atom(Fraction(3, 4)) == 3
    with pytest.raises(UserError, match=r"rate 1/3.*1/4, 1/2, 3/4, 1$"):
        LAYOUT.kept_per_atom(Fraction(1, 3))


def test_layouts_with_different_tables_have_different_digests() -> None:
    assert chain_layout().digest == LAYOUT.digest
    assert chain_layout(atoms=3).digest != LAYOUT.digest
    assert chain_layout(atom=8, atoms=1).digest != LAYOUT.digest
