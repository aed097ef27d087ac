"""How a run's samples are drawn: always from the same noise."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from common.diffusion import DELTA, GRIDS, Clock, Denoiser, for_sampling, sample
from common.seeding import SERVER, rng_for, torch_generator

Images = Float[Tensor, "N C H W"]

BATCH = 256
"""Images that the network is asked for at once: more no longer fit the processor's caches."""


class Drawing:
    """Everything about a run's sampling that does not change from round to round.

    Args:
        shape: (C, H, W) of an image.
        train_labels: Those of the training images.
        num_classes: How many classes the data have.

    Attributes:
        clock: The run's.
        noise: (samples, C, H, W), the start of every sampling.
        class_labels: (samples,) as frequent as in training, given to a conditional model.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        train_labels: Int64[np.ndarray, " N"],
        num_classes: int,
        clock: Clock,
        *,
        samples: int,
        sampler: str,
        num_steps: int,
        seed: int,
        grid: str = "edm",
        clip: bool = True,
        conditional: bool = False,
        guidance: float = 0.0,
    ) -> None:
        self.clock, self._seed, self._null_class = clock, seed, num_classes
        self._sampler, self._num_steps, self._grid = sampler, num_steps, grid
        self._conditional, self._clip, self._guidance = conditional, clip, guidance
        self.noise = torch.randn((samples, *shape), generator=self.generator("evaluation-noise"))
        drawn = self.rng("evaluation-labels").choice(train_labels, samples)
        self.class_labels = torch.from_numpy(drawn)

    @property
    def labels(self) -> dict[str, Any]:
        """What `sample` gives the denoiser besides images and times."""
        return {"class_labels": self.class_labels} if self._conditional else {}

    def sample(self, denoiser: Denoiser, batch_size: int = BATCH) -> Images:
        """Images from the fixed noise, clipped to [-1, 1]; (samples, C, H, W).

        With `clip`, the image that the denoiser predicts is clipped at every step as well.

        A conditional run gives the denoiser `class_labels` (B,) as well. With `guidance` the label
        after the last class stands for none, and each evaluation costs two.
        """
        grid = GRIDS[self._grid](self.clock, self._num_steps, DELTA)
        generator = self.generator("evaluation-sampler")
        denoiser = for_sampling(
            denoiser, clip=self._clip, guidance=self._guidance, null_class=self._null_class
        )
        images = sample(
            self._sampler, denoiser, grid, self.noise, generator, batch_size, **self.labels
        )
        return images.clamp(-1, 1)

    def rng(self, purpose: str) -> np.random.Generator:
        """Return the stream of a purpose: the same each time, in every round."""
        return rng_for(self._seed, 0, SERVER, purpose)

    def generator(self, purpose: str) -> torch.Generator:
        """Return the same stream for torch."""
        return torch_generator(self.rng(purpose))
