"""The loops over coordinates that averaging is made of, compiled.

As NumPy expressions each of them would be several passes over memory with temporary arrays in
between; as loops they are one pass. They are plain functions of arrays, and rounding is what the
source says: nothing is reordered or fused.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., Any])
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Table = NDArray[np.int64]

MAGIC = 1.5 * 2.0**10
"""Adding and subtracting this rounds a float64 below 2^9 to the nearest multiple of 2^-42."""


def compiled(function: Function) -> Function:
    """Compile at the first call, and keep the machine code beside the source if that can be.

    Nothing checks an index in compiled code: who calls it answers for sizes.
    """
    try:
        return numba.njit(function, cache=True, nogil=True, error_model="numpy")
    except RuntimeError:  # there is no folder to keep it in
        return numba.njit(function, nogil=True, error_model="numpy")


def read_only(array: NDArray) -> NDArray:
    """Return a view that cannot be written to, so that compiled loops meet one kind of array."""
    view = array.view()
    view.flags.writeable = False
    return view


@compiled
def add_pair(
    sums: Doubles,
    first: int,
    a: Floats,
    b: Floats,
    share_a: float,
    share_b: float,
    rows: Table,
    runs: Table,
) -> None:
    """Add two replies of one submodel, times their shares and rounded to 2^-42, to sums.

    Two at once, because every sum is then read and written half as often.

    Args:
        sums: Of the coordinates from `first` on.
        first: The first of them.
        a: One reply's kept coordinates.
        b: The other's; the same again with a share of 0 if there is none.
        share_a: What to multiply `a` by.
        share_b: What to multiply `b` by.
        rows: Where kept coordinates lie; see `server.loops.tables.Runs`.
        runs: The same.
    """
    last = first + sums.size
    for row in range(_before(rows, first), len(rows)):
        base, _, begin, end = rows[row]
        if base >= last:
            break
        for run in range(begin + _before(runs[begin:end], first - base), end):
            at, stop, source = _clipped(rows[row], runs[run], first, last)
            if at >= last:
                break
            # Unsigned, so that no index can be meant to count from the end.
            to, of = np.uint64(at - first), np.uint64(source)
            for j in range(np.uint64(max(stop - at, 0))):
                one = (np.float64(a[of + j]) * share_a + MAGIC) - MAGIC
                other = (np.float64(b[of + j]) * share_b + MAGIC) - MAGIC
                sums[to + j] += one + other


@compiled
def place(out: Floats, first: int, values: Floats, rows: Table, runs: Table) -> None:
    """Write a reply's values to where they belong from `first` on; see `add_pair`."""
    last = first + out.size
    for row in range(_before(rows, first), len(rows)):
        base, _, begin, end = rows[row]
        if base >= last:
            break
        for run in range(begin + _before(runs[begin:end], first - base), end):
            at, stop, source = _clipped(rows[row], runs[run], first, last)
            if at >= last:
                break
            for j in range(stop - at):
                out[at - first + j] = values[source + j]


@compiled
def _before(table: Table, place: int) -> int:
    """Return the last line of an ascending table that begins at a place or before, or the first."""
    return max(int(np.searchsorted(table[:, 0], place, side="right")) - 1, 0)


@compiled
def _clipped(row: Table, run: Table, first: int, last: int) -> tuple[int, int, int]:
    """Return which coordinates of a run are within `first … last`, and where their values start."""
    start = row[0] + run[0]
    at, stop = max(start, first), min(start + run[1], last)
    return at, stop, row[1] + run[2] + at - start


@compiled
def beyond(values: Floats, limit: float) -> int:
    """Return how many values are not below a limit in size; those that are no number are not."""
    count, most = 0, np.float32(limit)
    for j in range(values.size):
        if not abs(values[j]) < most:
            count += 1
    return count


@compiled
def scale(
    values: Doubles, first: int, numbers: Doubles, table: Table, default: Floats, out: Floats
) -> None:
    """Multiply values by a number each; where that is 0, take the default instead.

    Args:
        values: Of the coordinates from `first` on.
        first: The first of them.
        numbers: What to multiply by; see `server.loops.tables.Spread`.
        table: The same.
        default: For the same coordinates.
        out: Where the result goes.
    """
    last = first + values.size
    for row in range(_before(table, first), len(table)):
        offset, end, begin, count, group = table[row]
        if offset >= last:
            break
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
