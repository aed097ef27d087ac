"""Encodings lose no more than they say, take what they say, and feedback loses nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.wire.codecs import (
    BFLOAT16,
    BLOCK,
    FLOAT16,
    FLOAT32,
    INT4,
    INT8,
    STRETCH,
    Encoding,
    quantise_with_feedback,
    residual_counts,
)

LEVELS = {"int8": (INT8, 127), "int4": (INT4, 7)}

vectors = st.builds(
    lambda seed, size, spread: np.float32(
        np.random.default_rng(seed).uniform(-1, 1, size)
        * np.exp(spread * np.random.default_rng(seed + 1).uniform(-4, 4, size))
    ),
    st.integers(0, 2**32 - 2),
    st.integers(1, 3 * BLOCK + 1),
    st.sampled_from([0.0, 1.0, 2.0]),
)
"""Values below 2981 whose sizes differ by some orders of magnitude."""

any_floats = st.lists(
    st.floats(-(2.0**12), 2.0**12, width=32, allow_subnormal=True), min_size=1, max_size=5
).map(lambda values: np.array(values, np.float32))


def _half_a_step(values: NDArray[np.float32], levels: int) -> NDArray[np.float64]:
    """Return for each value half of its block's scale, at most."""
    blocks = [values[i : i + BLOCK] for i in range(0, values.size, BLOCK)]
    largest = np.concatenate([np.full(b.size, np.abs(b).max(), np.float64) for b in blocks])
    # A scale is rounded up to 8 bits, and is no smaller than the least normal number.
    return np.maximum(largest / levels * (1 + 2**-7), 2.0**-126) / 2 * (1 + 1e-5)


@pytest.mark.parametrize("name", LEVELS)
@given(vectors | any_floats)
def test_no_value_moves_by_more_than_half_its_blocks_scale(
    name: str, values: NDArray[np.float32]
) -> None:
    encoding, levels = LEVELS[name]
    got = encoding.decode(encoding.encode(values), values.size)
    assert (np.abs(got.astype(np.float64) - values) <= _half_a_step(values, levels)).all()


@pytest.mark.parametrize("name", LEVELS)
def test_whole_multiples_of_a_scale_arrive_as_they_are(name: str) -> None:
    encoding, levels = LEVELS[name]
    values = np.resize(np.arange(-levels, levels + 1, dtype=np.float32), 5 * BLOCK + 3)
    values[::BLOCK] = levels
    for scale in (1.0, 0.25, 0.0):
        scaled = np.float32(scale) * values
        np.testing.assert_array_equal(encoding.decode(encoding.encode(scaled), values.size), scaled)


@pytest.mark.parametrize(
    ("encoding", "dtype", "bytes_of"),
    [
        (FLOAT32, np.float32, lambda n: 4 * n),
        (FLOAT16, np.float16, lambda n: 2 * n),
        (BFLOAT16, np.uint16, lambda n: 2 * n),
        (INT8, np.uint8, lambda n: n + 2 * ((n + 127) // 128)),
        (INT4, np.uint8, lambda n: (n + 1) // 2 + 2 * ((n + 127) // 128)),
    ],
    ids=["float32", "float16", "bfloat16", "int8", "int4"],
)
def test_the_length_follows_from_the_number_of_values(
    encoding: Encoding, dtype: type, bytes_of: object
) -> None:
    for size in (1, 2, 3, BLOCK - 1, BLOCK, BLOCK + 1, 1000):
        array = encoding.encode(np.ones(size, np.float32))
        assert array.dtype == encoding.dtype == dtype
        assert array.shape == (encoding.length(size),)
        assert array.nbytes == bytes_of(size)  # type: ignore[operator]
        assert encoding.decode(array, size).shape == (size,)
    assert INT8.length(10**6) < 1.016 * 10**6
    assert INT4.length(10**6) < 0.516 * 10**6


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_bfloat16_rounds_as_torch_does(values: list[float]) -> None:
    array = np.array(values, np.float32)
    got = BFLOAT16.decode(BFLOAT16.encode(array), array.size)
    expected = torch.from_numpy(array).bfloat16().float().numpy()
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, -1.0, 1024.0, 1e30])
def test_a_scale_that_none_can_have_is_refused(scale: float) -> None:
    array = INT8.encode(np.ones(2 * BLOCK, np.float32))
    array[2:4] = np.array([scale], np.float32).view(np.uint8)[2:]
    with pytest.raises(ValueError, match="a block's scale is not finite or reaches 1024"):
        INT8.decode(array, 2 * BLOCK)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf, 1e6])
@pytest.mark.parametrize("name", LEVELS)
def test_a_diverged_update_is_refused_and_leaves_nothing_behind(name: str, bad: float) -> None:
    encoding, _ = LEVELS[name]
    update = np.ones(2 * BLOCK, np.float32)
    update[BLOCK + 3] = bad
    array, residual = quantise_with_feedback(update, np.ones_like(update), encoding)
    with pytest.raises(ValueError, match="not finite"):
        encoding.decode(array, update.size)
    assert not residual.any()


@pytest.mark.parametrize("name", LEVELS)
@given(st.integers(0, 2**32 - 1), st.integers(1, 2 * BLOCK))
def test_what_arrives_and_what_is_left_add_up_to_all_updates(
    name: str, seed: int, size: int
) -> None:
    encoding, levels = LEVELS[name]
    rng = np.random.default_rng(seed)
    updates = rng.standard_normal((10, size)).astype(np.float32)
    residual, arrived = np.zeros(size, np.float32), np.zeros(size)
    for update in updates:
        array, residual = quantise_with_feedback(update, residual, encoding)
        arrived += encoding.decode(array, size)
    total = updates.sum(axis=0, dtype=np.float64)
    np.testing.assert_allclose(arrived + residual, total, rtol=0, atol=1e-5)
    # What is left does not grow: it is the rounding of the last round only.
    assert np.abs(residual).max() <= (np.abs(updates).max() + 1) / levels


def test_an_update_below_half_a_step_arrives_in_the_end_only_with_feedback() -> None:
    update = np.zeros(BLOCK, np.float32)
    update[0], update[1] = 7.0, 0.2
    residual, arrived = np.zeros_like(update), np.zeros_like(update)
    for _ in range(10):
        array, residual = quantise_with_feedback(update, residual, INT4)
        arrived += INT4.decode(array, BLOCK)
    assert INT4.decode(INT4.encode(update), BLOCK)[1] == 0
    assert arrived[1] == pytest.approx(2.0, abs=0.5)


def test_what_is_left_counts_within_a_stretch_and_for_later_rounds_only() -> None:
    rounds = range(1, 3 * STRETCH + 1)
    counting = {made: [r for r in rounds if residual_counts(made, r)] for made in rounds}
    assert STRETCH == 4
    assert counting[1] == [2, 3, 4]
    assert counting[3] == [4]
    assert counting[4] == []
    assert counting[5] == [6, 7, 8]
