"""Values of more than eight bits: which of them is black and which is white.

The depth of deep values is not that of what they are kept in: twelve bits come in sixteen. What a
file says of its depth is taken where all its values fit; for files that say nothing one range holds
over *all* of a source, that a dark picture among bright ones stays dark.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

DEPTHS = (8, 10, 12, 14, 16, 32)
"""Bits that whole numbers may have."""

BLOCK = 2**20
"""Values that are worked on at a time."""

BITS, SAMPLE_FORMAT, MAX, SMIN, SMAX = 258, 339, 281, 340, 341
"""TIFF 6.0's BitsPerSample, SampleFormat, MaxSampleValue, SMinSampleValue and SMaxSampleValue."""


@dataclass(frozen=True)
class Depth:
    """The values of black and white.

    Attributes:
        black: The value that becomes 0.
        white: The value that becomes 255, greater than `black`.
    """

    black: float
    white: float

    def levels(self, values: NDArray) -> UInt8[np.ndarray, "..."]:
        """Return values as levels from 0 to 255; what is outside is cut."""
        levels = np.empty(values.shape, dtype=np.uint8)
        flat, out = values.reshape(-1), levels.reshape(-1)
        for start in range(0, len(flat), BLOCK):  # eight bytes a value are much for a large picture
            share = flat[start : start + BLOCK].astype(np.float64)
            share = (share - self.black) / (self.white - self.black)
            out[start : start + BLOCK] = (share * 255).round().clip(0, 255)
        return levels

    def holds(self, values: NDArray) -> bool:
        """Say whether no value is outside."""
        return bool(self.black <= values.min() and values.max() <= self.white)


@dataclass(frozen=True, eq=False)
class Deep:
    """One picture of deep values, upright.

    Attributes:
        values: (H, W) greys or (H, W, 3) colours, as they stand in the file.
        depth: What the file itself says of them, None if nothing.
        white_is_zero: Whether the least value is white.
        opacity: (H, W), 0 is transparent; None where all is opaque.
    """

    values: NDArray
    depth: Depth | None = None
    white_is_zero: bool = False
    opacity: NDArray | None = None

    @property
    def extremes(self) -> tuple[float, float, bool]:
        """The least and the greatest value, and whether these are whole numbers."""
        return extremes_of(self.values)

    def levels(self, shared: Depth | None) -> UInt8[np.ndarray, "..."] | None:
        """Return the picture in levels from 0 to 255 laid on white; None if it is all one value.

        Args:
            shared: The depth of those pictures of the source that say none; without, this one's.
        """
        depth = self.depth or shared or depth_of([self.extremes])
        if depth is None:
            return None
        levels = depth.levels(self.values)
        levels = 255 - levels if self.white_is_zero else levels
        if self.opacity is None:
            return levels
        most = depth_of([extremes_of(self.opacity)]) or Depth(0, 1)
        share = self.opacity[..., None] if levels.ndim == 3 else self.opacity
        share = share / most.white
        return (levels * share + 255 * (1 - share)).round().astype(np.uint8)


def depth_of(extremes: list[tuple[float, float, bool]]) -> Depth | None:
    """Return the depth of a source from the least and greatest value of each deep picture in it.

    Args:
        extremes: For each the least and the greatest value and whether these are whole numbers.

    Returns:
        From 0 to the most of the smallest depth that holds all, for whole numbers from 0 up; from
        0 to 1 for fractions within; else from the least to the greatest. None where all values of
        all pictures are one and the same, or there are none.
    """
    if not extremes:
        return None
    least = min(low for low, _, _ in extremes)
    most = max(high for _, high, _ in extremes)
    if least >= 0 and all(whole for *_, whole in extremes):
        return _of_bits(most)
    if least >= 0 and most <= 1:
        return Depth(0.0, 1.0)
    return Depth(least, most) if most > least else None


def extremes_of(values: NDArray) -> tuple[float, float, bool]:
    """Return the least and greatest of a picture's values, and whether they are whole numbers."""
    return float(values.min()), float(values.max()), values.dtype.kind in "iu"


def tiff_depth(tags: Mapping[int, Any], values: NDArray) -> Depth | None:
    """Return what a TIFF page says of its depth, if its values are within.

    `SMinSampleValue` and `SMaxSampleValue` are black and white; `MaxSampleValue`, which some
    writers set to the greatest value that occurs, and `BitsPerSample` say how many bits there are.
    """
    bits = int(_first(tags.get(BITS, 16)))
    declared = None
    if SMAX in tags:
        least, most = _first(tags.get(SMIN, 0.0)), _first(tags[SMAX])
        declared = Depth(least, most) if most > least else None
    elif values.dtype.kind == "u" and MAX in tags:
        declared = _of_bits(_first(tags[MAX]))
    elif values.dtype.kind == "u" and bits % 8:
        declared = Depth(0.0, 2.0**bits - 1)
    return declared if declared and declared.holds(values) else None


def png_depth(bits: int | None, values: NDArray) -> Depth | None:
    """Return what a PNG of sixteen bits says of its depth, from the least of its sBIT chunk.

    A writer that keeps to the standard spreads its few bits over the sixteen, so that values are
    multiples of a power of two as long as they are small; others leave them at the lower end.
    """
    if bits is None or not 8 <= bits <= 16:
        return None
    end = Depth(0.0, 2.0**bits - 1)
    spread = not end.holds(values) or not (values % 2 ** (16 - bits)).any()
    return Depth(0.0, 65535.0) if spread else end


def _of_bits(most: float) -> Depth:
    bits = next((bits for bits in DEPTHS if most < 2**bits), 64)
    return Depth(0.0, 2.0**bits - 1)


def _first(value: Any) -> float:
    """Return the value of a tag, the first channel's where it has one for each."""
    return float(value[0] if isinstance(value, tuple) else value)
