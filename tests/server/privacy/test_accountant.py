"""ε is what dp-accounting says, of the mechanism that runs."""

import math
import sys

import dp_accounting
import pytest
from dp_accounting import pld, rdp

from common.config.run import RunConfig
from common.config.sections import PrivacyConfig
from common.errors import UserError
from server.privacy.accountant import epsilon, epsilon_after, statement

ADD_OR_REMOVE = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
CASES = [(1.0, 0.25, 16), (1.0, 0.25, 100), (0.3, 0.25, 10), (2.0, 0.05, 200)]


def _event(noise: float, rate: float) -> dp_accounting.DpEvent:
    return dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))


@pytest.mark.parametrize(("noise", "rate", "rounds"), CASES)
def test_epsilon_is_the_accountants_own_and_below_the_bound_of_renyi_divergences(
    noise: float, rate: float, rounds: int
) -> None:
    ours = epsilon(noise, rate, 1e-5, rounds)
    fine = pld.PLDAccountant(neighboring_relation=ADD_OR_REMOVE)
    fine.compose(_event(noise, rate), rounds)
    assert ours == pytest.approx(fine.get_epsilon(1e-5), rel=2e-4)
    renyi = rdp.RdpAccountant(orders=range(2, 65), neighboring_relation=ADD_OR_REMOVE)
    renyi.compose(_event(noise, rate), rounds)
    assert ours < renyi.get_epsilon(1e-5)


def test_with_everybody_in_every_round_it_is_the_gaussian_mechanisms() -> None:
    """Rounds of noise z are one of z / √rounds (Balle and Wang 2018 for its exact ε)."""
    exact = dp_accounting.get_epsilon_gaussian(1.5 / math.sqrt(9), 1e-5)
    assert epsilon(1.5, 1.0, 1e-5, 9) == pytest.approx(exact, rel=1e-3)


def test_it_grows_with_rounds_from_nothing_and_shrinks_with_noise_and_sampling() -> None:
    assert epsilon(1.0, 0.25, 1e-5, 0) == 0
    course = [epsilon(1.0, 0.25, 1e-5, rounds) for rounds in range(1, 6)]
    assert course == sorted(set(course))
    assert epsilon(2.0, 0.25, 1e-5, 5) < course[-1] < epsilon(1.0, 0.5, 1e-5, 5)


@pytest.mark.parametrize("noise", [1e-6, 1e-3, 0.05])
def test_hardly_any_noise_takes_no_longer_and_protects_hardly(noise: float) -> None:
    assert epsilon(noise, 0.25, 1e-5, 3) > 100


def test_a_configuration_says_all_that_it_takes() -> None:
    config = RunConfig(
        fleet="1x4 1/2x36",
        clients_per_round=10,
        weighting="uniform",
        privacy=PrivacyConfig(noise_multiplier=1.0, delta=1e-4),
    )
    assert epsilon_after(config, 7) == epsilon(1.0, 0.25, 1e-4, 7)
    few = config.model_copy(update={"participants": "full", "clients_per_round": 2})
    assert epsilon_after(few, 7) == epsilon(1.0, 0.5, 1e-4, 7)
    assert statement(config, 7)["epsilon"] == epsilon_after(config, 7)
    assert math.isnan(epsilon_after(RunConfig(), 7))
    assert statement(RunConfig(), 7) == {}


def test_without_the_package_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(UserError, match=r"pip install 'scorequilt\[privacy\]'"):
        epsilon(1.25, 0.25, 1e-5, 0)
