"""The private average: updates are shortened, added up, noised once and divided by public counts.

    θ_i ← θ_i + (Σ_n clip(θ_n − θ)_i + z C ξ_i) / (q N_i),   ξ_i ~ N(0, 1) independent,

over the clients n that replied. `clip` shortens an update, which is over the coordinates that its
client holds and 0 elsewhere, to an L2 norm of C. N_i is how many clients of the fleet are assigned
coordinate i in this round, drawn or not, and q the probability with which each is drawn: neither
depends on who replied. Where N_i is 0 there is neither change nor noise. With all-full submodels it
is McMahan et al. (2018), algorithm 1 with the estimator of a fixed denominator.

Whatever a client replies, the vector of sums changes by no more than C in L2 norm, since no other
client's term, no N_i and no q depends on it. docs/privacy.md has the argument in full.

Rounding is a part of it. Terms are rounded *towards zero* to multiples of 2^-42, which cannot
lengthen an update and makes their sum exact in float64, in any order. Noise is added in float64;
only then are weights rounded to float32. That the noise is itself made of float64 numbers is not
accounted for (Mironov 2012).
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float32, Float64
from numpy.typing import NDArray

from common.config import RunConfig
from common.submodels import Layout, Submodel, extract
from common.submodels.submodel import pairs
from server.aggregation import Fold
from server.aggregation.fold import SHARES
from server.coverage import Coverage
from server.fleet import sampling_rate
from server.loops import MAGIC, TILE, factors_of, read_only, scale, tiles_of
from server.privacy.ledger import Page

GRID = 2.0**42
"""Terms are multiples of one by this; below 2^11 sums of such numbers are exact in float64."""


class PrivateFold(Fold):
    """Takes in one round's replies, in any order, and returns their private average.

    Memory is two models' for the sums, whatever the number of clients. What it says of coverage is
    public: everybody who might have been drawn has trained as many images as can be expected.

    Args:
        layout: The model's table.
        config: The run's configuration.
        theta: The weights before the round.
        masks: What each client of the fleet that may be drawn is assigned (`Submodel.bitmask`).
        page: The round's noise and its release.

    Attributes:
        share: What an update is multiplied by before it is added: one by the number of masks.
        sums: Of the shortened updates so far, times `share`; without noise, so for nobody to see.
    """

    def __init__(
        self,
        layout: Layout,
        config: RunConfig,
        theta: Float32[np.ndarray, "P"],
        masks: Iterable[bytes],
        page: Page,
    ) -> None:
        self._masks = Counter(masks)
        super().__init__(layout, float(self._masks.total()))
        self._privacy = config.privacy
        self._rate = sampling_rate(config)
        self._images = max(1, round(self._rate * config.local_steps * config.batch_size))
        self._theta = theta
        self._page = page
        self.share = (1 / self.total_weight + MAGIC) - MAGIC
        self.sums = np.zeros(layout.size)

    def _take(
        self, values: NDArray[np.float32], submodel: Submodel, mask: bytes, share: float
    ) -> None:
        """Add an update at the share that all have."""
        change = clipped(values, extract(self._theta, submodel), self._privacy.clip)
        term = np.trunc(change * (self.share * GRID)) / GRID
        for whole, index, part in pairs(self.sums, term, submodel):
            whole[index] += part

    def _average(
        self, theta: Float32[np.ndarray, "P"], coverage: Coverage
    ) -> Float32[np.ndarray, "P"]:
        return self._page.once(theta, lambda: self._noised(theta, coverage))

    def _noised(
        self, theta: Float32[np.ndarray, "P"], coverage: Coverage
    ) -> Float32[np.ndarray, "P"]:
        divisors = [self._rate * coverage.sums(p)[SHARES].ravel() for p in self.layout.parameters]
        factors = factors_of(
            self.layout,
            [np.divide(1.0, each, out=np.zeros(each.size), where=each > 0) for each in divisors],
        )
        deviation = self._privacy.noise_multiplier * self._privacy.clip * self.share
        noise, new = self._page.noise(), np.empty_like(theta)
        # To add -0 changes no number's bits; 0 would change those of -0.
        nothing = read_only(np.full(min(TILE, theta.size), -0.0, np.float32))
        for tile in tiles_of(theta.size, TILE):
            sums = self.sums[tile] + deviation * noise.next(tile.stop - tile.start)
            scale(sums, tile.start, *factors, nothing[: sums.size], new[tile])
            new[tile] += theta[tile]
        return new

    def _coverage(self) -> Coverage:
        rows = [(n * self.share, n, n * self._images) for n in self._masks.values()]
        return Coverage(self.layout, list(self._masks), np.array(rows, dtype=np.float64))


def clipped(
    values: Float32[np.ndarray, "kept"], before: Float32[np.ndarray, "kept"], clip: float
) -> Float64[np.ndarray, "kept"]:
    """Return an update, shortened to an L2 norm of `clip` if it is longer.

    Args:
        values: The client's trained weights.
        before: The global weights of the same coordinates.
        clip: The largest norm.
    """
    change = values.astype(np.float64) - before
    # A hair shorter than that, so that no rounding of this norm lets a longer one through.
    norm = float(np.linalg.norm(change)) * (1 + 1e-9)
    return change * (clip / norm) if norm > clip else change
