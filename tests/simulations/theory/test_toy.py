"""The small network: its gradients, its average and its floors against other ways to get them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from common.config.fleet import parse_fleet
from common.config.run import RunConfig
from common.submodels import extract
from server.aggregation.mean import CoverageFold
from server.fleet.assignments import request_for
from server.fleet.members import fleet_of
from server.policies.choose import submodel_for
from simulations.theory.experiments.convergence import Case, constant, limit, power
from simulations.theory.experiments.pruning import Floor, floor, shape_constant
from simulations.theory.pruned import averaged, dropped, masks_of, pruned_drift, train
from simulations.theory.toy import LAYOUT, full_gradient, gradient, initial, problem, squared_norm

FLEET = "1x1 1/2x2 1/4x1"


def loss(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    w = [theta[p.span].view(p.shape) for p in LAYOUT.parameters]
    hidden = torch.tanh(torch.tanh(x @ w[0].T + w[1]) @ w[2].T + w[3])
    return (hidden @ w[4].T + w[5] - y).square().mean()


def test_gradients_are_those_of_the_loss() -> None:
    theta, data = initial(3, 1), problem(2, 0.0, 0)
    x, y = data.x[:30].view(3, 10, -1), data.y[:30].view(3, 10, -1)
    found = gradient(theta, x, y)
    for k in range(3):
        row = theta[k].clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(row, x[k], y[k]), row)
        torch.testing.assert_close(found[k], expected)


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_the_objective_is_the_clients_weighted_by_their_examples(alpha: float) -> None:
    theta, data = initial(2, 0), problem(4, alpha, 0)
    assert sorted(torch.cat(list(data.parts)).tolist()) == list(range(len(data.x)))
    full = masks_of("1x4", "static", 0, cycle=1)
    torch.testing.assert_close(pruned_drift(theta, data, full), full_gradient(theta, data))
    if alpha:
        assert data.weights.max() > 2 * data.weights.min()


def test_the_average_is_the_servers() -> None:
    config = RunConfig(fleet=FLEET, policy="random", seed=3)
    rng = np.random.default_rng(0)
    fleet = fleet_of(parse_fleet(FLEET), [(i, n) for i, n in enumerate((5, 1, 2, 9))])
    submodels = [submodel_for("random", request_for(LAYOUT, config, c, 1)) for c in fleet]
    theta = rng.normal(size=LAYOUT.size).astype(np.float32)
    local = rng.normal(size=(4, LAYOUT.size)).astype(np.float32)
    # The full client does not reply, so that some coordinates are covered by nobody.
    fold = CoverageFold(LAYOUT, 12.0)
    for i in (1, 2, 3):
        fold.add(extract(local[i], submodels[i]), submodels[i], float(fleet[i].examples), 1)
    masks = masks_of(FLEET, "random", 3, cycle=1)[0, 1:]
    ours = averaged(
        torch.from_numpy(theta).double()[None],
        torch.from_numpy(local[1:]).double()[None],
        masks,
        torch.tensor([1.0, 2.0, 9.0], dtype=torch.float64),
    )
    np.testing.assert_allclose(ours[0].numpy(), fold.finish(theta).theta, rtol=1e-6, atol=1e-6)
    assert (masks.sum(0) == 0).any()


def test_masks_are_the_policys_and_the_scaler_makes_up_for_dropped_inputs() -> None:
    plain, scaled = (
        masks_of("1/2x2 1/4x1", "balanced", 0, each, cycle=4) for each in (False, True)
    )
    assert set(plain.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(plain > 0, scaled > 0)
    first, bias, second, _, last, _ = (p.span for p in LAYOUT.parameters)
    assert set(scaled[:, :2, second].unique().tolist()) == {0.0, 2.0}
    assert set(scaled[:, 2:, last].unique().tolist()) == {0.0, 4.0}
    assert torch.equal(scaled[..., first], plain[..., first])
    assert torch.equal(scaled[..., bias], plain[..., bias])


def test_a_dense_round_of_one_step_is_a_step_of_gradient_descent() -> None:
    data, theta = problem(1, 0.0, 0), initial(2, 0)
    batch = len(data.x) * 64
    found = train(
        data, masks_of("1x1", "static", 0), theta, constant(0.1), 1, 1,
        torch.Generator().manual_seed(0), batch,
    )  # fmt: skip
    moved = (theta - found.theta) / 0.1
    torch.testing.assert_close(moved, full_gradient(theta, data), rtol=0.05, atol=0.01)
    np.testing.assert_allclose(found.norms[:, 0], squared_norm(full_gradient(theta, data)))


def test_what_nobody_keeps_never_moves() -> None:
    case, theta = Case("half", "1/2x2", "static"), initial(2, 0)
    found = case.train(0, 2, 5, constant(0.1))
    assert found.watched.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(found.end(0.5), found.norms[:, 2:].mean(1))
    inner = found.norms[:, 1:4].sum(1) + found.norms[:, [0, 4]].mean(1)
    np.testing.assert_allclose(found.average, inner / 4)
    untouched = (masks_of("1/2x2", "static", 0) == 0).all(0).all(0)
    assert untouched.any()
    assert torch.equal(found.theta[:, untouched], theta[:, untouched])
    assert not torch.equal(found.theta, theta)


def test_the_pruning_error_is_the_share_of_the_norm_that_masks_take() -> None:
    theta, masks = initial(3, 0), masks_of("1/2x2", "balanced", 0, cycle=3)
    each = [1 - (theta * m).square().sum(1) / theta.square().sum(1) for m in masks.flatten(0, 1)]
    np.testing.assert_allclose(dropped(theta, masks), torch.stack(each).mean(0))


def test_pruned_training_stops_where_its_own_drift_vanishes_and_the_gradient_does_not() -> None:
    dense, pruned = (floor(c, 200, 2, 0) for c in (Case("dense", "1x8"), Case("half", "1/2x8")))
    assert dense.dropped.max() < 1e-12
    assert pruned.dropped.min() > 0.3
    assert (dense.gamma, dense.average) == (8, 8)
    assert (pruned.gamma, pruned.average) == (0, 2)  # some round misses a weight, none for long
    assert pruned.norms.mean() > 100 * dense.norms.mean()
    theta = pruned.case.train(0, 2, 300, lambda q: 0.1 * (1 - q / 300)).theta
    gradients = squared_norm(full_gradient(theta, problem(8, 0.0, 0)))
    assert pruned.case.drift(theta, 0).mean() < gradients.mean() / 100


def test_fits_find_what_was_put_in() -> None:
    x = (1.0, 2.0, 4.0, 8.0)
    rows = np.array([[3 * each**-0.5 for each in x]] * 3)
    assert power(x, rows) == pytest.approx(-0.5)
    bent = np.array([[0.25 + 0.1 * each - 0.01 * each**2 for each in x]])
    assert limit(x, bent) == pytest.approx(0.25)
    assert limit(x, bent - 0.3) == 0
    ones = np.ones(2)
    floors = [Floor(Case("a", "1"), 2 * w * ones, w * ones, 1.0, 1, 1.0) for w in (0.0, 0.1, 0.5)]
    assert shape_constant(floors) == pytest.approx(2)
