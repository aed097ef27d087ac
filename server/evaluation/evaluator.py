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

from common.data import Splits
from common.diffusion import (
    Clock,
    Denoiser,
    denoising_loss,
    sigma,
)
from server.evaluation.check import MOST, check_features
from server.evaluation.classifier import FeatureExtractor
from server.evaluation.drawing import Drawing, Images
from server.evaluation.metrics import FrechetTo

LOSS_LEVELS = 8
LOSS_IMAGES = 256


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


class Evaluator(Drawing):
    """Everything about a run's evaluation that does not change from round to round.

    Attributes:
        noise_baseline: Fréchet distance of the noise itself, clipped to [-1, 1].
        reference: Fréchet distance of the held-out images: about what a perfect model would get
            with as many samples as there are held-out images.
        splits: the data.
        extractor: of features; `real` are those of the training images, `moments` their sums.
        digest: the feature classifier's; to be written beside every distance.
        check: what the features make of damaged images. Where they failed, every distance is NaN,
            so that nothing is ranked by it.
    """

    def __init__(
        self,
        splits: Splits,
        clock: Clock,
        *,
        extractor: FeatureExtractor | None = None,
        **drawing: Any,
    ) -> None:
        train = splits.train
        super().__init__(train.image_shape, train.labels, train.num_classes, clock, **drawing)
        self.extractor = extractor or FeatureExtractor(splits)
        self.splits = splits
        self.real = self.extractor.training_features(splits.train)
        self._frechet = FrechetTo(self.real)
        self.moments = self._frechet.moments
        chosen = self.rng("loss-images").permutation(len(splits.test))[:LOSS_IMAGES]
        self._judged = splits.test.select(chosen)
        shape = (LOSS_LEVELS, *self._judged.images.shape)
        self._loss_noise = torch.randn(shape, generator=self.generator("loss-noise"))
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
