"""Data whose score is known at every time: Gaussian fields, Gaussian mixtures, two-point products.

Each law is that of images x_0 (1, side, side); noised by the process of
`common.diffusion.process` its density at time t is known too. Unless scaled, the variance of a
value is 1 on average.

Shape letters: B images, K components, H height and W width, both equal to the side.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from common.diffusion.process import Times, coefficients, perturb
from common.errors import UserError
from common.seeding import SERVER, rng_for, torch_generator

Images = Float[Tensor, "B 1 H W"]
SMALLEST_SIDE, LARGEST_SIDE = 2, 64
DEVIATION = 0.25
"""The deviation of a value in the app's data sets, by which nearly all lie in [-1, 1]."""


class KnownLaw(ABC):
    """The law of images with everything one may ask of it; times are () or (B,), as in `process`.

    Attributes:
        side: Height and width of an image.
        num_classes: Labels run from 0 to this, less one.
    """

    side: int
    num_classes: int

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> tuple[Images, Int64[Tensor, "B"]]:
        """Return float64 images at time 0 and their labels, which are a function of the draw."""

    @abstractmethod
    def log_prob(self, x: Images, t: Times) -> Float[Tensor, "B"]:
        """Return the log-density of X_t at x, in nats; t > 0 where X_0 has no density."""

    @abstractmethod
    def score(self, x: Images, t: Times) -> Images:
        """Return the gradient of `log_prob` in x."""

    @property
    def values(self) -> int:
        """Values of an image: the dimension d."""
        return self.side**2

    def sample(self, count: int, generator: torch.Generator, t: float = 0.0) -> Images:
        """Return float64 draws of X_t."""
        x0, _ = self.draw(count, generator)
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
        return perturb(x0, torch.tensor(t, dtype=torch.float64), noise)

    def denoiser(self, x: Images, t: Times) -> Images:
        """Return the exact noise prediction -sigma(t) score(x, t), for samplers; t > 0."""
        _, s = coefficients(x, t)
        return -s * self.score(x, t)


class GaussianField(KnownLaw):
    """Gaussian images whose covariance is diagonal in the cosine basis of the square.

    Args:
        spectrum: Eigenvalues by frequency (side, side), 0 or greater; zeros make it singular.
        mean: The mean of every value.

    The label is made of the signs of the two lowest frequencies about their mean.
    """

    num_classes = 4

    def __init__(self, spectrum: Float[Tensor, "H W"], mean: float = 0.0) -> None:
        self.side = len(spectrum)
        self.spectrum = spectrum.double()
        self.mean = mean
        self._cosines = cosine_basis(self.side)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Images, Int64[Tensor, "B"]]:  # noqa: D102
        shape = (count, 1, self.side, self.side)
        z = torch.randn(shape, generator=generator, dtype=torch.float64)
        labels = (z[:, 0, 0, 0] > 0).long() + 2 * (z[:, 0, 0, 1] > 0).long()
        return self.mean + self._synthesis(self.spectrum.sqrt() * z), labels

    def log_prob(self, x: Images, t: Times) -> Float[Tensor, "B"]:  # noqa: D102
        a, _ = coefficients(x, t)
        variance = self.variance(x, t)
        squares = self._analysis(x - a * self.mean).square() / variance
        return -(squares + torch.log(2 * math.pi * variance)).flatten(1).sum(1) / 2

    def score(self, x: Images, t: Times) -> Images:  # noqa: D102
        a, _ = coefficients(x, t)
        return -self._synthesis(self._analysis(x - a * self.mean) / self.variance(x, t))

    def variance(self, x: Images, t: Times) -> Tensor:
        """Return the variance of X_t by frequency, shaped to go with x's coefficients."""
        a, s = coefficients(x, t)
        return a**2 * self.spectrum.to(x) + s**2

    def _analysis(self, x: Tensor) -> Tensor:
        c = self._cosines.to(x)
        return c @ x @ c.T

    def _synthesis(self, y: Tensor) -> Tensor:
        c = self._cosines.to(y)
        return c.T @ y @ c


class GaussianMixture(KnownLaw):
    """Equally likely Gaussians of one variance around K images; the label is the component."""

    def __init__(self, means: Float[Tensor, "K 1 H W"], variance: float) -> None:
        self.side = means.shape[-1]
        self.num_classes = len(means)
        self.means, self.variance = means.double(), variance

    def draw(self, count: int, generator: torch.Generator) -> tuple[Images, Int64[Tensor, "B"]]:  # noqa: D102
        labels = torch.randint(self.num_classes, (count,), generator=generator)
        x = self.means[labels]
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        return x + math.sqrt(self.variance) * noise, labels

    def log_prob(self, x: Images, t: Times) -> Float[Tensor, "B"]:  # noqa: D102
        logits, variance = self._logits(x, t)
        squares = x.square().flatten(1).sum(1) / variance
        normaliser = self.values * torch.log(2 * math.pi * variance)
        return torch.logsumexp(logits, 1) - math.log(self.num_classes) - (squares + normaliser) / 2

    def score(self, x: Images, t: Times) -> Images:  # noqa: D102
        logits, variance = self._logits(x, t)
        a, _ = coefficients(x, t)
        nearest = torch.einsum("bk,kchw->bchw", torch.softmax(logits, 1), self.means.to(x))
        return (a * nearest - x) / variance.reshape(-1, 1, 1, 1)

    def _logits(self, x: Images, t: Times) -> tuple[Tensor, Tensor]:
        """Return log N(x; alpha m_k, V) up to what all k share (B, K), and the variance V (B,)."""
        a, s = (c.reshape(-1) for c in coefficients(x, t))
        variance = (a**2 * self.variance + s**2).expand(len(x))
        means = self.means.flatten(1).to(x)
        inner = a[:, None] * (x.flatten(1) @ means.T)
        squares = a[:, None] ** 2 * means.square().sum(1) / 2
        return (inner - squares) / variance[:, None], variance


class TwoPoint(KnownLaw):
    """Independent values, each plus or minus `size`; the label is the first two signs."""

    num_classes = 4

    def __init__(self, side: int, size: float = 1.0) -> None:
        self.side, self.size = side, size

    def draw(self, count: int, generator: torch.Generator) -> tuple[Images, Int64[Tensor, "B"]]:  # noqa: D102
        bits = torch.randint(2, (count, 1, self.side, self.side), generator=generator)
        return self.size * (2.0 * bits.double() - 1), bits[:, 0, 0, 0] + 2 * bits[:, 0, 0, 1]

    def log_prob(self, x: Images, t: Times) -> Float[Tensor, "B"]:  # noqa: D102
        a, s = coefficients(x, t)
        at = [-((x - sign * a * self.size) ** 2) / (2 * s**2) for sign in (1, -1)]
        each = torch.logaddexp(*at) - math.log(2) - torch.log(2 * math.pi * s**2) / 2
        return each.flatten(1).sum(1)

    def score(self, x: Images, t: Times) -> Images:  # noqa: D102
        a, s = coefficients(x, t)
        point = a * self.size
        return (point * torch.tanh(point * x / s**2) - x) / s**2


def cosine_basis(side: int) -> Float[Tensor, "H W"]:
    """Return the orthonormal cosine transform (type II) of a line, a row for each frequency."""
    k, i = torch.meshgrid(*(2 * [torch.arange(side, dtype=torch.float64)]), indexing="ij")
    rows = torch.cos(math.pi * k * (2 * i + 1) / (2 * side)) * math.sqrt(2 / side)
    rows[0] /= math.sqrt(2)
    return rows


def power_spectrum(side: int, exponent: float, kept: float = 1.0) -> Float[Tensor, "H W"]:
    """Return eigenvalues proportional to (1 + |k|²)^-exponent, of mean 1.

    Args:
        side: Frequencies k are in 0 … side-1 along each dimension.
        exponent: 0 is white noise, 1 about what photographs have.
        kept: The share of frequencies, lowest first, that are not 0.
    """
    k = torch.arange(side, dtype=torch.float64)
    spectrum = (1 + k[:, None] ** 2 + k**2) ** -exponent
    order = ((k[:, None] + k) * side + k[:, None]).flatten().argsort()
    spectrum.view(-1)[order[math.ceil(kept * side**2) :]] = 0
    return spectrum / spectrum.mean()


def _mixture(side: int) -> GaussianMixture:
    """Eight smooth images; a tenth of the variance is within the components."""
    generator = torch_generator(rng_for(0, 0, SERVER, "means of the mixture"))
    means, _ = GaussianField(power_spectrum(side, 2.0)).draw(8, generator)
    means -= means.mean(0)
    means *= math.sqrt(0.9) / means.square().mean().sqrt()
    return GaussianMixture(means, 0.1)


LAWS: dict[str, Callable[[int], KnownLaw]] = {
    "gaussian-white": lambda side: GaussianField(power_spectrum(side, 0.0)),
    "gaussian-field": lambda side: GaussianField(power_spectrum(side, 1.0)),
    "gaussian-singular": lambda side: GaussianField(power_spectrum(side, 1.0, kept=0.5)),
    "mixture": _mixture,
    "two-point": TwoPoint,
}
"""Laws at mean variance 1 by the name that, followed by the side, is the data set's."""


def scaled(law: KnownLaw, factor: float) -> KnownLaw:
    """Return the law of `factor` times these images."""
    if isinstance(law, GaussianField):
        return GaussianField(factor**2 * law.spectrum, factor * law.mean)
    if isinstance(law, GaussianMixture):
        return GaussianMixture(factor * law.means, factor**2 * law.variance)
    assert isinstance(law, TwoPoint)
    return TwoPoint(law.side, factor * law.size)


def known_law(data: str) -> KnownLaw | None:
    """Return the law of a data set of the app, such as ``gaussian-field8``; None if not known.

    Raises:
        UserError: The side is not within 2 … 64.
    """
    match = re.fullmatch(rf"({'|'.join(LAWS)})(\d+)", data)
    if match is None:
        return None
    side = int(match[2])
    if not SMALLEST_SIDE <= side <= LARGEST_SIDE:
        raise UserError(f"data: {data} has side {side}; choose {SMALLEST_SIDE} to {LARGEST_SIDE}")
    return scaled(LAWS[match[1]](side), DEVIATION)
