"""A score network small enough for exact gradients, trained by pruned clients, many runs at once.

The objective is denoising score matching on a fixed finite set of noised values, so that its
gradient can be computed without sampling error. Layout, submodels and policies are the program's
own; local steps are plain SGD and the average is the coverage average, both for R runs together
that differ in initial weights and batches.

Shape letters: R runs, N clients, K networks, B examples, P weights, M examples in all, T rounds
after which submodels repeat.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from common.config import RunConfig, parse_fleet
from common.data import partition_indices
from common.diffusion import LAWS, coefficients, edm_sigma, perturb
from common.seeding import SERVER, rng_for, torch_generator
from common.submodels import Axis, Layout, Parameter, scatter
from server.fleet import fleet_of, request_for
from server.policies import submodel_for

SIDE, WIDTH, ATOM, EXAMPLES, CYCLE = 2, 16, 4, 1024, 32
INPUTS, OUTPUTS = SIDE**2 + 2, SIDE**2


def _layout() -> Layout:
    a, b = Axis("a", WIDTH), Axis("b", WIDTH)
    table = [
        ("first", (WIDTH, INPUTS), ((a,), ())),
        ("first.bias", (WIDTH,), ((a,),)),
        ("second", (WIDTH, WIDTH), ((b,), (a,))),
        ("second.bias", (WIDTH,), ((b,),)),
        ("last", (OUTPUTS, WIDTH), ((), (b,))),
        ("last.bias", (OUTPUTS,), ((),)),
    ]
    offsets = accumulate((int(np.prod(shape)) for _, shape, _ in table), initial=0)
    parameters = [Parameter(*row, at) for row, at in zip(table, offsets, strict=False)]
    return Layout(tuple(parameters), ATOM)


LAYOUT = _layout()


@dataclass(frozen=True)
class Problem:
    """Inputs and targets of all clients, and each client's share of them.

    F(θ) is the mean over all examples of the mean squared error, so client n's F_n has the weight
    of its number of examples.
    """

    x: Float64[Tensor, "M inputs"]
    y: Float64[Tensor, "M outputs"]
    parts: Sequence[Int64[Tensor, "_"]]

    @property
    def weights(self) -> Float64[Tensor, "N"]:
        """How many examples each client has."""
        return torch.tensor([float(len(part)) for part in self.parts], dtype=torch.float64)


def problem(clients: int, alpha: float, seed: int) -> Problem:
    """Return noised draws of the eight-component mixture, dealt out; alpha 0 is IID."""
    law, generator = LAWS["mixture"](SIDE), torch_generator(rng_for(seed, 0, SERVER, "toy data"))
    x0, labels = law.draw(EXAMPLES, generator)
    t = 0.05 + 1.5 * torch.rand(EXAMPLES, generator=generator, dtype=torch.float64)
    noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    _, s = coefficients(x0, t)
    features = [perturb(x0, t, noise).flatten(1), s.flatten(1), edm_sigma(t).log()[:, None]]
    kind = "dirichlet" if alpha else "iid"
    parts = partition_indices(labels.numpy(), kind, clients, alpha or 1.0, seed)
    return Problem(torch.cat(features, 1), noise.flatten(1), [*map(torch.from_numpy, parts)])


def initial(runs: int, seed: int) -> Float64[Tensor, "R P"]:
    """Return weights of deviation 1/√inputs, biases 0."""
    generator = torch_generator(rng_for(seed, 0, SERVER, "toy weights"))
    theta = torch.zeros(runs, LAYOUT.size, dtype=torch.float64)
    for parameter in LAYOUT.parameters:
        if len(parameter.shape) == 2:
            draw = torch.randn(runs, parameter.size, generator=generator, dtype=torch.float64)
            theta[:, parameter.span] = draw / parameter.shape[1] ** 0.5
    return theta


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


def gradient(
    theta: Float64[Tensor, "K P"], x: Float64[Tensor, "K B i"], y: Float64[Tensor, "K B o"]
) -> Float64[Tensor, "K P"]:
    """Return the gradient of each network's mean squared error on its own examples."""
    first, bias1, second, bias2, last, bias3 = (
        theta[:, p.span].view(-1, *p.shape) for p in LAYOUT.parameters
    )
    h1 = torch.tanh(torch.baddbmm(bias1[:, None], x, first.mT))
    h2 = torch.tanh(torch.baddbmm(bias2[:, None], h1, second.mT))
    error = (torch.baddbmm(bias3[:, None], h2, last.mT) - y) * (2 / y[0].numel())
    d2 = torch.bmm(error, last) * (1 - h2 * h2)
    d1 = torch.bmm(d2, second) * (1 - h1 * h1)
    parts = (d1.mT @ x, d1.sum(1), d2.mT @ h1, d2.sum(1), error.mT @ h2, error.sum(1))
    return torch.cat([part.flatten(1) for part in parts], 1)


def full_gradient(theta: Float64[Tensor, "R P"], problem: Problem) -> Float64[Tensor, "R P"]:
    """Return ∇F exactly."""
    x, y = (each.expand(len(theta), -1, -1) for each in (problem.x, problem.y))
    return gradient(theta, x, y)


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


def squared_norm(vectors: Float64[Tensor, "R P"]) -> Float64[np.ndarray, "R"]:
    """Return each run's squared norm."""
    squares: Float64[np.ndarray, R] = vectors.square().sum(1).numpy()
    return squares


def dropped(
    theta: Float64[Tensor, "R P"], masks: Float64[Tensor, "T N P"]
) -> Float64[np.ndarray, "R"]:
    """Return w² of each run, averaged over clients and rounds."""
    keep = (masks > 0).double().mean((0, 1))
    shares = 1 - (theta.square() @ keep) / theta.square().sum(1)
    rounded: Float64[np.ndarray, " R"] = shares.clamp(min=0).numpy()
    return rounded
