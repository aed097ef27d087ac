"""How good the samples and the predicted noise are, by images that the server holds.

Sample distances compare with the *training* images, which is what the model is to reproduce; the
loss is measured on images no client has seen. Noise, projections and subsets are drawn once from
the run's seed, so numbers of different rounds and of raw and averaged weights differ by the
weights alone.

Shape letters: N images, C channels, H height, W width.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from common.config import LOSS_LEVELS
from common.data import Splits
from common.diffusion import Clock, Denoiser, HeldOutLoss, held_out_loss, losses_by_level
from server.evaluation.check import MOST, check_features
from server.evaluation.classifier import FeatureExtractor
from server.evaluation.metrics import FrechetTo
from server.evaluation.sampling import Images, Sampling

LOSS_IMAGES = 256


class Evaluator(Sampling):
    """Everything about a run's evaluation that does not change from round to round.

    Class labels are drawn as frequent as in training; the options are those of `Sampling`.

    Attributes:
        noise_baseline: Fréchet distance of the noise itself, clipped to [-1, 1].
        reference: Fréchet distance of the held-out images: about what a perfect model would get
            with as many samples as there are held-out images.
        reference_images: how many images distances are to.
        splits: the data.
        extractor: of features; `real` are those of the training images, `moments` their sums.
        digest: the features'; to be written beside every distance.
        check: what the features make of damaged images. Where they failed, every distance is NaN,
            so that nothing is ranked by it.
    """

    def __init__(
        self,
        splits: Splits,
        clock: Clock,
        *,
        extractor: FeatureExtractor | None = None,
        **options: Any,
    ) -> None:
        train, test = splits
        super().__init__(clock, train.image_shape, train.labels, train.num_classes, **options)
        self.extractor = extractor or FeatureExtractor(splits)
        self.splits = splits
        self.real = self.extractor.training_features(train)
        self.reference_images = len(train)
        self._frechet = FrechetTo(self.real)
        self.moments = self._frechet.moments
        chosen = self.rng("loss-images").permutation(len(test))[:LOSS_IMAGES]
        self._judged = test.select(chosen)
        shape = (LOSS_LEVELS, *self._judged.images.shape)
        self._loss_noise = torch.randn(shape, generator=self.generator("loss-noise"))
        self.digest = self.extractor.digest
        some = self.rng("feature-check").permutation(len(train))
        some = some[: min(MOST, len(some) // 2)]
        self.check = check_features(
            lambda images: self._frechet(self.extractor.features(images)),
            torch.from_numpy(train.values(some)),
            self.extractor.kinds.train[some],
            self.generator("feature-check-noise"),
        )
        self.noise_baseline = self.frechet(self.noise.clamp(-1, 1))
        theirs = self.extractor.features_of(test)
        self.reference = self._frechet(theirs) if self.check.passed else math.nan

    @property
    def held_out(self) -> Images:
        """All held-out images, copied into memory: of small sets."""
        return torch.from_numpy(self.splits.test.images)

    @property
    def features(self) -> Mapping[str, Any]:
        """What distances are measured in, for the summary."""
        clustered = self.extractor.kinds.clustered
        return {"kinds": "clusters" if clustered else "classes", **self.check.record()}

    def frechet(self, images: Images) -> float:
        """Fréchet distance of at least two images in [-1, 1] to the training images.

        Heusel et al. (2017), equation 6, between Gaussians fitted to classifier features; NaN where
        an image is not finite or the features failed their check. It falls with the number of
        images, so compare equal numbers only.
        """
        if not (self.check.passed and images.isfinite().all()):
            return math.nan
        return self._frechet(self.extractor.features(images))

    def held_out_loss(self, denoiser: Denoiser) -> HeldOutLoss:
        """How well noise is predicted on held-out images, at noise levels spread evenly over u."""
        x0 = torch.from_numpy(self._judged.images)
        labels = self._labels(self._judged.labels)
        losses = losses_by_level(denoiser, self.clock, x0, self._loss_noise, self.batch, **labels)
        return held_out_loss(self.clock, losses)

    def _labels(self, labels: np.ndarray) -> dict[str, Any]:
        return {"class_labels": torch.from_numpy(labels)} if self._conditional else {}
