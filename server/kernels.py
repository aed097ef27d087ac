"""The loops over coordinates that averaging is made of, compiled.

As NumPy expressions each of them would be several passes over memory with temporary arrays in
between; as loops they are one pass. They are plain functions of arrays, and rounding is what the
source says: nothing is reordered or fused.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

MAGIC = 1.5 * 2.0**10
"""Adding and subtracting this rounds a float64 below 2^9 to the nearest multiple of 2^-42."""


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call, and keep the machine code beside the source if that can be."""
    try:
        return numba.njit(function, cache=True, nogil=True, error_model="numpy")
    except RuntimeError:  # there is no folder to keep it in
        return numba.njit(function, nogil=True, error_model="numpy")


@_compiled
def add_pair(sums, first, a, b, share_a, share_b, rows, runs):  # type: ignore[no-untyped-def]
    """Add two replies of one submodel, times their shares and rounded to 2^-42, to sums.

    Two at once, because every sum is then read and written half as often.

    Args:
        sums: Of the coordinates from `first` on, float64.
        first: The first of them.
        a: One reply's kept coordinates, float32.
        b: The other's; the same again with a share of 0 if there is none.
        share_a: What to multiply `a` by.
        share_b: What to multiply `b` by.
        rows: Where kept coordinates lie; see `common.runs.Runs`.
        runs: The same.
    """
    last = first + sums.size
    for row in range(max(np.searchsorted(rows[:, 0], first, side="right") - 1, 0), len(rows)):
        base, source, begin, end = rows[row]
        if base >= last:
            break
        if base < first:
            begin += max(np.searchsorted(runs[begin:end, 0], first - base, side="right") - 1, 0)
        for run in range(begin, end):
            start, length, before = runs[run]
            at, stop = max(base + start, first), min(base + start + length, last)
            if at >= last:
                break
            # Unsigned, so that no index can be meant to count from the end.
            to, of = np.uint64(at - first), np.uint64(source + before + at - base - start)
            for j in range(np.uint64(max(stop - at, 0))):
                one = (np.float64(a[of + j]) * share_a + MAGIC) - MAGIC
                other = (np.float64(b[of + j]) * share_b + MAGIC) - MAGIC
                sums[to + j] += one + other


@_compiled
def beyond(values, limit):  # type: ignore[no-untyped-def]
    """Return how many values are not below a limit in size; those that are no number are not."""
    count, limit = 0, np.float32(limit)
    for j in range(values.size):
        if not abs(values[j]) < limit:
            count += 1
    return count


@_compiled
def place(row, first, values, rows, runs):  # type: ignore[no-untyped-def]
    """Write a reply's values to a row for the coordinates from `first` on; see `add_pair`."""
    last = first + row.size
    for i in range(max(np.searchsorted(rows[:, 0], first, side="right") - 1, 0), len(rows)):
        base, source, begin, end = rows[i]
        if base >= last:
            break
        for run in range(begin, end):
            start, length, before = runs[run]
            at, stop = max(base + start, first), min(base + start + length, last)
            for j in range(at, stop):
                row[j - first] = values[source + before + j - base - start]


@_compiled
def scale(values, first, numbers, table, default, out):  # type: ignore[no-untyped-def]
    """Multiply values by a number each; where that is 0, take the default instead.

    Args:
        values: Of the coordinates from `first` on, float64.
        first: The first of them.
        numbers: What to multiply by; see `server.spread.Spread`.
        table: The same.
        default: For the same coordinates, float32.
        out: Where the result goes, float32.
    """
    last = first + values.size
    for row in range(max(np.searchsorted(table[:, 0], first, side="right") - 1, 0), len(table)):
        offset, end, begin, count, group = table[row]
        at, stop = max(offset, first), min(end, last)
        while at < stop:
            entry = (at - offset) // group % count
            k, f = np.uint64(at - first), np.uint64(begin + entry)
            if group == 1:
                size = min(count - entry, stop - at)
                for j in range(np.uint64(size)):
                    number, kept = numbers[f + j], default[k + j]
                    scaled = np.float32(values[k + j] * number)
                    out[k + j] = scaled if number != 0 else kept
            else:
                # Neighbours often have the same number; the longer a loop, the faster.
                number, alike = numbers[f], 1
                while entry + alike < count and numbers[f + np.uint64(alike)] == number:
                    alike += 1
                size = min(group * alike - (at - offset) % group, stop - at)
                for j in range(np.uint64(size)):
                    kept = default[k + j]
                    scaled = np.float32(values[k + j] * number)
                    out[k + j] = scaled if number != 0 else kept
            at += size
        if end >= last:
            break
