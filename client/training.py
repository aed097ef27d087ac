"""One client's local training: from a submodel's weights to its trained weights."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from client.batches import Batch, draw_batch
from client.optimizer import AdamW
from common.config import RunConfig, parse_fleet
from common.data import ImageData
from common.denoising import TRAINING_DELTA, eps_denoiser, weighted_error
from common.masked import MaskedSubmodel, dense, kept
from common.process import CLOCKS, perturb
from common.sections import TrainConfig
from common.seeding import torch_generator
from common.submodel import Submodel, narrowed, nested_coordinates
from common.unet import ScoreUNet, load_weights


@dataclass(frozen=True)
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


class FlatModel:
    """A network whose parameters are views of one vector and whose gradients are views of another.

    Clipping and the optimizer are then one kernel each, whatever the number of layers.
    """

    def __init__(self, theta: Tensor, submodel: Submodel, config: RunConfig, channels: int) -> None:
        self.theta = theta
        self.gradient = torch.zeros_like(theta)
        self.network = load_weights(
            config.model, channels, theta, submodel.widths, config.scaler
        ).train()
        forward = executed(self.network, config.train)
        self.denoiser = eps_denoiser(forward, CLOCKS[config.clock], config.prediction)
        start = 0
        for parameter in self.network.parameters():
            stop = start + parameter.numel()
            parameter.grad = self.gradient[start:stop].view_as(parameter)
            start = stop


def executed(network: ScoreUNet, choices: TrainConfig) -> Callable[..., Tensor]:
    """Return the network's forward pass, computed as the training choices say.

    None of them changes what is computed, up to rounding. The weights and the loss stay float32;
    "bfloat16" is torch's autocast. In channels-last the weights keep their order, being views of
    the flat vector, and the convolutions take it over from the activations.
    """
    network.checkpointing = choices.gradient_checkpointing
    if choices.channels_last:
        network.memory_format = torch.channels_last
    run: Callable[..., Tensor] = torch.compile(network) if choices.compile else network
    half = choices.precision == "bfloat16"

    def forward(x_BCHW: Tensor, timestep_B: Tensor, **labels: Tensor) -> Tensor:
        with torch.autocast(x_BCHW.device.type, torch.bfloat16, enabled=half):
            return run(x_BCHW, timestep_B, **labels).to(x_BCHW.dtype)

    return forward


def train_locally(
    values: Float32[np.ndarray, " kept"],
    submodel: Submodel,
    data: ImageData,
    config: RunConfig,
    round: int,
    rng: np.random.Generator,
    device: torch.device | None = None,
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
    """
    started = time.perf_counter()
    device = device or torch.device("cpu")
    generator = torch_generator(rng)
    channels = data.image_shape[0]
    own = FlatModel(
        torch.from_numpy(dense(values, submodel)).to(device), submodel, config, channels
    )
    pruned = None
    if isinstance(submodel, MaskedSubmodel):
        pruned = torch.from_numpy(~submodel.mask).to(device)
    nested = _nested_models(submodel, config, channels, device)
    rate = learning_rate(config, round) * float(submodel.rate) ** config.rates.learning_rate
    shortest = shortest_time(config, float(submodel.rate))
    optimizer = AdamW(own.theta, own.gradient, rate, config.weight_decay)
    losses: list[Tensor] = []
    # nn.Dropout draws from torch's global generator, which then has to be this client's own.
    drops = config.model.dropout > 0
    with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=drops):
        if drops:
            torch.manual_seed(int(rng.integers(2**63 - 1)))
        for _ in range(config.local_steps):
            batch = draw_batch(data, config, rng, generator, shortest).to(device)
            models = _widths_of_step(own, nested, config.local_widths, rng)
            for model, place in models:
                if place is not None:
                    torch.index_select(own.theta, 0, place, out=model.theta)
                model.gradient.zero_()
            loss = backward([model for model, _ in models], batch, config)
            if models[0][1] is None:
                losses.append(loss)
            for model, place in models:
                if place is not None:
                    own.gradient.index_add_(0, place, model.gradient)
            if pruned is not None:
                own.gradient.masked_fill_(pruned, 0.0)
            own.gradient.mul_((config.grad_clip / (own.gradient.norm() + 1e-6)).clamp(max=1.0))
            optimizer.step()
    return LocalResult(
        kept(own.theta.cpu().numpy(), submodel),
        float(torch.stack(losses).mean()) if losses else math.nan,
        config.local_steps * config.batch_size,
        time.perf_counter() - started,
    )


def backward(models: list[FlatModel], batch: Batch, config: RunConfig) -> Tensor:
    """Add the gradient of a batch's mean loss over some widths; return the first one's loss.

    The mean is that of the whole batch, however many micro-batches it is computed in. To "distill",
    the first width's prediction takes the noise's place for the others (in-place distillation, Yu
    and Huang 2019): they learn the mean that it has found, without the noise of single examples.
    """
    first = torch.zeros((), device=batch.x0.device)
    for part, share in batch.parts(config.train.accumulate):
        x, target = perturb(part.x0, part.t, part.noise), part.noise
        for model in models:
            predicted = model.denoiser(x, part.t, **part.classes())
            loss = weighted_error(predicted, target, part.t, config.loss_weight).mean() * share
            (loss / len(models)).backward()
            if model is models[0]:
                first += loss.detach()
                if config.local_widths == "distill":
                    target = predicted.detach()
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


def _nested_models(
    submodel: Submodel, config: RunConfig, channels: int, device: torch.device
) -> list[tuple[FlatModel, Tensor]]:
    """Return the fleet's narrower widths nested in this submodel, with their coordinates in it.

    A masked submodel has none: it is not a width.
    """
    several = config.local_widths != "own" and submodel.rate >= config.rates.several_widths
    if not several or isinstance(submodel, MaskedSubmodel):
        return []
    models = []
    for rate in sorted(set(parse_fleet(config.fleet)), reverse=True):
        k = submodel.layout.kept_per_atom(rate)
        if k < submodel.k:
            inner = narrowed(submodel, k)
            theta = torch.zeros(inner.size, device=device)
            place = torch.from_numpy(nested_coordinates(inner, submodel)).to(device)
            models.append((FlatModel(theta, inner, config, channels), place))
    return models


def _widths_of_step(
    own: FlatModel, nested: list[tuple[FlatModel, Tensor]], widths: str, rng: np.random.Generator
) -> list[tuple[FlatModel, Tensor | None]]:
    """Return the networks that one step trains."""
    itself: tuple[FlatModel, Tensor | None] = (own, None)
    if not nested:
        return [itself]
    other = nested[rng.integers(len(nested))]
    if widths == "alternate":
        return [itself] if rng.random() < 0.5 else [other]
    return [itself, other]
