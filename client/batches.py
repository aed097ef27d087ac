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
    """The examples of one step, B of them, and R more where there is a replay.

    Attributes:
        x0: Images in [-1, 1].
        t: Training times, float64.
        noise: What to add to the images.
        labels: Their classes, the null class where it is hidden; None for an unconditional model.
        replayed: R, the last ones, which are the replay's; the others are the client's own.
    """

    x0: Float[Tensor, "B C H W"]
    t: Float[Tensor, "B"]
    noise: Float[Tensor, "B C H W"]
    labels: Int64[Tensor, "B"] | None
    replayed: int = 0

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        return Batch(
            x0=self.x0.to(device),
            t=self.t.to(device),
            noise=self.noise.to(device),
            labels=None if self.labels is None else self.labels.to(device),
            replayed=self.replayed,
        )

    def taught(self) -> "Batch":
        """Return B examples, in which those of the replay take the place of as many own ones."""
        return self._cut(slice(self.replayed, None))

    def own(self) -> "Batch":
        """Return the B examples that are the client's own."""
        return self._cut(slice(0, len(self.x0) - self.replayed))

    def _cut(self, part: slice) -> "Batch":
        if not self.replayed:
            return self
        labels = None if self.labels is None else self.labels[part]
        return Batch(x0=self.x0[part], t=self.t[part], noise=self.noise[part], labels=labels)

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
        replay: Images of the server's, of which some are drawn besides.
    """
    size = config.batch_size
    chosen = rng.integers(len(data), size=size)
    values, classes = data.values(chosen), data.labels[chosen]
    replayed = replay.examples(size) if replay else 0
    if replay is not None:
        drawn = rng.choice(len(replay), replayed, p=frequencies(replay, data, config))
        values = np.concatenate([values, scaled(replay.images[drawn], WHITE)])
        classes = np.concatenate([classes, replay.labels[drawn]])
    x0, labels = torch.from_numpy(values), torch.from_numpy(classes)
    size += replayed
    noise = torch.randn(x0.shape, generator=generator)
    t = sample_times(CLOCKS[config.clock], size, generator, config.training_times, shortest)
    if config.model.label_dropout:
        hidden = torch.rand(size, generator=generator) < config.model.label_dropout
        labels = labels.masked_fill(hidden, config.model.num_classes)
    if config.train.flip:
        mirrored = torch.rand(size, generator=generator) < 0.5
        x0 = torch.where(mirrored[:, None, None, None], x0.flip(3), x0)
    labelled = labels if config.model.num_classes else None
    return Batch(x0=x0, t=t, noise=noise, labels=labelled, replayed=replayed)


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
