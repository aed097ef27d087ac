"""How good the samples and the predicted noise are.

Sample distances compare with the *training* images, which is what the model is to reproduce; the
loss is measured on images no client has seen. Noise, projections and subsets are drawn once from
the run's seed, so numbers of different rounds and of raw and averaged weights differ by the
weights alone.

Shape letters: N images, C channels, H height, W width.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from common.data import Splits
from common.diffusion import (
    DELTA,
    GRIDS,
    Clock,
    Denoiser,
    denoising_loss,
    for_sampling,
    sample,
    sigma,
)
from common.seeding import SERVER, rng_for, torch_generator
from server.evaluation.check import MOST, check_features
from server.evaluation.classifier import FeatureExtractor
from server.evaluation.metrics import FrechetTo

Images = Float[Tensor, "N C H W"]

LOSS_LEVELS = 8
LOSS_IMAGES = 256
BATCH = 256
"""Images that the network is asked for at once: more no longer fit the processor's caches."""


@dataclass(frozen=True)
class HeldOutLoss:
    """Denoising loss on held-out images, per value of an image.

    Attributes:
        mean: over u uniform in [0, 1]: the training loss at lambda = 1.
        score: the integral over t of loss / sigma², the score's squared error up to a constant
            that only the data fix. It sees small t, which `mean` hides.
        by_u: the loss at each clock reading u.
    """

    mean: float
    score: float
    by_u: dict[float, float]


class Evaluator:
    """Everything about a run's evaluation that does not change from round to round.

    Attributes:
        noise: (samples, C, H, W), the start of every sampling.
        class_labels: (samples,) as frequent as in training, given to a conditional model.
        noise_baseline: Fréchet distance of that noise itself, clipped to [-1, 1].
        reference: Fréchet distance of the held-out images: about what a perfect model would get
            with as many samples as there are held-out images.
        clock: the run's.
        splits: the data.
        extractor: of features; `real` are those of the training images.
        digest: the feature classifier's; to be written beside every distance.
        check: what the features make of damaged images. Where they failed, every distance is NaN,
            so that nothing is ranked by it.
    """

    def __init__(
        self,
        splits: Splits,
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
        extractor: FeatureExtractor | None = None,
    ) -> None:
        self.extractor = extractor or FeatureExtractor(splits)
        self.splits, self.clock, self._seed = splits, clock, seed
        self._sampler, self._num_steps, self._grid = sampler, num_steps, grid
        self._conditional, self._clip, self._guidance = conditional, clip, guidance
        self.real = self.extractor.training_features(splits.train)
        self._frechet = FrechetTo(self.real)
        chosen = self.rng("loss-images").permutation(len(splits.test))[:LOSS_IMAGES]
        self._judged = splits.test.select(chosen)
        shape = (LOSS_LEVELS, *self._judged.images.shape)
        self._loss_noise = torch.randn(shape, generator=self.generator("loss-noise"))
        shape = (samples, *splits.train.image_shape)
        self.noise = torch.randn(shape, generator=self.generator("evaluation-noise"))
        drawn = self.rng("evaluation-labels").choice(splits.train.labels, samples)
        self.class_labels = torch.from_numpy(drawn)
        self.digest = self.extractor.digest
        some = self.rng("feature-check").permutation(len(splits.train))
        some = some[: min(MOST, len(some) // 2)]
        self.check = check_features(
            lambda images: self._frechet(self.extractor.features(images)),
            torch.from_numpy(splits.train.values(some)),
            self.extractor.kinds.train[some],
            self.generator("feature-check-noise"),
        )
        self.noise_baseline = self.frechet(self.noise.clamp(-1, 1))
        theirs = self.extractor.features_of(splits.test)
        self.reference = self._frechet(theirs) if self.check.passed else math.nan

    @property
    def held_out(self) -> Images:
        """All held-out images, copied into memory: of small sets."""
        return torch.from_numpy(self.splits.test.images)

    @property
    def labels(self) -> dict[str, Any]:
        """What `sample` gives the denoiser besides images and times."""
        return {"class_labels": self.class_labels} if self._conditional else {}

    def sample(self, denoiser: Denoiser, batch_size: int = BATCH) -> Images:
        """Images from the fixed noise, clipped to [-1, 1]; (samples, C, H, W).

        With `clip`, the image that the denoiser predicts is clipped at every step as well.

        A conditional evaluator gives the denoiser `class_labels` (B,) as well. With `guidance` the
        label after the last class stands for none, and each evaluation costs two.
        """
        grid = GRIDS[self._grid](self.clock, self._num_steps, DELTA)
        generator = self.generator("evaluation-sampler")
        denoiser = for_sampling(
            denoiser,
            clip=self._clip,
            guidance=self._guidance,
            null_class=self.splits.train.num_classes,
        )
        images = sample(
            self._sampler, denoiser, grid, self.noise, generator, batch_size, **self.labels
        )
        return images.clamp(-1, 1)

    def frechet(self, images: Images) -> float:
        """Fréchet distance of at least two images in [-1, 1] to the training images.

        Heusel et al. (2017), equation 6, between Gaussians fitted to classifier features; NaN where
        an image is not finite or the features failed their check. It falls with the number of
        images, so compare equal numbers only.
        """
        if not (self.check.passed and images.isfinite().all()):
            return math.nan
        return self._frechet(self.extractor.features(images))

    @torch.no_grad()
    def held_out_loss(self, denoiser: Denoiser) -> HeldOutLoss:
        """How well noise is predicted on held-out images, at noise levels spread evenly over u."""
        x0 = torch.from_numpy(self._judged.images)
        labels = self._labels(self._judged.labels)
        by_u: dict[float, float] = {}
        score = 0.0
        for level, noise in enumerate(self._loss_noise):
            u = (level + 0.5) / LOSS_LEVELS
            t = torch.tensor(self.clock.t_of_u(u), dtype=torch.float64)
            by_u[u] = float(denoising_loss(denoiser, x0, t, noise, **labels).mean())
            start, end = (self.clock.t_of_u(edge / LOSS_LEVELS) for edge in (level, level + 1))
            score += (end - start) * by_u[u] / float(sigma(t)) ** 2
        return HeldOutLoss(sum(by_u.values()) / LOSS_LEVELS, score, by_u)

    def _labels(self, labels: np.ndarray) -> dict[str, Any]:
        return {"class_labels": torch.from_numpy(labels)} if self._conditional else {}

    def rng(self, purpose: str) -> np.random.Generator:
        """Return the stream of a purpose: the same each time, in every round."""
        return rng_for(self._seed, 0, SERVER, purpose)

    def generator(self, purpose: str) -> torch.Generator:
        """Return the same stream for torch."""
        return torch_generator(self.rng(purpose))
