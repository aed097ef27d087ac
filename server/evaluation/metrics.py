"""torchmetrics' Fréchet and kernel distances, of features that have been computed already.

Shape letters: N and M images, F features.
"""

import warnings

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from common.moments import Moments

KERNEL_SUBSETS, KERNEL_SUBSET_SIZE = 50, 250


class _AsGiven(nn.Module):
    """Features that have been computed already, as torchmetrics' feature network."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Float64[Tensor, "N F"]) -> Float64[Tensor, "N F"]:
        return features


class FrechetTo:
    """Fréchet distance to some real features, at least two; of at least two others.

    Heusel et al. (2017), equation 6, between the Gaussians of the two sets' moments, so the real
    features' `Moments` do as well as themselves.
    """

    def __init__(self, real: Float64[Tensor, "N F"] | Moments) -> None:
        size = len(real.sum) if isinstance(real, Moments) else real.shape[1]
        self._metric = FrechetInceptionDistance(
            _AsGiven(size), reset_real_features=False, normalize=True
        )
        self._nothing = torch.empty(0, size, dtype=torch.float64)
        if isinstance(real, Moments):
            self._metric.update(self._nothing, real=True)
            self._metric.real_features_sum = torch.from_numpy(real.sum)
            self._metric.real_features_cov_sum = torch.from_numpy(real.products)
            self._metric.real_features_num_samples = torch.tensor(real.count)
        else:
            self._metric.update(real, real=True)

    @property
    def moments(self) -> Moments:
        """The real features' moments, as the distance sums them up."""
        return Moments(
            int(self._metric.real_features_num_samples),
            self._metric.real_features_sum.numpy(),
            self._metric.real_features_cov_sum.numpy(),
        )

    def of_moments(self, fake: Moments) -> float:
        """Return the distance of at least two features of which only the moments are known."""
        self._metric.reset()
        self._metric.update(self._nothing, real=False)
        self._metric.fake_features_sum = torch.from_numpy(fake.sum)
        self._metric.fake_features_cov_sum = torch.from_numpy(fake.products)
        self._metric.fake_features_num_samples = torch.tensor(fake.count)
        return float(self._metric.compute())

    def __call__(self, fake: Float64[Tensor, "M F"]) -> float:
        """Return the distance of `fake`."""
        self._metric.reset()
        self._metric.update(fake, real=False)
        return float(self._metric.compute())


def kernel_distance(
    real: Float64[Tensor, "N F"], fake: Float64[Tensor, "M F"], generator: torch.Generator
) -> tuple[float, float]:
    """Return the kernel distance (Bińkowski et al. 2018) over random subsets, and its deviation."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all")
        metric = KernelInceptionDistance(
            _AsGiven(fake.shape[1]),
            subsets=KERNEL_SUBSETS,
            subset_size=min(KERNEL_SUBSET_SIZE, len(fake), len(real)),
            # The usual 1/F takes features to be of unit size, which a classifier's are not.
            gamma=1 / float(real.square().sum(dim=1).mean()),
        )
    metric.update(real, real=True)
    metric.update(fake, real=False)
    # torchmetrics draws its subsets from torch's global generator.
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(generator.get_state())
        mean, deviation = metric.compute()
    return float(mean), float(deviation)
