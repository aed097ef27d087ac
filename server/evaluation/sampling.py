"""Sampling for scores: from noise, labels and random numbers that are the same in every round."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from common.config import RunConfig
from common.diffusion import (
    DELTA,
    GRIDS,
    SAMPLERS,
    Clock,
    Denoiser,
    for_sampling,
    sample,
)
from common.network import images_at_once
from common.seeding import SERVER, rng_for, torch_generator

Images = Float[Tensor, "N C H W"]


class Sampling:
    """How the weights of any round are sampled, so that scores differ by the weights alone.

    Args:
        clock: The run's.
        image_shape: (C, H, W).
        classes: Labels of images, as frequent as they are to be drawn.
        num_classes: How many classes there are; the label after the last stands for none.

    Attributes:
        batch: How many images a network is asked for at once.
        noise: (samples, C, H, W), the start of every sampling.
        class_labels: (samples,), given to a conditional model.
    """

    def __init__(
        self,
        clock: Clock,
        image_shape: tuple[int, int, int],
        classes: Int64[np.ndarray, " M"],
        num_classes: int,
        *,
        samples: int,
        sampler: str,
        num_steps: int,
        seed: int,
        grid: str = "edm",
        clip: bool = True,
        conditional: bool = False,
        guidance: float = 0.0,
        batch: int = 256,
    ) -> None:
        self.clock, self._seed = clock, seed
        self._sampler, self._num_steps, self._grid = sampler, num_steps, grid
        self._conditional, self._clip, self._guidance = conditional, clip, guidance
        self._null_class, self.batch = num_classes, batch
        self.noise = torch.randn(
            (samples, *image_shape), generator=self.generator("evaluation-noise")
        )
        drawn = self.rng("evaluation-labels").choice(classes, samples)
        self.class_labels = torch.from_numpy(drawn)

    @property
    def labels(self) -> dict[str, Any]:
        """What `sample` gives the denoiser besides images and times."""
        return {"class_labels": self.class_labels} if self._conditional else {}

    def sample(self, denoiser: Denoiser, batch_size: int | None = None) -> Images:
        """Images from the fixed noise, clipped to [-1, 1]; (samples, C, H, W).

        With `clip`, the image that the denoiser predicts is clipped at every step as well.

        A conditional one gives the denoiser `class_labels` (B,) as well. With `guidance` the label
        after the last class stands for none, and each evaluation costs two.
        """
        grid = GRIDS[self._grid](self.clock, self._num_steps, DELTA)
        generator = self.generator("evaluation-sampler")
        denoiser = for_sampling(
            denoiser, clip=self._clip, guidance=self._guidance, null_class=self._null_class
        )
        size = batch_size or self.batch
        images = sample(self._sampler, denoiser, grid, self.noise, generator, size, **self.labels)
        return images.clamp(-1, 1)

    def rng(self, purpose: str) -> np.random.Generator:
        """Return the stream of a purpose: the same each time, in every round."""
        return rng_for(self._seed, 0, SERVER, purpose)

    def generator(self, purpose: str) -> torch.Generator:
        """Return the same stream for torch."""
        return torch_generator(self.rng(purpose))


def sampling_options(config: RunConfig, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Return what a configuration says of `Sampling`, by the names of its arguments.

    Args:
        config: The run's.
        shape: (C, H, W) of its images.
    """
    evaluation = config.evaluation
    return {
        "samples": evaluation.samples,
        "sampler": evaluation.sampler,
        "num_steps": SAMPLERS[evaluation.sampler].steps_for(evaluation.evaluations),
        "seed": config.seed,
        "grid": evaluation.grid,
        "clip": evaluation.clip,
        "conditional": config.model.num_classes > 0,
        "guidance": evaluation.guidance,
        "batch": images_at_once(config.model, shape),
    }
