"""A narrow width as a network of the full size that computes the same."""

from fractions import Fraction

import numpy as np
from jaxtyping import Float32

from common.errors import UserError
from common.submodels import Channels, Layout


def stretched(
    layout: Layout, theta: Float32[np.ndarray, "P"], rate: Fraction
) -> Float32[np.ndarray, "P"]:
    """Return full weights whose network computes what the width of a rate does, up to rounding.

    Every kept channel stands in for as many as there are to each in its atom. Sums over inputs are
    then larger by the inverse of the rate, which is by what a width scales them up (HeteroFL's
    scaler), those of attention's scores included; and a group of a GroupNorm has the mean and the
    variance of its kept part. So programs that know nothing of widths can run one, at full cost.
    To train it would be of no use: channels that are alike have gradients that are.

    Args:
        layout: The full model's layout.
        theta: The global weights.
        rate: The width's model rate; the scaler must be on.

    Raises:
        UserError: Kept channels cannot all stand in for equally many.
    """
    k = layout.kept_per_atom(rate)
    if layout.atom % k:
        raise UserError(
            f"rate {rate}: {k} channels cannot stand in for {layout.atom} alike, which a model of "
            "the full size needs; choose 1 over a whole number"
        )

    def sources(channels: Channels, size: int) -> np.ndarray:
        if not channels:
            return np.arange(size)
        places, start = [], 0
        for axis in channels:
            inside = np.arange(axis.size)
            places.append(start + inside - inside % layout.atom + inside % layout.atom % k)
            start += axis.size
        return np.concatenate(places)

    wide = np.empty_like(theta)
    for parameter in layout.parameters:
        index = map(sources, parameter.channels, parameter.shape)
        layout.view(wide, parameter)[...] = layout.view(theta, parameter)[np.ix_(*index)]
    return wide
