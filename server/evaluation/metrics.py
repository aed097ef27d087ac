"""torchmetrics' Fréchet and kernel distances, of features that have been computed already.

Shape letters: N and M images, F features.
"""

import warnings

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

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

    Heusel et al. (2017), equation 6, between the Gaussians of the two sets' moments.
    """

    def __init__(self, real: Float64[Tensor, "N F"]) -> None:
        self._metric = FrechetInceptionDistance(
            _AsGiven(real.shape[1]), reset_real_features=False, normalize=True
        )
        self._metric.update(real, real=True)

    @classmethod
    def of_moments(
        cls, total: Float64[Tensor, "F"], products: Float64[Tensor, "F F"], count: int
    ) -> "FrechetTo":
        """Return the distance to points of which `moments` are known."""
        made = cls(torch.zeros(0, len(total), dtype=torch.float64))
        made._metric.real_features_sum = total
        made._metric.real_features_cov_sum = products
        made._metric.real_features_num_samples = torch.tensor(count)
        return made

    @property
    def moments(self) -> tuple[Float64[Tensor, "F"], Float64[Tensor, "F F"], int]:
        """The real features' sum, the sum of their outer products, and how many there are."""
        metric = self._metric
        count = int(metric.real_features_num_samples)
        return metric.real_features_sum, metric.real_features_cov_sum, count

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
