"""A score network small enough for exact gradients, of many runs at once.

The objective is denoising score matching on a fixed finite set of noised values, so that its
gradient can be computed without sampling error. `simulations.theory.pruned` trains it.

Shape letters: R runs, N clients, K networks, B examples, P weights, M examples in all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from common.data import partition_indices
from common.diffusion import LAWS, coefficients, edm_sigma, perturb
from common.seeding import SERVER, rng_for, torch_generator
from common.submodels import Axis, Layout, Parameter

SIDE, WIDTH, ATOM, EXAMPLES = 2, 16, 4, 1024
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


def squared_norm(vectors: Float64[Tensor, "R P"]) -> Float64[np.ndarray, "R"]:
    """Return each run's squared norm."""
    squares: Float64[np.ndarray, R] = vectors.square().sum(1).numpy()
    return squares
