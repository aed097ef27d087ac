"""Training the toy network by pruned clients, many runs at once.

Submodels and policies are the program's own; local steps are plain SGD and the average is the
coverage average. Runs of one call differ in initial weights and batches. Shape letters are those of
`simulations.theory.toy`: R runs, N clients, P weights, T rounds after which submodels repeat.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from common.config import RunConfig, parse_fleet
from common.submodels import scatter
from server.fleet import fleet_of, request_for
from server.policies import submodel_for
from simulations.theory.toy import LAYOUT, Problem, full_gradient, gradient

CYCLE = 32


def masks_of(
    fleet: str, policy: str, seed: int, scaler: bool = False, cycle: int = CYCLE
) -> Float64[Tensor, "T N P"]:
    """Return what every client keeps in the first rounds of a run: 0, or what it is multiplied by.

    That is 1, or with the scaler the atom over the positions kept, wherever a sum runs over the
    channels of an axis.
    """
    config = RunConfig(fleet=fleet, policy=policy, seed=seed)
    rates = parse_fleet(fleet)
    clients = fleet_of(rates, [(i, 1) for i in range(len(rates))])
    summed = np.zeros(LAYOUT.size, bool)
    for parameter in LAYOUT.parameters:
        summed[parameter.span] = len(parameter.channels) > 1 and bool(parameter.channels[1])
    masks = np.zeros((cycle, len(rates), LAYOUT.size), np.float32)
    for number, row in enumerate(masks, start=1):
        for client, mask in zip(clients, row, strict=True):
            submodel = submodel_for(policy, request_for(LAYOUT, config, client, number))
            scatter(np.ones(submodel.size, np.float32), submodel, mask)
            if scaler:
                mask[summed] /= float(submodel.rate)
    return torch.from_numpy(masks).double()


def pruned_drift(
    theta: Float64[Tensor, "R P"], problem: Problem, masks: Float64[Tensor, "T N P"]
) -> Float64[Tensor, "R P"]:
    """Return where infinitely small steps would go: the coverage average of masked gradients.

    Coordinate i is the mean, over rounds that cover it, of Σ w_n m_n ∇_i F_n(θ ⊙ m_n) / Σ w_n m_n.
    """
    total, rounds = torch.zeros_like(theta), torch.zeros(theta.shape[1], dtype=theta.dtype)
    for row in masks:
        sums, weight = torch.zeros_like(theta), torch.zeros_like(rounds)
        for mask, part, w in zip(row, problem.parts, problem.weights, strict=True):
            own = Problem(problem.x[part], problem.y[part], [])
            sums += w * mask * full_gradient(theta * mask, own)
            weight += w * (mask > 0)
        total += sums / weight.clamp(min=1e-300)
        rounds += weight > 0
    return total / rounds.clamp(min=1)


@dataclass(frozen=True)
class Trained:
    """R runs after training.

    Attributes:
        theta: The last weights.
        norms: ‖∇F‖² at the watched rounds' beginnings.
        watched: These rounds, from 0.
    """

    theta: Float64[Tensor, "R P"]
    norms: Float64[np.ndarray, "R watched"]
    watched: Int64[np.ndarray, "watched"]

    @property
    def average(self) -> Float64[np.ndarray, "R"]:
        """The mean over all rounds, straight lines between those watched."""
        integral: Float64[np.ndarray, " R"] = np.trapezoid(self.norms, self.watched, axis=1)
        return integral / self.watched[-1]

    def end(self, share: float) -> Float64[np.ndarray, "R"]:
        """Return the mean over the last share of the rounds."""
        late = self.watched >= (1 - share) * self.watched[-1]
        mean: Float64[np.ndarray, " R"] = self.norms[:, late].mean(1)
        return mean


def train(
    problem: Problem,
    masks: Float64[Tensor, "T N P"],
    theta: Float64[Tensor, "R P"],
    rate: Callable[[int], float],
    rounds: int,
    local_steps: int,
    generator: torch.Generator,
    batch: int = 16,
    watch: int = 24,
) -> Trained:
    """Train by pruned clients: masked SGD from θ ⊙ m, then the coverage average.

    Args:
        problem: Data of N clients.
        masks: What they keep, over and over.
        theta: Where the runs start.
        rate: The learning rate of a round, from 0.
        rounds: Q.
        local_steps: E.
        generator: Draws batches.
        batch: Examples of a local step.
        watch: The full gradient is computed at about twice as many rounds, half of them evenly
            spaced and half geometrically, for gradients fall fast at first.
    """
    runs, clients = len(theta), len(problem.parts)
    lengths = torch.tensor([len(part) for part in problem.parts])
    table = torch.zeros(clients, int(lengths.max()), dtype=torch.int64)
    for row, part in zip(table, problem.parts, strict=True):
        row[: len(part)] = part
    who = torch.arange(clients)[:, None]
    last = rounds - 1
    watched = np.unique(
        np.concatenate([np.linspace(0, last, watch), np.geomspace(1, rounds, watch) - 1]).round()
    ).astype(np.int64)
    look = set(watched.tolist())
    norms = []
    for q in range(rounds):
        if q in look:
            norms.append(full_gradient(theta, problem).square().sum(1))
        mask = masks[q % len(masks)]
        local = theta.repeat_interleave(clients, 0)
        kept = mask.repeat(runs, 1)
        for _ in range(local_steps):
            draw = torch.rand(runs, clients, batch, generator=generator)
            chosen = table[who, (draw * lengths[:, None]).long()].view(runs * clients, batch)
            slope = gradient(local * kept, problem.x[chosen], problem.y[chosen])
            local = local - rate(q) * kept * slope
        theta = averaged(theta, local.view(runs, clients, -1), mask, problem.weights)
    return Trained(theta, torch.stack(norms, 1).numpy(), watched)


def averaged(
    theta: Float64[Tensor, "R P"],
    local: Float64[Tensor, "R N P"],
    mask: Float64[Tensor, "N P"],
    weights: Float64[Tensor, "N"],
) -> Float64[Tensor, "R P"]:
    """Return the coverage average of each run: what nobody kept stays as it is."""
    weight = (mask > 0) * weights[:, None]
    total = weight.sum(0)
    return torch.where(total > 0, (local * weight).sum(1) / total.clamp(min=1e-300), theta)


def dropped(
    theta: Float64[Tensor, "R P"], masks: Float64[Tensor, "T N P"]
) -> Float64[np.ndarray, "R"]:
    """Return w² of each run, averaged over clients and rounds."""
    keep = (masks > 0).double().mean((0, 1))
    shares = 1 - (theta.square() @ keep) / theta.square().sum(1)
    rounded: Float64[np.ndarray, " R"] = shares.clamp(min=0).numpy()
    return rounded
