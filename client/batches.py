"""What a local step trains on: images, times, noise and labels of a client's own data."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from common.config import RunConfig
from common.data import ImageData
from common.diffusion import CLOCKS, TRAINING_DELTA, sample_times


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The examples of one step, B of them.

    Attributes:
        x0: Images in [-1, 1].
        t: Training times, float64.
        noise: What to add to the images.
        labels: Their classes, the null class where it is hidden; None for an unconditional model.
    """

    x0: Float[Tensor, "B C H W"]
    t: Float[Tensor, "B"]
    noise: Float[Tensor, "B C H W"]
    labels: Int64[Tensor, "B"] | None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        return Batch(
            x0=self.x0.to(device),
            t=self.t.to(device),
            noise=self.noise.to(device),
            labels=None if self.labels is None else self.labels.to(device),
        )

    def parts(self, count: int) -> Iterator[tuple["Batch", float]]:
        """Yield at most `count` micro-batches of about one size, each with its share of B."""
        labels = (None,) * count if self.labels is None else self.labels.chunk(count)
        chunks = [tensor.chunk(count) for tensor in (self.x0, self.t, self.noise)]
        for x0, t, noise, classes in zip(*chunks, labels, strict=False):
            yield Batch(x0=x0, t=t, noise=noise, labels=classes), len(x0) / len(self.x0)

    def classes(self) -> dict[str, Tensor]:
        """Return the labels as the denoiser's keyword arguments."""
        return {} if self.labels is None else {"class_labels": self.labels}


def draw_batch(
    data: ImageData,
    config: RunConfig,
    rng: np.random.Generator,
    generator: torch.Generator,
    shortest: float = TRAINING_DELTA,
) -> Batch:
    """Draw a step's examples, with replacement.

    Nothing is drawn for what is turned off, so that turning one choice on leaves the images, noise
    and times of the first step as they are without it.

    Args:
        data: The client's own images, at least one.
        config: The run's configuration.
        rng: Chooses the images.
        generator: Draws everything else.
        shortest: The least diffusion time.
    """
    size = config.batch_size
    chosen = rng.integers(len(data), size=size)
    x0, labels = torch.from_numpy(data.values(chosen)), torch.from_numpy(data.labels[chosen])
    noise = torch.randn(x0.shape, generator=generator)
    t = sample_times(CLOCKS[config.clock], size, generator, config.training_times, shortest)
    if config.model.label_dropout:
        hidden = torch.rand(size, generator=generator) < config.model.label_dropout
        labels = labels.masked_fill(hidden, config.model.num_classes)
    if config.train.flip:
        mirrored = torch.rand(size, generator=generator) < 0.5
        x0 = torch.where(mirrored[:, None, None, None], x0.flip(3), x0)
    return Batch(x0=x0, t=t, noise=noise, labels=labels if config.model.num_classes else None)
