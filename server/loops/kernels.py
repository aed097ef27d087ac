"""The loops over coordinates that averaging is made of, compiled.

As NumPy expressions each of them would be several passes over memory with temporary arrays in
between; as loops they are one pass. They are plain functions of arrays, and rounding is what the
source says: nothing is reordered or fused.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from server.loops.machine import compiled

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Table = NDArray[np.int64]

MAGIC = 1.5 * 2.0**10
"""Adding and subtracting this rounds a float64 below 2^9 to the nearest multiple of 2^-42."""

AT_ONCE = 4
"""Replies that `add` takes: all of them for one time that sums are read and written."""


def read_only(array: NDArray) -> NDArray:
    """Return a view that cannot be written to, so that compiled loops meet one kind of array."""
    view = array.view()
    view.flags.writeable = False
    return view


@compiled
def add(
    sums: Doubles,
    first: int,
    count: int,
    replies: tuple[Floats, Floats, Floats, Floats],
    shares: tuple[float, float, float, float],
    rows: Table,
    runs: Table,
) -> None:
    """Add replies of one submodel, times their shares and rounded to 2^-42, to sums.

    Args:
        sums: Of the coordinates from `first` on.
        first: The first of them.
        count: How many replies there are, from 1 on. If 3, the fourth share is 0.
        replies: Their kept coordinates; those beyond `count` are as long as the others.
        shares: What to multiply them by.
        rows: Where kept coordinates lie; see `server.loops.tables.Runs`.
        runs: The same.
    """
    # How many there are is known to the compiler: it makes a loop of its own for each number.
    if count == 1:
        _add(sums, first, replies[:1], shares[:1], rows, runs)
    elif count == 2:
        _add(sums, first, replies[:2], shares[:2], rows, runs)
    else:
        _add(sums, first, replies, shares, rows, runs)


@numba.njit(nogil=True, error_model="numpy")
def _add(sums, first, replies, shares, rows, runs):  # type: ignore[no-untyped-def]
    last = first + sums.size
    for row in range(_before(rows, first), len(rows)):
        base, source, begin, end = rows[row]
        if base >= last:
            break
        for run in range(begin + _before(runs[begin:end], first - base), end):
            start = base + runs[run, 0]
            at, stop = max(start, first), min(start + runs[run, 1], last)
            if at >= last:
                break
            # Unsigned, so that no index can be meant to count from the end.
            to, of = np.uint64(at - first), np.uint64(source + runs[run, 2] + at - start)
            for j in range(np.uint64(max(stop - at, 0))):
                total = 0.0
                for i in range(len(replies)):
                    total += (np.float64(replies[i][of + j]) * shares[i] + MAGIC) - MAGIC
                sums[to + j] += total


@numba.njit(nogil=True, error_model="numpy")
def _before(table: Table, place: int) -> int:
    """Return the last line of an ascending table that begins at a place or before, or the first."""
    return max(int(np.searchsorted(table[:, 0], place, side="right")) - 1, 0)


@compiled
def scale(
    values: Doubles, first: int, numbers: Doubles, table: Table, default: Floats, out: Floats
) -> None:
    """Multiply values by a number each; where that is 0, take the default instead.

    Args:
        values: Of the coordinates from `first` on.
        first: The first of them.
        numbers: What to multiply by; see `server.loops.tables.Factors`.
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
                if number != 0:
                    for j in range(np.uint64(size)):
                        out[k + j] = np.float32(values[k + j] * number)
                else:
                    for j in range(np.uint64(size)):
                        out[k + j] = default[k + j]
            at += size


@compiled
def below(values: Floats, limit: float) -> bool:
    """Say whether all values are below a limit in size; one that is no number is not."""
    most, beyond = np.float32(limit), 0
    for j in range(values.size):
        beyond += not abs(values[j]) < most
    return beyond == 0
