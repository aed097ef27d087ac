import numpy as np
import pytest

from common.config.run import RunConfig
from common.config.sections import EmaConfig, ServerConfig
from common.submodels import extract, full_submodel
from server.aggregation.mean import CoverageFold
from server.state.advance import ServerState, advance, initial_state
from tests.layouts import chain_layout
from tests.rounds import round_of

LAYOUT = chain_layout()
FULL = full_submodel(LAYOUT)
CHANGES = np.random.default_rng(3).normal(0, 0.1, (4, LAYOUT.size)).astype(np.float32)


def _run(server: ServerConfig) -> tuple[ServerState, np.ndarray]:
    """Apply each change as one client's update; return the last state and where it began."""
    config = RunConfig(server=server, ema=EmaConfig(half_life=(0,)))
    theta = np.random.default_rng(4).normal(0, 1, LAYOUT.size).astype(np.float32)
    state = initial_state(LAYOUT, theta, config)
    for change in CHANGES:
        fold = CoverageFold(LAYOUT, 1.0)
        fold.add(extract(state.theta + change, FULL), FULL, 1.0, 64)
        state = advance(state, round_of(fold.finish(state.theta)), LAYOUT, config)
    return state, theta


def test_plain_at_rate_one_is_the_average_itself_and_a_rate_scales_the_change() -> None:
    state, theta = _run(ServerConfig())
    np.testing.assert_allclose(state.theta, theta + CHANGES.sum(0), rtol=1e-5, atol=1e-6)
    half, _ = _run(ServerConfig(learning_rate=0.5))
    np.testing.assert_allclose(half.theta, theta + CHANGES.sum(0) / 2, rtol=1e-5, atol=1e-6)
    assert state.moments.shape == half.moments.shape == (0, LAYOUT.size)


def test_momentum_adds_up_past_changes_geometrically() -> None:
    state, theta = _run(ServerConfig(optimizer="momentum", momentum=0.5, learning_rate=0.1))
    # Change i is taken in the steps i, i+1, … by 1, 1/2, 1/4, …
    taken = [sum(0.5**j for j in range(len(CHANGES) - i)) for i in range(len(CHANGES))]
    expected = theta + 0.1 * np.einsum("i,ip->p", taken, CHANGES)
    np.testing.assert_allclose(state.theta, expected, rtol=1e-5, atol=1e-6)


def test_adam_steps_by_the_mean_over_the_root_mean_square() -> None:
    server = ServerConfig(optimizer="adam", learning_rate=0.02, adaptivity=0.01)
    state, expected = _run(server)
    first = second = np.zeros(LAYOUT.size)
    for change in CHANGES.astype(np.float64):
        first = 0.9 * first + 0.1 * change
        second = 0.99 * second + 0.01 * change**2
        expected = expected + 0.02 * first / (np.sqrt(second) + 0.01)
    np.testing.assert_allclose(state.theta, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.moments, [first, second], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_the_average_follows_the_weights_that_the_optimizer_made(optimizer: str) -> None:
    state, _ = _run(ServerConfig.model_validate({"optimizer": optimizer}))
    assert state.ema.tobytes() == state.theta.tobytes()  # a half-life of 0
