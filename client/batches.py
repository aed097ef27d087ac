"""What a local step trains on: images, times, noise and labels of a client's own data."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from common.config import RunConfig
from common.data import ImageData, scaled
from common.diffusion import CLOCKS, TRAINING_DELTA, sample_times
from common.replay import Replay

WHITE = 255
"""The level of a replay's images that is 1."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The examples of one step, B of them.

    Attributes:
        x0: Images in [-1, 1].
        t: Training times, float64.
        noise: What to add to the images.
        labels: Their classes, the null class where it is hidden; None for an unconditional model.
        own: How many are the client's own images; those of a replay come after them.
    """

    x0: Float[Tensor, "B C H W"]
    t: Float[Tensor, "B"]
    noise: Float[Tensor, "B C H W"]
    labels: Int64[Tensor, "B"] | None
    own: int

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        return Batch(
            x0=self.x0.to(device),
            t=self.t.to(device),
            noise=self.noise.to(device),
            labels=None if self.labels is None else self.labels.to(device),
            own=self.own,
        )

    def without_replay(self) -> "Batch":
        """Return the examples of the client's own images."""
        if self.own == len(self.x0):
            return self
        return Batch(
            x0=self.x0[: self.own],
            t=self.t[: self.own],
            noise=self.noise[: self.own],
            labels=None if self.labels is None else self.labels[: self.own],
            own=self.own,
        )

    def parts(self, count: int) -> Iterator[tuple["Batch", float]]:
        """Yield at most `count` micro-batches of about one size, each with its share of B."""
        labels = (None,) * count if self.labels is None else self.labels.chunk(count)
        chunks = [tensor.chunk(count) for tensor in (self.x0, self.t, self.noise)]
        for x0, t, noise, classes in zip(*chunks, labels, strict=False):
            part = Batch(x0=x0, t=t, noise=noise, labels=classes, own=len(x0))
            yield part, len(x0) / len(self.x0)

    def classes(self) -> dict[str, Tensor]:
        """Return the labels as the denoiser's keyword arguments."""
        return {} if self.labels is None else {"class_labels": self.labels}


def draw_batch(
    data: ImageData,
    config: RunConfig,
    rng: np.random.Generator,
    generator: torch.Generator,
    shortest: float = TRAINING_DELTA,
    replay: Replay | None = None,
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
        replay: Images of the server's, which take the place of some of the client's own.
    """
    size = config.batch_size
    own = size - (replay.examples(size) if replay else 0)
    chosen = rng.integers(len(data), size=own)
    values, classes = data.values(chosen), data.labels[chosen]
    if replay is not None:
        drawn = rng.choice(len(replay), size - own, p=frequencies(replay, data, config))
        values = np.concatenate([values, scaled(replay.images[drawn], WHITE)])
        classes = np.concatenate([classes, replay.labels[drawn]])
    x0, labels = torch.from_numpy(values), torch.from_numpy(classes)
    noise = torch.randn(x0.shape, generator=generator)
    t = sample_times(CLOCKS[config.clock], size, generator, config.training_times, shortest)
    if config.model.label_dropout:
        hidden = torch.rand(size, generator=generator) < config.model.label_dropout
        labels = labels.masked_fill(hidden, config.model.num_classes)
    if config.train.flip:
        mirrored = torch.rand(size, generator=generator) < 0.5
        x0 = torch.where(mirrored[:, None, None, None], x0.flip(3), x0)
    labelled = labels if config.model.num_classes else None
    return Batch(x0=x0, t=t, noise=noise, labels=labelled, own=own)


def frequencies(
    replay: Replay, data: ImageData, config: RunConfig
) -> Float64[np.ndarray, " N"] | None:
    """Return how often each image of a replay is drawn; None is all alike.

    Of a conditional model classes are drawn so that, with the client's own images, all come up
    alike as far as the replay's share goes: those that the client lacks first. Nobody else need
    know which these are.
    """
    classes = config.model.num_classes
    if not classes:
        return None
    share = float(replay.share)
    own, drawn = (np.bincount(each, minlength=classes) for each in (data.labels, replay.labels))
    missing = np.clip(1 / classes - (1 - share) * own / len(data), 0, None)
    weights = np.where(drawn > 0, missing / np.maximum(drawn, 1), 0)[replay.labels]
    return weights / weights.sum() if weights.sum() > 0 else None
