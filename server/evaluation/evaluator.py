"""How good the samples and the predicted noise are.

Sample distances compare with the *training* images, which is what the model is to reproduce; the
loss is measured on images no client has seen. Noise, projections and subsets are drawn once from
the run's seed, so numbers of different rounds and of raw and averaged weights differ by the
weights alone.

Shape letters: N images, C channels, H height, W width, F features.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

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
from server.evaluation.classifier import FeatureExtractor
from server.evaluation.distances import (
    NEIGHBOURS,
    manifold_scores,
    mean_nearest,
    sliced_wasserstein,
    wasserstein,
)

Images = Float[Tensor, "N C H W"]
Features = Float64[Tensor, "N F"]

LOSS_LEVELS = 8
LOSS_IMAGES = 256
KERNEL_SUBSETS, KERNEL_SUBSET_SIZE = 50, 250
PROJECTIONS = 128
BATCH = 256
"""Images that the network is asked for at once: more no longer fit the processor's caches."""

WASSERSTEIN_IMAGES = 256


class _AsGiven(nn.Module):
    """Features that have been computed already, as torchmetrics' feature network."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Features) -> Features:
        return features


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
        digest: the feature classifier's; to be written beside every distance.
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
        self._extractor = extractor or FeatureExtractor(splits)
        self._splits, self.clock, self._seed = splits, clock, seed
        self._sampler, self._num_steps, self._grid = sampler, num_steps, grid
        self._conditional, self._clip, self._guidance = conditional, clip, guidance
        self._train = torch.from_numpy(splits.train.images)
        self._real = self._extractor.training_features(splits.train)
        self._frechet = self._distance_to(self._real)
        chosen = self._rng("loss-images").permutation(len(splits.test))[:LOSS_IMAGES]
        self._held_out = splits.test.select(chosen)
        shape = (LOSS_LEVELS, *self._held_out.images.shape)
        self._loss_noise = torch.randn(shape, generator=self._generator("loss-noise"))
        shape = (samples, *splits.train.image_shape)
        self.noise = torch.randn(shape, generator=self._generator("evaluation-noise"))
        drawn = self._rng("evaluation-labels").choice(splits.train.labels, samples)
        self.class_labels = torch.from_numpy(drawn)
        self.digest = self._extractor.digest
        self.noise_baseline = self.frechet(self.noise.clamp(-1, 1))
        self.reference = self.frechet(torch.from_numpy(splits.test.images))

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
        generator = self._generator("evaluation-sampler")
        denoiser = for_sampling(
            denoiser,
            clip=self._clip,
            guidance=self._guidance,
            null_class=self._splits.train.num_classes,
        )
        images = sample(
            self._sampler, denoiser, grid, self.noise, generator, batch_size, **self.labels
        )
        return images.clamp(-1, 1)

    def frechet(self, images: Images) -> float:
        """Fréchet distance of at least two images in [-1, 1] to the training images.

        Heusel et al. (2017), equation 6, between Gaussians fitted to classifier features; NaN where
        an image is not finite. It falls with the number of images, so compare equal numbers only.
        """
        if not images.isfinite().all():
            return math.nan
        return _distance(self._frechet, self._extractor.features(images))

    @torch.no_grad()
    def held_out_loss(self, denoiser: Denoiser) -> HeldOutLoss:
        """How well noise is predicted on held-out images, at noise levels spread evenly over u."""
        x0 = torch.from_numpy(self._held_out.images)
        labels = self._labels(self._held_out.labels)
        by_u: dict[float, float] = {}
        score = 0.0
        for level, noise in enumerate(self._loss_noise):
            u = (level + 0.5) / LOSS_LEVELS
            t = torch.tensor(self.clock.t_of_u(u), dtype=torch.float64)
            by_u[u] = float(denoising_loss(denoiser, x0, t, noise, **labels).mean())
            start, end = (self.clock.t_of_u(edge / LOSS_LEVELS) for edge in (level, level + 1))
            score += (end - start) * by_u[u] / float(sigma(t)) ** 2
        return HeldOutLoss(sum(by_u.values()) / LOSS_LEVELS, score, by_u)

    def report(self, images: Images) -> dict[str, Any]:
        """Every distance between `images`, in [-1, 1], and the training images.

        Keys: `frechet`, `frechet_to_noise` (its ratio to `noise_baseline`), `frechet_reference`,
        `kernel`, `kernel_std` (kernel distance, Bińkowski et al. 2018), `precision`, `recall`,
        `density`, `coverage` (see `manifold_scores`), `sliced_wasserstein` (of pixels, p = 2),
        `nearest_train`, `nearest_train_held_out` (root-mean-square difference per value to the
        nearest training image: far below the held-out images' own means memorised),
        `wasserstein`, `wasserstein_held_out` (exact, see there, of `WASSERSTEIN_IMAGES` pixels),
        the shares `classes` and `classes_train` of each predicted class with `class_distance`,
        half the sum of their differences, and `by_class`: for each class the number of images
        predicted to be of it and their Fréchet distance to its training images, beside
        that of the held-out images' (None below two images; few read high, so compare a
        class with itself).

        Where an image is not finite there is `frechet` alone, NaN.

        Raises:
            ValueError: there are not more than `NEIGHBOURS` images.
        """
        if len(images) <= NEIGHBOURS:
            raise ValueError(f"need more than {NEIGHBOURS} images, got {len(images)}")
        if not images.isfinite().all():
            return {"frechet": math.nan}
        fake = self._extractor.features(images)
        chosen = self._rng("manifold").permutation(len(self._real))[: len(fake)]
        frechet = self.frechet(images)
        kernel, kernel_std = self._kernel(fake)
        classes, classes_train = self._class_shares(images), self._class_shares(self._train)
        held_out = torch.from_numpy(self._splits.test.images)
        return {
            "frechet": frechet,
            "frechet_to_noise": frechet / self.noise_baseline,
            "frechet_reference": self.reference,
            "kernel": kernel,
            "kernel_std": kernel_std,
            **manifold_scores(self._real[chosen], fake[: len(chosen)], NEIGHBOURS),
            "sliced_wasserstein": self._sliced_wasserstein(images),
            "wasserstein": self._wasserstein(images),
            "wasserstein_held_out": self._wasserstein(held_out),
            "nearest_train": mean_nearest(images, self._train),
            "nearest_train_held_out": mean_nearest(held_out, self._train),
            "classes": classes,
            "classes_train": classes_train,
            "class_distance": sum(map(_gap, classes, classes_train)) / 2,
            "by_class": self._by_class(images),
        }

    def _by_class(self, images: Images) -> dict[str, dict[str, float | int | None]]:
        """Fréchet distances class by class, of images and of the held-out ones."""
        held_out = torch.from_numpy(self._splits.test.images)
        predicted, theirs = self._predicted(images), self._predicted(held_out)
        ours, others = self._extractor.features(images), self._extractor.features(held_out)
        labels = torch.from_numpy(self._splits.train.labels)
        table: dict[str, dict[str, float | int | None]] = {}
        for k in range(self._splits.train.num_classes):
            row: dict[str, float | int | None] = {"images": int((predicted == k).sum())}
            real = self._real[labels == k]
            named = {"frechet": ours[predicted == k], "frechet_held_out": others[theirs == k]}
            for name, fake in named.items():
                enough = min(len(fake), len(real)) > 1
                row[name] = _distance(self._distance_to(real), fake) if enough else None
            table[str(k)] = row
        return table

    def _distance_to(self, real: Features) -> FrechetInceptionDistance:
        metric = FrechetInceptionDistance(
            _AsGiven(self._extractor.num_features), reset_real_features=False, normalize=True
        )
        metric.update(real, real=True)
        return metric

    def _wasserstein(self, images: Images) -> float:
        count = min(WASSERSTEIN_IMAGES, len(images), len(self._train), len(self._splits.test))
        chosen = self._rng("wasserstein").permutation(len(self._train))[:count]
        return wasserstein(images[:count], self._train[chosen])

    def _labels(self, labels: np.ndarray) -> dict[str, Any]:
        return {"class_labels": torch.from_numpy(labels)} if self._conditional else {}

    def _kernel(self, fake: Features) -> tuple[float, float]:
        size = min(KERNEL_SUBSET_SIZE, len(fake), len(self._real))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all")
            metric = KernelInceptionDistance(
                _AsGiven(fake.shape[1]),
                subsets=KERNEL_SUBSETS,
                subset_size=size,
                # The usual 1/F takes features to be of unit size, which a classifier's are not.
                gamma=1 / float(self._real.square().sum(dim=1).mean()),
            )
        metric.update(self._real, real=True)
        metric.update(fake, real=False)
        # torchmetrics draws its subsets from torch's global generator.
        with torch.random.fork_rng(devices=[]):
            torch.random.set_rng_state(self._generator("kernel-subsets").get_state())
            mean, deviation = metric.compute()
        return float(mean), float(deviation)

    def _sliced_wasserstein(self, images: Images) -> float:
        seed = int(self._rng("sliced-wasserstein").integers(2**31))
        return sliced_wasserstein(images, self._train, PROJECTIONS, seed)

    def _predicted(self, images: Images) -> Tensor:
        return self._extractor.probabilities(images).argmax(dim=1)

    def _class_shares(self, images: Images) -> list[float]:
        counts = torch.bincount(self._predicted(images), minlength=self._splits.train.num_classes)
        return [float(share) for share in counts.double() / len(images)]

    def _rng(self, purpose: str) -> np.random.Generator:
        return rng_for(self._seed, 0, SERVER, purpose)

    def _generator(self, purpose: str) -> torch.Generator:
        return torch_generator(self._rng(purpose))


def _distance(metric: FrechetInceptionDistance, fake: Features) -> float:
    metric.reset()
    metric.update(fake, real=False)
    return float(metric.compute())


def _gap(a: float, b: float) -> float:
    return abs(a - b)
