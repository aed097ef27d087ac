"""A federation as a plain loop over the functions that server and clients run, without Flower.

It trains on the CPU, bit for bit, what the app trains there from the same configuration, if in the
app nobody fails, weights travel unchanged (`codec=float32`), nobody is too slow (`round-budget=0`)
and widths do not teach each other (`replay.mode=off`); it refuses other configurations. torch's
threads are the caller's to set, to `threads`. There is only no wire, no evaluation and no run
directory, so that an experiment may look at every state.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from client.training import train_locally
from common.config import EmaConfig, ModelConfig, ReplayConfig, RunConfig
from common.data import About, ImageData, partition_indices
from common.diffusion import CLOCKS, Denoiser, KnownLaw, denoising_loss, eps_denoiser, sample_times
from common.network import layout_of, load_weights, submodel_denoiser
from common.seeding import SERVER, rng_for, torch_generator
from common.submodels import Layout, extract, full_submodel, pruning_error
from server.fleet import (
    Client,
    assignments,
    fleet_of,
    participants,
    seated,
    seats_after,
)
from server.policies import policy_named
from server.pretrained.start import starting_weights
from server.replay import replays
from server.state import RoundInput, ServerState, advance, initial_state


def small_config(seed: int, **changes: Any) -> RunConfig:
    """Return a run that trains in seconds, with some keys changed.

    Every client trains its own width alone, as in the theory.
    """
    base = RunConfig(
        rounds=12, local_steps=15, batch_size=32, seed=seed, local_widths="own",
        model=ModelConfig(widths=(16, 32), groups=4, attention=()),
        ema=EmaConfig(half_life=(5000,)), replay=ReplayConfig(mode="off"),
    )  # fmt: skip
    return base.model_copy(update=changes)


@dataclass(frozen=True)
class Snapshot:
    """A state and what led to it.

    Attributes:
        state: After the round.
        pruning_errors: w² of every client's submodel at the weights the round began with.
    """

    state: ServerState
    pruning_errors: tuple[float, ...]


def federation(config: RunConfig, data: ImageData) -> Iterator[Snapshot]:
    """Yield what every round leads to, from round 0 before training.

    Args:
        config: The run's configuration.
        data: The images that are dealt out.

    Raises:
        ValueError: The configuration has a codec that changes weights, a time budget, or replay; or
            not one update of a round can be used.
    """
    if config.codec != "float32" or config.round_budget > 0:
        raise ValueError("without a wire and a clock, codec is float32 and round-budget 0")
    channels = data.image_shape[0]
    layout = policy_named(config.policy).coverage_layout(layout_of(config.model, channels))
    if replays(config, layout):
        raise ValueError("without evaluation there is no replay: set replay.mode=off")
    rates = config.client_rates
    parts = [
        data.select(indices)
        for indices in partition_indices(
            data.labels,
            config.partition,
            len(rates),
            config.partition_alpha,
            config.seed,
            About(config.partition_args, config.pictures.group, data.columns),
        )
    ]
    fleet = fleet_of(rates, [(i, len(part)) for i, part in enumerate(parts)])
    state = initial_state(layout, starting_weights(config, channels), config)
    yield Snapshot(state, ())
    for _ in range(config.rounds):
        last = _one_round(config, layout, fleet, parts, state)
        state = last.state
        yield last


def _one_round(
    config: RunConfig,
    layout: Layout,
    fleet: list[Client],
    parts: list[ImageData],
    state: ServerState,
) -> Snapshot:
    """Return what the next round makes of a state."""
    number = state.round + 1
    fleet = seated(fleet, state.seats)
    clients = participants(fleet, config, number)
    asked = assignments(layout, config, clients, number, state.looked_at)
    updates = RoundInput(layout, config, state.theta, state.norms, asked)
    dropped = []
    for each in asked:
        partition, values = each.client.partition, extract(state.theta, each.submodel)
        dropped.append(pruning_error(state.theta, values))
        rng = rng_for(config.seed, number, partition, "training")
        result = train_locally(values, each.submodel, parts[partition], config, number, rng)
        with suppress(ValueError):  # its norm may be one that the app refuses as well
            updates.add(each, result.values, result.images)
    round = updates.finish(state.limits, seats_after(config, number, fleet, state.seats))
    if not round.masks:
        raise ValueError(f"round {number}: no client trained anything that can be used")
    return Snapshot(advance(state, round, layout, config), tuple(dropped))


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
        t = sample_times(CLOCKS[config.clock], len(x0), generator, config.training_times)
        noise = torch.randn(x0.shape, generator=generator)
        loss = denoising_loss(denoiser, x0, t, noise, config.loss_weight).mean() / noises
        loss.backward()
    return sum(float(p.grad.square().sum()) for p in network.parameters() if p.grad is not None)
