"""One client's local training: from a submodel's weights to its trained weights."""

import math
import time
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from client.batches import Batch, draw_batch
from client.flat import FlatModel
from client.optimizer import AdamW
from common.config import RunConfig
from common.data import ImageData
from common.diffusion import CLOCKS, TRAINING_DELTA, perturb, weighted_error
from common.replay import Replay
from common.seeding import torch_generator
from common.submodels import (
    CompactSubmodel,
    Layout,
    MaskedSubmodel,
    Submodel,
    narrowed,
    nested_coordinates,
)

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class LocalResult:
    """What a client sends back.

    Attributes:
        values: The trained weights of its submodel.
        loss: The mean denoising loss of its own width over the local steps.
        images: Images trained on, repeats counted.
        seconds: Wall time of the local steps.
    """

    values: Float32[np.ndarray, " kept"]
    loss: float
    images: int
    seconds: float


class Nested(NamedTuple):
    """A narrower width within a client's own.

    Attributes:
        model: Its network.
        place: Where its weights are in the client's own vector.
        k: Channels it keeps in every atom.
    """

    model: FlatModel
    place: Tensor
    k: int


def train_locally(
    values: Float32[np.ndarray, " kept"],
    submodel: Submodel,
    data: ImageData,
    config: RunConfig,
    round: int,
    rng: np.random.Generator,
    device: torch.device | None = None,
    replay: Replay | None = None,
) -> LocalResult:
    """Train a submodel on one client's images for a round's local steps.

    Builds the compact network and nothing larger; for a masked submodel the full network, whose
    other weights and their gradients are held at zero. The optimizer is AdamW, fresh each round,
    with the gradient's norm clipped.

    Args:
        values: The submodel's coordinates, from the server.
        submodel: Which they are.
        data: The client's own images, at least one.
        config: The run's configuration.
        round: The round, from 1.
        rng: This client's stream for this round.
        device: Where to compute; the CPU if None.
        replay: Images to train on beside the client's own, for widths above the replay's teacher.
    """
    started = time.perf_counter()
    device = device or torch.device("cpu")
    generator = torch_generator(rng)
    channels = data.image_shape[0]
    own = FlatModel(
        torch.from_numpy(submodel.to_network(values)).to(device), submodel.widths, config, channels
    )
    pruned = None
    if isinstance(submodel, MaskedSubmodel):
        pruned = own.ordered(torch.from_numpy(~submodel.mask).to(device))
    nested: list[Nested] = []
    if isinstance(submodel, CompactSubmodel):  # a masked one is not a width
        nested = _nested_models(own, submodel, config, channels)
    shortest = shortest_time(config, float(submodel.rate))
    optimizer = AdamW(own.theta, own.gradient, learning_rate(config, round), config.weight_decay)
    losses: list[Tensor] = []
    # nn.Dropout draws from torch's global generator, which then has to be this client's own.
    drops = config.model.dropout > 0
    with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=drops):
        if drops:
            torch.manual_seed(int(rng.integers(2**63 - 1)))
        for _ in range(config.local_steps):
            batch = draw_batch(data, config, rng, generator, shortest, replay).to(device)
            narrower = sandwiched(nested, rng)
            for each in narrower:
                torch.index_select(own.theta, 0, each.place, out=each.model.theta)
            chosen = [(own, batch.taught())]
            for each in narrower:
                learns = replay is not None and each.k > replay.teacher
                chosen.append((each.model, batch.taught() if learns else batch.own()))
            losses.append(backward(chosen, config))
            for each in narrower:
                own.gradient.index_add_(0, each.place, each.model.gradient)
            if pruned is not None:
                own.gradient.masked_fill_(pruned, 0.0)
            own.gradient.mul_((config.grad_clip / (own.gradient.norm() + 1e-6)).clamp(max=1.0))
            optimizer.step()
    return LocalResult(
        values=submodel.of_network(own.in_layout(own.theta).cpu().numpy()),
        loss=float(torch.stack(losses).mean()),
        images=config.local_steps * config.batch_size,
        seconds=time.perf_counter() - started,
    )


def backward(models: list[tuple[FlatModel, Batch]], config: RunConfig) -> Tensor:
    """Compute the gradient of the mean loss of some widths; return the first one's loss.

    A width's loss is the mean over its whole batch, however many micro-batches it is computed in.
    """
    first = torch.zeros((), device=models[0][1].x0.device)
    for model, batch in models:
        model.prepare()
        for part, share in batch.parts(config.train.accumulate):
            x = perturb(part.x0, part.t, part.noise)
            predicted = model.denoiser(x, part.t, **part.classes())
            loss = weighted_error(predicted, part.noise, part.t, config.loss_weight).mean() * share
            (loss / len(models)).backward()
            if model is models[0][0]:
                first += loss.detach()
        model.finish()
    return first


def shortest_time(config: RunConfig, rate: float) -> float:
    """Return the least diffusion time that a client of a model rate trains on."""
    lowest_u = config.rates.noise_floor * (1 - rate)
    return max(TRAINING_DELTA, float(CLOCKS[config.clock].t_of_u(lowest_u)))


def learning_rate(config: RunConfig, round: int) -> float:
    """Return a round's learning rate; "cosine" falls from the configured one towards zero."""
    if config.lr_schedule == "constant":
        return config.learning_rate
    done = (round - 1) / config.rounds
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def nested_widths(config: RunConfig, layout: Layout, k: int) -> list[int]:
    """Return the fleet's narrower widths that a client of `k` trains as well, from wide to narrow.

    They are channels kept in every atom, like `k`.
    """
    if config.local_widths == "own" or Fraction(k, layout.atom) < config.rates.several_widths:
        return []
    fleet = {layout.kept_per_atom(rate) for rate in config.widths(layout.atom)}
    return sorted((narrow for narrow in fleet if narrow < k), reverse=True)


def _nested_models(
    own: FlatModel, submodel: CompactSubmodel, config: RunConfig, channels: int
) -> list[Nested]:
    """Return the fleet's narrower widths within a client's own, from wide to narrow."""
    narrower = nested_widths(config, submodel.layout, submodel.k)
    if not narrower:
        return []
    device = own.theta.device
    models: list[Nested] = []
    places = own.in_layout(torch.arange(submodel.size, device=device))
    for k in narrower:
        inner = narrowed(submodel, k)
        model = FlatModel(torch.zeros(inner.size, device=device), inner.widths, config, channels)
        within = torch.from_numpy(nested_coordinates(inner, submodel)).to(device)
        models.append(Nested(model, model.ordered(places[within]), k))
    return models


def sandwiched(nested: list[_T], rng: np.random.Generator) -> list[_T]:
    """Return the widths that a step trains beside the client's own: the narrowest and one between.

    The sandwich rule (Yu and Huang 2019, section 3.1).

    Args:
        nested: The widths narrower than the client's own, from wide to narrow; may be none.
        rng: This client's stream.
    """
    between = nested[:-1]
    drawn = [between[rng.integers(len(between))]] if between else []
    return [*drawn, *nested[-1:]]
