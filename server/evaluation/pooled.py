"""How good samples are by images that the server has never seen: only moments of their features."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from common.config import RunConfig
from common.diffusion import CLOCKS, Denoiser, HeldOutLoss, held_out_loss
from common.features import FeatureNetwork, network_named
from common.features.damage import DAMAGES, UNDAMAGED
from common.moments import Moments
from common.wire import HELD_OUT, TRAINING, class_set
from server.evaluation.check import FeatureCheck, judged
from server.evaluation.metrics import FrechetTo
from server.evaluation.sampling import Images, Sampling, sampling_options
from server.state import Reference

FEWEST = 2
"""Images that a distance needs on either side."""


class PooledEvaluator(Sampling):
    """Scores by what clients have said of their images; `Evaluator` says what the attributes are.

    Class labels are drawn evenly. The held-out loss is the clients' to measure, so here it is NaN.

    Args:
        config: The run's configuration.
        image_shape: (C, H, W).
        reference: What the clients have given so far.
    """

    def __init__(
        self, config: RunConfig, image_shape: tuple[int, int, int], reference: Reference
    ) -> None:
        classes = config.model.num_classes
        super().__init__(
            CLOCKS[config.clock],
            image_shape,
            np.arange(max(1, classes), dtype=np.int64),
            classes,
            **sampling_options(config, image_shape),
        )
        self._network = pooled_network(config, image_shape)
        self._sets, self._given = reference.sets, reference.given
        self.digest = self._network.digest
        self.reference_images = self._count(TRAINING)
        self._frechet = None
        if self.reference_images >= FEWEST:
            self._frechet = FrechetTo(self._sets[TRAINING])
        self.check = self._checked()
        self.noise_baseline = self.frechet(self.noise.clamp(-1, 1))
        self.reference = self._distance(HELD_OUT)

    @property
    def features(self) -> Mapping[str, Any]:
        """What distances are measured in, for the summary."""
        return {
            "kinds": "none",
            "clients": list(self._given),
            "images": self.reference_images,
            **self.check.record(),
        }

    def frechet(self, images: Images) -> float:
        """Fréchet distance of at least two images in [-1, 1] to the clients' training images.

        NaN where an image is not finite, nobody has given moments or the features failed.
        """
        if self._frechet is None or not (self.check.passed and images.isfinite().all()):
            return math.nan
        return self._frechet(self._network.features(images))

    def held_out_loss(self, denoiser: Denoiser) -> HeldOutLoss:
        """Return NaNs: the server has no image to measure it on."""
        return held_out_loss(self.clock, ())

    def report(self, images: Images) -> dict[str, Any]:
        """Return what moments can tell at a run's end, by the keys of `full_report`.

        By class, of a conditional model, the distance of the samples that were drawn of it.
        """
        frechet = self.frechet(images)
        report: dict[str, Any] = {
            "frechet": frechet,
            "frechet_to_noise": frechet / self.noise_baseline,
            "frechet_reference": self.reference,
        }
        if not math.isnan(frechet) and self._conditional:
            features = self._network.features(images)
            report["by_class"] = {
                str(label): self._of_class(label, features[self.class_labels == label])
                for label in range(self._null_class)
            }
        return report

    def _of_class(self, label: int, fake: torch.Tensor) -> dict[str, float | int | None]:
        name = class_set(label)
        enough = min(len(fake), self._count(name)) >= FEWEST
        distance = FrechetTo(self._sets[name])(fake) if enough else None
        return {"images": len(fake), "frechet": distance}

    def _count(self, name: str) -> int:
        moments: Moments | None = self._sets.get(name)
        return 0 if moments is None else moments.count

    def _distance(self, name: str) -> float:
        if self._frechet is None or self._count(name) < FEWEST or not self.check.passed:
            return math.nan
        return self._frechet.of_moments(self._sets[name])

    def _checked(self) -> FeatureCheck:
        names = [name for name in DAMAGES if self._count(name)]
        if self._frechet is None or UNDAMAGED not in names or self._count(UNDAMAGED) < FEWEST:
            return FeatureCheck({}, ("no client has given moments of its images",))
        return judged({name: self._frechet.of_moments(self._sets[name]) for name in names})


def set_names(config: RunConfig) -> tuple[str, ...]:
    """Return the names of the sets of images whose moments clients give."""
    classes = map(class_set, range(config.model.num_classes))
    return (TRAINING, HELD_OUT, *DAMAGES, *classes)


def pooled_network(config: RunConfig, image_shape: tuple[int, int, int]) -> FeatureNetwork:
    """Return the feature network of a run that its clients judge; each of them has it, too.

    Raises:
        UserError: It cannot be read.
    """
    network = network_named(config.evaluation.features, image_shape)
    assert network is not None, "a configuration in which clients judge names a network"
    return network
