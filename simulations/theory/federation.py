"""A federation as a plain loop over the functions that server and clients run, without Flower.

It trains bit for bit what the app trains from the same configuration; there is only no wire, no
evaluation and no run directory, so that an experiment may look at every state.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from client.training import train_locally
from common.config import EmaConfig, ModelConfig, RunConfig, parse_fleet
from common.data import ImageData, partition_indices
from common.diffusion import CLOCKS, Denoiser, KnownLaw, denoising_loss, eps_denoiser, sample_times
from common.network import initial_weights, layout_of, load_weights, submodel_denoiser
from common.seeding import SERVER, rng_for, torch_generator
from common.submodels import Layout, extract, full_submodel, pruning_error
from server.aggregation import CoverageFold
from server.fleet import Client, muster, participants, request_for
from server.policies import GlobalWeights, submodel_for
from server.state import ServerState, advance, initial_state


def small_config(seed: int, **changes: Any) -> RunConfig:
    """Return a run that trains in seconds, with some keys changed.

    Every client trains its own width alone, as in the theory.
    """
    base = RunConfig(
        rounds=12, local_steps=15, batch_size=32, seed=seed, local_widths="own",
        model=ModelConfig(widths=(16, 32), groups=4, attention=()),
        ema=EmaConfig(half_life=(5000,)),
    )  # fmt: skip
    return base.model_copy(update=changes)


@dataclass(frozen=True)
class Round:
    """A state and what led to it.

    Attributes:
        state: After the round.
        pruning_errors: w² of every client's submodel at the weights the round began with.
    """

    state: ServerState
    pruning_errors: tuple[float, ...]


def federation(config: RunConfig, data: ImageData) -> Iterator[Round]:
    """Yield every round, from round 0 before training.

    `refresh-every` is taken at its default.
    """
    channels = data.image_shape[0]
    layout = layout_of(config.model, channels)
    rates = parse_fleet(config.fleet)
    parts = [
        data.select(indices)
        for indices in partition_indices(
            data.labels, config.partition, len(rates), config.partition_alpha, config.seed
        )
    ]
    fleet = muster(rates, [(i, len(part)) for i, part in enumerate(parts)])
    theta = initial_weights(config.model, channels, config.seed)
    state = initial_state(layout, theta, config)
    yield Round(state, ())
    for number in range(1, config.rounds + 1):
        last = _one_round(config, layout, fleet, parts, state, number)
        state = last.state
        yield last


def _one_round(
    config: RunConfig,
    layout: Layout,
    fleet: list[Client],
    parts: list[ImageData],
    state: ServerState,
    number: int,
) -> Round:
    """Return what the round makes of a state."""
    clients = participants(fleet, config, number)
    weights = [float(each.examples) if config.weighting == "examples" else 1.0 for each in clients]
    looked_at = GlobalWeights(layout, lambda: state.theta)
    fold, dropped = CoverageFold(layout, sum(weights)), []
    for client, weight in zip(clients, weights, strict=True):
        request = request_for(layout, config, client, number, looked_at)
        submodel = submodel_for(config.policy, request)
        values = extract(state.theta, submodel)
        dropped.append(pruning_error(state.theta, values))
        rng = rng_for(config.seed, number, client.partition, "training")
        result = train_locally(values, submodel, parts[client.partition], config, number, rng)
        fold.add(result.values, submodel, weight, result.images)
    aggregate = fold.finish(state.theta)
    return Round(advance(state, aggregate, layout, config), tuple(dropped))


def images_of(law: KnownLaw, count: int, seed: int) -> ImageData:
    """Return labelled draws of a law as a data set."""
    x0, labels = law.draw(count, torch_generator(rng_for(seed, 0, SERVER, "images of a law")))
    return ImageData(x0.float().numpy(), labels.numpy(), law.num_classes, "known law")


def averaged_denoiser(config: RunConfig, state: ServerState) -> Denoiser:
    """Return the full model's moving average as a denoiser of grey images."""
    layout = layout_of(config.model, 1)
    return submodel_denoiser(config, state.ema, full_submodel(layout), 1)


def squared_gradient_norm(
    config: RunConfig, theta: Float32[np.ndarray, "P"], data: ImageData, noises: int = 2
) -> float:
    """Return ‖∇F(θ)‖² of the full model's mean loss over all images, each at `noises` fixed noises.

    The times and noises are the same for every θ: it is the gradient of one function.
    """
    weights = torch.from_numpy(theta.copy())
    network = load_weights(config.model, data.image_shape[0], weights).eval()
    generator = torch_generator(rng_for(config.seed, 0, SERVER, "gradient"))
    denoiser = eps_denoiser(network, CLOCKS[config.clock], config.prediction)
    x0 = torch.from_numpy(data.images)
    for _ in range(noises):
        t = sample_times(CLOCKS[config.clock], len(x0), generator, config.density)
        noise = torch.randn(x0.shape, generator=generator)
        loss = denoising_loss(denoiser, x0, t, noise, config.loss_weight).mean() / noises
        loss.backward()
    return sum(float(p.grad.square().sum()) for p in network.parameters() if p.grad is not None)
