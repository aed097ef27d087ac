"""Encodings of weights and updates as one flat array each, and error feedback for what they drop.

A task carries weights. What a reply carries depends on the codec: with "float32" the trained
weights, bit for bit; with all others the *update*, trained minus received weights, which the server
adds to its own full-precision weights. So rounding on the way down is never averaged into the
model, and a small update is not lost in the rounding of a large weight.

Integers are block-wise: `BLOCK` neighbouring values share a scale, so that each is a whole multiple
of it. What this drops of an update the client keeps and adds to its next one (error feedback, Seide
et al. 2014; Karimireddy et al. 2019, algorithm 1).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float32, UInt8, UInt16
from numpy.typing import NDArray

BLOCK = 128
"""Values that share a scale, which takes two bytes: 1.016 bytes a value in 8 bits."""

STRETCH = 4
"""Rounds after which clients forget what they have kept, so that a run can resume without it."""

LARGEST_SCALE = 1024.0
"""Scales of this size or more are refused: no weight is as large, and no update either."""

_INFINITE = 0x7F80
"""Infinity in bfloat16."""


@dataclass(frozen=True)
class Encoding:
    """How values become one array.

    Attributes:
        dtype: The array's.
        length: The array's length for a number of values.
        encode: Values (n,) to the array.
        decode: The array and n to values (n,); raises ValueError if they cannot be finite.
    """

    dtype: np.dtype
    length: Callable[[int], int]
    encode: Callable[[Float32[np.ndarray, "n"]], NDArray]
    decode: Callable[[NDArray, int], NDArray[np.float32]]


def _rounded(values: NDArray[np.float32], dtype: type[np.floating]) -> NDArray:
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused by the receiver
        return values.astype(dtype, copy=False)


def _widened(array: NDArray, _: int) -> NDArray[np.float32]:
    return array.astype(np.float32, copy=False)


def _upper_halves(values: Float32[np.ndarray, "n"]) -> UInt16[np.ndarray, "n"]:
    """Return bfloat16 as the upper halves of float32's bits, rounded to nearest, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16).astype(np.uint16)


def _from_upper_halves(array: UInt16[np.ndarray, "n"], _: int = 0) -> Float32[np.ndarray, "n"]:
    return (array.astype(np.uint32) << 16).view(np.float32)


def _blocks(size: int) -> int:
    return -(-size // BLOCK)


def _packed(size: int, bits: int) -> int:
    return 2 * _blocks(size) + -(-size * bits // 8)


def _to_integers(values: Float32[np.ndarray, "n"], bits: int) -> UInt8[np.ndarray, "bytes"]:
    """Return the blocks' scales, then the values as whole multiples of them.

    A scale is the least bfloat16 by which the block's largest value is within ± 127, or ± 7; so no
    value moves by more than half of it. A block that is not finite gets an infinite one.
    """
    levels, size = 2 ** (bits - 1) - 1, values.size
    padded = np.zeros((_blocks(size), BLOCK), np.float32)
    padded.reshape(-1)[:size] = values
    scales = np.maximum(padded.max(axis=1), -padded.min(axis=1)) / np.float32(levels)
    finite = np.isfinite(scales)
    # The least normal number instead of 0 spares all divisions a case of their own.
    least = np.where(finite, scales, 1).clip(min=np.finfo(np.float32).tiny)
    halves = ((least.view(np.uint32) + np.uint32(0xFFFF)) >> 16).astype(np.uint16)  # rounded up
    with np.errstate(invalid="ignore"):
        padded /= _from_upper_halves(halves)[:, None]
        np.rint(padded, out=padded)
        padded[~finite] = 0
    halves[~finite] = _INFINITE
    whole = padded.reshape(-1)[: size + size % 2].astype(np.int8)
    if bits == 4:
        shifted = (whole + 8).astype(np.uint8)
        whole = (shifted[::2] | shifted[1::2] << 4).view(np.int8)
    else:
        whole = whole[:size]
    return np.concatenate([halves.astype("<u2").view(np.uint8), whole.view(np.uint8)])


def _from_integers(
    array: UInt8[np.ndarray, "bytes"], size: int, bits: int
) -> Float32[np.ndarray, "n"]:
    """Return the values that `_to_integers` encoded.

    Raises:
        ValueError: A scale is not a number in 0 … `LARGEST_SCALE`.
    """
    ends = 2 * _blocks(size)
    scales = _from_upper_halves(np.frombuffer(array[:ends].tobytes(), "<u2"))
    if not np.all((scales >= 0) & (scales < LARGEST_SCALE)):
        raise ValueError(f"a block's scale is not finite or reaches {LARGEST_SCALE:g}")
    values = np.zeros((_blocks(size), BLOCK), np.float32)
    flat = values.reshape(-1)
    if bits == 4:
        low, high = flat[: size + size % 2 : 2], flat[1 : size + size % 2 : 2]
        low[:], high[:] = array[ends:] & 15, array[ends:] >> 4
        flat -= 8
    else:
        flat[:size] = array[ends:].view(np.int8)
    values *= scales[:, None]
    return flat[:size]


def _integers(bits: int) -> Encoding:
    return Encoding(
        np.dtype(np.uint8),
        partial(_packed, bits=bits),
        partial(_to_integers, bits=bits),
        partial(_from_integers, bits=bits),
    )


def _same(size: int) -> int:
    return size


FLOAT32, FLOAT16 = (
    Encoding(np.dtype(dtype), _same, partial(_rounded, dtype=dtype), _widened)
    for dtype in (np.float32, np.float16)
)
BFLOAT16 = Encoding(np.dtype(np.uint16), _same, _upper_halves, _from_upper_halves)
INT8, INT4 = _integers(8), _integers(4)


@dataclass(frozen=True)
class Codec:
    """What tasks and replies are encoded in.

    Attributes:
        task: The encoding of the weights that a client is sent.
        reply: The encoding of what it returns.
        update: Whether that is the update; if not, the trained weights.
        feedback: Whether the client keeps what the encoding drops for its next update.
    """

    task: Encoding
    reply: Encoding
    update: bool
    feedback: bool


CODECS = {
    "float32": Codec(FLOAT32, FLOAT32, update=False, feedback=False),
    "float16": Codec(FLOAT16, FLOAT16, update=True, feedback=False),
    "bfloat16": Codec(BFLOAT16, BFLOAT16, update=True, feedback=False),
    "int8": Codec(INT8, INT8, update=True, feedback=True),
    # In four bits weights would be useless; an update bears it, with feedback.
    "int4": Codec(INT8, INT4, update=True, feedback=True),
}
"""By the names that the configuration's `codec` has."""


def quantise_with_feedback(
    update: Float32[np.ndarray, "n"], residual: Float32[np.ndarray, "n"], encoding: Encoding
) -> tuple[NDArray, Float32[np.ndarray, "n"]]:
    """Return an update as it is sent, and what of it is left for the next one.

    Over rounds, what the receiver decodes and the last residual add up to the sum of all updates,
    up to float32's rounding. Of an update that cannot be decoded nothing is left.

    Args:
        update: What training changed.
        residual: What was left last time; zeros at first.
        encoding: A codec's `reply`.
    """
    wanted = update + residual
    array = encoding.encode(wanted)
    try:
        return array, wanted - encoding.decode(array, update.size)
    except ValueError:  # training diverged, and the server will refuse it, too
        return array, np.zeros_like(update)


def residual_counts(made: int, round: int) -> bool:
    """Return whether what was left in round `made` is added in `round`.

    It is within a stretch of `STRETCH` rounds, the first of which begins with round 1, and not when
    a round is tried again.
    """
    return made < round and (made - 1) // STRETCH == (round - 1) // STRETCH
