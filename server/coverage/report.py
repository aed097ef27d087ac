"""The coverage report: how often, how evenly and how recently the parts of a model are trained.

It is computed alike from what a run records and from a plan made before it.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from common.submodels import Layout

_AT_ONCE = 1 << 24
"""Bits of masks that are unpacked at once, each to a byte."""


def round_summary(layout: Layout, counts: Int64[np.ndarray, "coverage"]) -> dict[str, float | int]:
    """Return a round's smallest count, the theory's Γ, and the fraction of coordinates without any.

    Args:
        layout: The full model's layout.
        counts: Clients that trained each coordinate in the round, as a coverage vector.
    """
    uncovered = layout.coverage_sizes[counts == 0].sum()
    return {"gamma_min": int(counts.min()), "uncovered_fraction": float(uncovered / layout.size)}


def course_summary(
    layout: Layout,
    rounds: int,
    counts: Int64[np.ndarray, "coverage"],
    last: Int64[np.ndarray, "coverage"],
) -> dict[str, float | int | None]:
    """Return how the rounds so far have covered the model, or a part of it.

    The least, median and greatest number of client updates over coordinates, the fraction without
    any, and staleness: rounds since a coordinate was last trained, all of them where it never was.

    Args:
        layout: The model's table, or one of a part of it.
        rounds: Complete rounds.
        counts: Client updates of each coordinate in all rounds, as a coverage vector.
        last: The last round that trained each coordinate, 0 where none did.
    """
    sizes = layout.coverage_sizes
    order = np.argsort(counts, kind="stable")
    reached = np.cumsum(sizes[order])
    least, median, most = (
        int(counts[order][np.searchsorted(reached, share * layout.size)]) for share in (0, 0.5, 1)
    )
    stale = rounds - last
    return {
        "never_covered_fraction": float(sizes[counts == 0].sum() / layout.size),
        "updates_min": least,
        "updates_median": median,
        "updates_max": most,
        "staleness_mean": float((sizes * stale).sum() / layout.size),
        "staleness_max": int(stale.max()),
    }


def by_layer(
    layout: Layout,
    rounds: int,
    updates: int,
    counts: Int64[np.ndarray, "coverage"],
    last: Int64[np.ndarray, "coverage"],
    changes: Float64[np.ndarray, "parameters"],
) -> dict[str, dict[str, Any]]:
    """Return the same for every parameter, with its density and the last change of masks.

    Args:
        layout: The full model's layout.
        rounds: Complete rounds.
        updates: Client updates in all rounds; the density is the mean fraction they held.
        counts: Client updates of each coordinate in all rounds, as a coverage vector.
        last: The last round that trained each coordinate, 0 where none did.
        changes: See `mask_changes`.
    """
    views = zip(layout.coverage_views(counts), layout.coverage_views(last), changes, strict=True)
    table = {}
    for (parameter, count), (_, recent), change in views:
        alone = Layout((replace(parameter, offset=0),), 1)
        held = int((alone.coverage_sizes * count.ravel()).sum())
        table[parameter.name] = {
            "coordinates": parameter.size,
            "density": held / (updates * parameter.size) if updates else math.nan,
            **course_summary(alone, rounds, count.ravel(), recent.ravel()),
            "mask_change": float(change),
        }
    return table


def mask_changes(
    layout: Layout,
    before: UInt8[np.ndarray, "clients bytes"],
    now: UInt8[np.ndarray, "clients bytes"],
) -> tuple[float, Float64[np.ndarray, "parameters"]]:
    """Return how much of a submodel is new to its client, on average: of all, and by parameter.

    Args:
        layout: The full model's layout.
        before: What clients held when they last took part (`Submodel.bitmask`), zeros if never;
            those are left out, and if nobody is left the changes are NaN.
        now: What they hold in this round.
    """
    again = before.any(axis=1)
    if not again.any():
        return math.nan, np.full(len(layout.parameters), math.nan)
    held, shared = (coordinates(layout, each[again]) for each in (now, now & before))
    total = 1 - shared.sum(axis=1) / held.sum(axis=1)
    # A client that holds nothing of a layer holds nothing new of it.
    ratios = np.divide(shared, held, out=np.ones_like(held), where=held > 0)
    return float(total.mean()), (1 - ratios).mean(axis=0)


def coordinates(
    layout: Layout, masks: UInt8[np.ndarray, "n bytes"]
) -> Float64[np.ndarray, "n parameters"]:
    """Return how many coordinates of each parameter the submodels keep, whole numbers."""
    at_once = 1 + _AT_ONCE // layout.mask_bits
    return np.concatenate(
        [_coordinates(layout, masks[i : i + at_once]) for i in range(0, len(masks), at_once)]
    )


def _coordinates(
    layout: Layout, masks: UInt8[np.ndarray, "n bytes"]
) -> Float64[np.ndarray, "n parameters"]:
    bits = np.unpackbits(masks, axis=1, count=layout.mask_bits)
    if layout.by_coordinate:
        offsets = [parameter.offset for parameter in layout.parameters]
        return np.add.reduceat(bits, offsets, axis=1, dtype=np.float64)
    edges = np.cumsum([0, *(axis.size for axis in layout.axes.values())])
    widths = np.add.reduceat(bits, edges[:-1], axis=1, dtype=np.float64)
    kept = dict(zip(layout.axes, widths.T, strict=True))
    columns = []
    for parameter in layout.parameters:
        product = np.ones(len(bits))
        for size, channels in zip(parameter.shape, parameter.channels, strict=True):
            product = product * (sum(kept[axis.name] for axis in channels) if channels else size)
        columns.append(product)
    return np.stack(columns, axis=1)
