"""What happens to images before they are restored: y = A x + b + sigma n with n ~ N(0, I).

A is a matrix over flattened images x and is decomposed as one, which images of at most 32 x 32 x 3
values allow; in return no approximation is due to linear algebra.

Shape letters: n images, d values of an image, m values of an observation.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from common.diffusion import Images

Shape = tuple[int, int, int]
Rows = Float64[Tensor, "n d"]
Observed = Float64[Tensor, "n m"]


def normal_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return draws from N(0, 1) of the shape and type of x."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype)


@dataclass(frozen=True)
class Degradation:
    """y = A x + b + sigma n.

    Attributes:
        matrix: A, (m, d) float64, of at most full rank.
        offset: b, the same for every value.
        sigma: The noise's deviation, greater than 0, in units of which black and white are 2 apart.
        shape: (C, H, W) of an image.
    """

    matrix: Float64[Tensor, "m d"]
    offset: float
    sigma: float
    shape: Shape

    def apply(self, x: Rows) -> Observed:
        """Return A x."""
        return x @ self.matrix.T

    def adjoint(self, y: Observed) -> Rows:
        """Return the transpose of A applied to y."""
        return y @ self.matrix

    def observe(self, images: Images, generator: torch.Generator) -> Observed:
        """Return a noisy observation of images (n, C, H, W)."""
        clean = self.apply(images.flatten(1).double()) + self.offset
        return clean + self.sigma * normal_like(clean, generator)

    def as_images(self, y: Observed) -> Images:
        """Return observations as images, (n, C, H, W) float32, to look at.

        A pixel is the weighted mean of the values it went into, 0 (mid-grey) where it went nowhere.
        """
        weight = self.adjoint(torch.ones_like(y))
        seen = self.adjoint(y) / torch.where(weight == 0, 1.0, weight)
        return seen.float().unflatten(1, self.shape)

    @cached_property
    def spectrum(self) -> tuple[Float64[Tensor, " m"], Float64[Tensor, "m m"]]:
        """The eigenvalues of A A', ascending, and its eigenvectors."""
        values, vectors = torch.linalg.eigh(self.matrix @ self.matrix.T)
        return values.clamp(min=0), vectors

    @cached_property
    def norm(self) -> float:
        """|A|, the largest singular value of A."""
        return math.sqrt(self.spectrum[0][-1])

    @cached_property
    def is_denoising(self) -> bool:
        """Whether A is a multiple of an orthogonal matrix, so that y is an image in white noise."""
        rows, columns = self.matrix.shape
        lowest, highest = (float(self.spectrum[0][i]) for i in (0, -1))
        return rows == columns and math.isclose(lowest, highest, rel_tol=1e-9)


def noising(shape: Shape, sigma: float, gain: float = 1.0) -> Degradation:
    """Return y = x + sigma n, or with a gain in (0, 1) too little light: black stays at -1."""
    identity = torch.eye(math.prod(shape), dtype=torch.float64)
    return Degradation(gain * identity, gain - 1, sigma, shape)


def inpainting(shape: Shape, known: Bool[Tensor, "H W"], sigma: float) -> Degradation:
    """Return the observation of the `known` pixels, at least one, in all channels."""
    chosen = known.expand(shape).flatten()
    return Degradation(torch.eye(len(chosen), dtype=torch.float64)[chosen], 0.0, sigma, shape)


def averaging(shape: Shape, factor: int, sigma: float) -> Degradation:
    """Return the means over squares of `factor` pixels, whose super-resolution undoes them.

    Raises ValueError for a factor that does not divide height and width.
    """
    _, height, width = shape
    if height % factor or width % factor:
        raise ValueError(f"factor {factor} does not divide {height}x{width}")
    pixels = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    means = torch.nn.functional.avg_pool2d(pixels, factor)
    return Degradation(means.flatten(1).T.contiguous(), 0.0, sigma, shape)
