"""Judging samples where the images are not: by the features' moments that a run has kept."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from common.config import RunConfig
from common.diffusion import CLOCKS
from common.errors import UserError
from common.features import OurFeatures
from common.moments import from_vector
from server.evaluation.evaluator import Evaluator
from server.evaluation.metrics import FrechetTo
from server.evaluation.pixels import pixel_covariance
from server.evaluation.sampling import Images, Sampling, sampling_options

WEIGHTS = "classifier."

LEFT_OUT = (
    *("kernel", "precision", "recall", "density", "coverage", "sliced_wasserstein", "wasserstein"),
    *("nearest_train", "class_distance", "by_class", "held_out_loss", "bits_per_dim"),
)
"""Scores that take images."""


def kept_tensors(evaluator: Evaluator) -> dict[str, np.ndarray]:
    """Return what `StoredEvaluator`, and restoring pictures, need of an evaluator's images."""
    covariance = pixel_covariance(evaluator.splits.train)
    return {
        **({} if covariance is None else {"covariance": covariance}),
        "labels": evaluator.splits.train.labels.astype(np.int32),
        "moments": evaluator.moments.vector(),
        **{f"{WEIGHTS}{name}": value for name, value in evaluator.extractor.weights.items()},
    }


def kept_scores(evaluator: Evaluator) -> dict[str, Any]:
    """Return the numbers that go with `kept_tensors`."""
    known = {"noise": evaluator.noise_baseline, "held_out": evaluator.reference}
    return {
        **{name: None if math.isnan(value) else value for name, value in known.items()},
        "digest": evaluator.digest,
        "kinds": evaluator.extractor.kinds.count,
    }


class StoredEvaluator(Sampling):
    """What can be said of samples without an image to compare them with.

    Args:
        config: The run's.
        shape: (C, H, W) of its images.
        num_classes: How many classes its data have.
        tensors: What `kept_tensors` gave.
        scores: What `kept_scores` gave.

    Raises:
        UserError: The run's features are those of a file, or something is missing.
    """

    def __init__(
        self,
        config: RunConfig,
        shape: tuple[int, int, int],
        num_classes: int,
        tensors: Mapping[str, np.ndarray],
        scores: Mapping[str, Any],
    ) -> None:
        if config.evaluation.features != "classifier":
            raise UserError("evaluation.features: only distances in our own features are kept")
        try:
            labels = tensors["labels"].astype(np.int64)
            super().__init__(
                CLOCKS[config.clock], shape, labels, num_classes, **sampling_options(config, shape)
            )
            weights = {
                name.removeprefix(WEIGHTS): value
                for name, value in tensors.items()
                if name.startswith(WEIGHTS)
            }
            self._features = OurFeatures(shape, weights)
            self._kinds = int(scores["kinds"])
            self._frechet = FrechetTo(from_vector(tensors["moments"]))
            self._noise, self._held_out = scores["noise"], scores["held_out"]
        except (KeyError, RuntimeError, ValueError, TypeError, IndexError) as error:
            raise UserError(f"what the run has kept of its data is damaged ({error})") from None
        self.digest = self._features.digest

    def report(self, images: Images) -> dict[str, Any]:
        """Return the scores of `full_report` that take no image, by the same names.

        Where the run's features had failed their check, or an image is not finite, distances are
        NaN, as there.
        """
        if self._noise is None or not images.isfinite().all():
            return {"frechet": math.nan}
        frechet = self._frechet(self._features.features(images))
        kinds = self._features.probabilities(images, self._kinds).argmax(dim=1)
        counts = torch.bincount(kinds, minlength=self._kinds)
        return {
            "frechet": frechet,
            "frechet_to_noise": frechet / self._noise,
            "frechet_reference": self._held_out,
            "classes": [float(share) for share in counts.double() / len(images)],
        }
