"""What a run's releases add up to, as (ε, δ): a function of the configuration and of the rounds.

A round is one use of the Poisson-sampled Gaussian mechanism, and rounds compose adaptively. The
accountant is dp-accounting's: privacy loss distributions (Koskela et al. 2020; Doroshenko et al.
2022), which are tighter than the moments of Abadi et al. (2016) and Mironov's (2017) Rényi
divergences. Two runs are neighbours when one client contributes in one of them and not in the
other.
"""

import math
from functools import cache
from typing import Any

from common.config import RunConfig
from common.errors import UserError
from server.fleet import sampling_rate


def epsilon_after(config: RunConfig, rounds: int) -> float:
    """Return the ε of the first rounds at the configured δ, NaN without privacy.

    Raises:
        UserError: The package dp-accounting is not there.
    """
    privacy = config.privacy
    if not privacy.on:
        return math.nan
    return epsilon(privacy.noise_multiplier, sampling_rate(config), privacy.delta, rounds)


@cache
def epsilon(noise_multiplier: float, rate: float, delta: float, rounds: int) -> float:
    """Return the ε of some rounds, an upper bound, infinity where there is hardly any noise.

    Args:
        noise_multiplier: The noise's standard deviation over the sensitivity, positive.
        rate: The probability with which a client takes part in a round, in (0, 1].
        delta: The δ, in (0, 1).
        rounds: How many, 0 or more.

    Raises:
        UserError: The package dp-accounting is not there.
    """
    try:
        import dp_accounting  # takes 0.7 s, and most runs do without
        from dp_accounting import pld
    except ImportError:
        raise UserError(
            "privacy.noise-multiplier: needs the package dp-accounting on the server; "
            "pip install 'scorequilt[privacy]'"
        ) from None
    if rounds == 0:
        return 0.0
    # A loss of one round is about 1/z². Steps much smaller than that take time and say no more.
    steps = 1e-3 * max(1.0, noise_multiplier**-2)
    accountant = pld.PLDAccountant(
        neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
        value_discretization_interval=steps,
    )
    noise = dp_accounting.GaussianDpEvent(noise_multiplier)
    try:
        accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, noise), rounds)
        return float(accountant.get_epsilon(delta))
    except OverflowError:  # e^ε is beyond all floats
        return math.inf


def statement(config: RunConfig, rounds: int) -> dict[str, Any]:
    """Return what `summary.json` says of a run's privacy, nothing if there is none."""
    privacy = config.privacy
    if not privacy.on:
        return {}
    return {
        "epsilon": epsilon_after(config, rounds),
        "delta": privacy.delta,
        "noise_multiplier": privacy.noise_multiplier,
        "clip": privacy.clip,
        "sampling": "poisson",
        "sampling_rate": sampling_rate(config),
        "rounds": rounds,
        "protects": "all that one client contributes to the run",
    }
