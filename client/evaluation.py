"""What a client finds out about the model on its own images; no image of it leaves.

Losses are measured on images that it never trains on, distances and moments also on the others.
"""

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from common.config import LOSS_LEVELS, RunConfig
from common.data import ImageData, Splits
from common.diffusion import CLOCKS, eps_denoiser, losses_by_level
from common.features import FeatureNetwork, damaged
from common.moments import Moments, moments_of
from common.network import computed_on, images_at_once, load_weights
from common.seeding import rng_for, torch_generator
from common.submodels import CompactSubmodel, Submodel, narrowed, nested_coordinates
from common.wire import HELD_OUT, QUANTILES, TRAINING, Answer, Question, class_set

LOSS_IMAGES = 128
"""Held-out images that the loss is measured on at most."""

NEAREST_IMAGES = 512
"""Held-out images whose nearest training image is looked for at most."""


def evaluate_locally(
    question: Question,
    splits: Splits,
    config: RunConfig,
    partition: int,
    *,
    weights: tuple[Float32[np.ndarray, " kept"], Submodel] | None,
    network: FeatureNetwork | None,
    least_images: int,
    device: torch.device,
) -> Answer:
    """Answer a question about this client's images.

    Args:
        question: What is asked.
        splits: What it trains on and what it holds out.
        config: The run's configuration.
        partition: The client's own number.
        weights: The submodel whose loss is wanted, None if none is.
        network: The features whose moments are wanted, None if none are.
        least_images: Sets of fewer images are not told of.
        device: Where losses are computed.
    """
    train, test = splits
    moments: dict[str, Moments] = {}
    withheld = ""
    if network is not None:
        if min(len(train), len(test)) < least_images:
            withheld = f"fewer than {least_images} images are held"
        else:
            sets = _sets(splits, config, partition)
            moments = {
                name: moments_of(network.features(torch.from_numpy(each)).numpy())
                for name, each in sets
                if len(each) >= least_images or name in (TRAINING, HELD_OUT)
            }
    near: tuple[float, ...] = ()
    real: tuple[float, ...] = ()
    if question.samples is not None:
        samples = question.samples.astype(np.float32) * np.float32(2 / 255) - np.float32(1)
        near = _quantiles(samples, train.images)
        real = _quantiles(test.images[:NEAREST_IMAGES], train.images)
    losses: dict[Fraction, tuple[float, ...]] = {}
    if weights is not None:
        losses = _losses(question.rates, *weights, test, config, partition, device)
    return Answer(
        held_out=len(test),
        losses=losses,
        moments=moments,
        nearest=near,
        nearest_held_out=real,
        withheld=withheld,
    )


def _sets(splits: Splits, config: RunConfig, partition: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield this client's sets of images by name: as they are, damaged, and of each class."""
    train, test = splits
    yield TRAINING, train.images
    yield HELD_OUT, test.images
    some = rng_for(config.seed, 0, partition, "feature-check").permutation(len(train))
    noise = torch_generator(rng_for(config.seed, 0, partition, "feature-check-noise"))
    few = torch.from_numpy(train.images[some[: max(1, len(some) // 2)]])
    for name, images in damaged(few, noise).items():
        yield name, images.numpy()
    for label in range(config.model.num_classes):
        yield class_set(label), train.images[train.labels == label]


def _losses(
    rates: tuple[Fraction, ...],
    values: Float32[np.ndarray, " kept"],
    submodel: Submodel,
    test: ImageData,
    config: RunConfig,
    partition: int,
    device: torch.device,
) -> dict[Fraction, tuple[float, ...]]:
    """Return the losses of a width and of narrower ones within it, on the same noise."""
    chosen = rng_for(config.seed, 0, partition, "loss-images").permutation(len(test))[:LOSS_IMAGES]
    x0 = torch.from_numpy(test.images[chosen])
    generator = torch_generator(rng_for(config.seed, 0, partition, "loss-noise"))
    noise = torch.randn((LOSS_LEVELS, *x0.shape), generator=generator)
    labels = {"class_labels": torch.from_numpy(test.labels[chosen])}
    labels = labels if config.model.num_classes else {}
    found = {}
    for rate in rates:
        inner, theirs = submodel, values
        if rate != submodel.rate:
            assert isinstance(submodel, CompactSubmodel), "a masked submodel has one width"
            inner = narrowed(submodel, submodel.layout.kept_per_atom(rate))
            theirs = values[nested_coordinates(inner, submodel)]
        tensor = torch.from_numpy(inner.to_network(theirs))
        network = load_weights(config.model, x0.shape[1], tensor, inner.widths, config.scaler)
        if config.train.channels_last:
            network.memory_format = torch.channels_last
        placed = computed_on(network.eval(), device)
        denoiser = eps_denoiser(placed, CLOCKS[config.clock], config.prediction)
        batch = images_at_once(config.model, test.image_shape)
        losses = losses_by_level(denoiser, CLOCKS[config.clock], x0, noise, batch, **labels)
        # A network that is still noise may say anything; no number that large means more than it.
        found[rate] = tuple(min(loss, 1e6) if math.isfinite(loss) else 1e6 for loss in losses)
    return found


def _quantiles(images: np.ndarray, others: np.ndarray) -> tuple[float, ...]:
    """Return quantiles of the images' root-mean-square differences to the nearest other one."""
    flat, theirs = (torch.from_numpy(each).flatten(1).double() for each in (images, others))
    nearest = torch.cat([_least(part, theirs) for part in flat.split(256)])
    distances = nearest.clamp(min=0) / math.sqrt(flat.shape[1])
    found = np.quantile(distances.numpy(), QUANTILES)
    return tuple(float(each) for each in np.minimum(found, 2.0))


def _least(part: Tensor, theirs: Tensor) -> Tensor:
    return (
        torch.stack([torch.cdist(part, each).min(dim=1).values for each in theirs.split(4096)])
        .min(dim=0)
        .values
    )
