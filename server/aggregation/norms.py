"""Updates are checked against those of earlier rounds before they may touch the model.

A client of some rate moves its weights about as far as others of this rate have lately. The logs
of these distances have a median and a median absolute deviation (MAD) that a minority of clients
cannot shift far (Hampel 1974), and what lies far above them is shortened or refused. Only earlier
rounds enter, so the order in which replies arrive is of no account.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Float32

from common.submodels import Submodel
from common.wire import WireError
from server.aggregation.fold import check_values

Norms = Mapping[str, tuple[float, ...]]
"""By rate the norms of a round's accepted updates, from small to large."""

WINDOW = 5
"""Rounds that enter the estimate."""

FEWEST = 4
"""Norms of a rate without which nothing is judged."""

DEVIATIONS = 4.0
"""Normal standard deviations above the median that are still taken for honest."""

LEAST = math.log(2.0)
"""An update of up to twice the median is never touched, however alike the others are."""


def norms_after(rounds: Sequence[Norms], norms: Norms) -> tuple[Norms, ...]:
    """Return the rounds that enter the estimate after one more; one without norms is left out."""
    return (*rounds, norms)[-WINDOW:] if norms else tuple(rounds)


class NormCheck:
    """Judges updates by what the norms of earlier ones have been, by rate.

    Args:
        mode: ``off``, ``clip`` or ``reject``.
        rounds: The rounds that enter the estimate, see `norms_after`.
    """

    def __init__(self, mode: str, rounds: Sequence[Norms] = ()) -> None:
        self.mode = mode
        self._rounds = rounds

    def limit(self, rate: str) -> float:
        """Return the largest norm that is taken for honest, infinity while too few are known."""
        known = [norm for norms in self._rounds for norm in norms.get(rate, ()) if norm > 0]
        if len(known) < FEWEST:
            return math.inf
        logs = np.log(known)
        median = np.median(logs)
        sigma = 1.4826 * np.median(np.abs(logs - median))
        return float(np.exp(median + max(DEVIATIONS * sigma, LEAST)))

    def checked(
        self,
        values: Float32[np.ndarray, "kept"],
        before: Float32[np.ndarray, "kept"],
        submodel: Submodel,
        rate: Fraction,
    ) -> tuple[Float32[np.ndarray, "kept"], float]:
        """Return an update as it may be used, and the norm of what it changes then.

        Args:
            values: The client's trained weights.
            before: Those it was sent.
            submodel: Which they are.
            rate: The client's.

        Raises:
            ValueError: A value is not finite or too large.
            WireError: The update is refused for its norm.
        """
        check_values(values, submodel)
        change = values.astype(np.float64) - before
        norm, limit = float(np.linalg.norm(change)), self.limit(str(rate))
        if norm <= limit:
            return values, norm
        if self.mode == "reject":
            raise WireError(
                f"an update of norm {norm:.3g}, where rate {rate} has at most {limit:.3g}",
                "norm",
            )
        return (before + change * (limit / norm)).astype(np.float32), limit
