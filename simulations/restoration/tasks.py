"""What `scorequilt restore` does to images, and what one would do about it without a model."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from simulations.restoration.degradations import (
    Degradation,
    Shape,
    averaging,
    inpainting,
    noising,
)

WIDTHS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0)
"""Of Gaussian filters, in pixels; 0 leaves images alone."""

Images = Float[Tensor, "n C H W"]
Baseline = Callable[[Degradation, Float64[Tensor, "n m"], int, float], Images]


class Task(NamedTuple):
    """A kind of damage, and what one would do about it without a model.

    Attributes:
        degradation: From an image's (C, H, W), sigma and factor.
        baseline_name: What the baseline is called.
        baseline: From the degradation, an observation, the factor and a filter's width in pixels.
        widths: Those to choose from.
        afterwards: Widths to choose from of a Gaussian filter over what the baseline gives, for
            those that leave the noise as it is.
    """

    degradation: Callable[[Shape, float, int], Degradation]
    baseline_name: str
    baseline: Baseline
    widths: tuple[float, ...] = WIDTHS
    afterwards: tuple[float, ...] = (0.0,)


def _around(shape: Shape) -> Bool[Tensor, "H W"]:
    """Return which pixels lie outside the central square of half the image's side."""
    _, height, width = shape
    known = torch.ones(height, width, dtype=torch.bool)
    known[height // 4 : height - height // 4, width // 4 : width - width // 4] = False
    return known


def _mean_around(images: Images, weight: Float[Tensor, "H W"], width: float) -> Images:
    """Return for each pixel the mean of those about it, weighted by a Gaussian and by `weight`."""

    def kernel(size: int) -> Tensor:
        distance = torch.arange(size)[:, None] - torch.arange(size)
        return torch.exp(-(distance.double() ** 2) / (2 * max(width, 0.01) ** 2))

    rows, columns = kernel(images.shape[2]), kernel(images.shape[3])
    total = rows @ (images * weight).double() @ columns
    return (total / (rows @ weight.double() @ columns).clamp(min=1e-300)).float()


def gaussian_filter(images: Images, width: float) -> Images:
    """Filter images by a Gaussian of a width in pixels, which loses no weight at the border."""
    return _mean_around(images, torch.ones(images.shape[2:]), width)


def _brighten_and_filter(lost: Degradation, y: Tensor, factor: int, width: float) -> Tensor:
    images = (lost.as_images(y) - lost.offset) / lost.norm
    return gaussian_filter(images, width)


def _fill(lost: Degradation, y: Tensor, factor: int, width: float) -> Tensor:
    images, known = lost.as_images(y), _around(lost.shape)
    return torch.where(known, images, _mean_around(images, known.float(), width))


def _bicubic(lost: Degradation, y: Tensor, factor: int, width: float) -> Tensor:
    channels, *size = lost.shape
    small = y.float().reshape(-1, channels, *(side // factor for side in size))
    return F.interpolate(small, size=size, mode="bicubic", align_corners=False)


TASKS: dict[str, Task] = {
    "denoise": Task(
        lambda shape, sigma, _: noising(shape, sigma), "Gaussian filter", _brighten_and_filter
    ),
    "inpaint": Task(
        lambda shape, sigma, _: inpainting(shape, _around(shape), sigma),
        "Gaussian-weighted mean of known pixels",
        _fill,
        WIDTHS[1:],
        WIDTHS,
    ),
    "superres": Task(
        lambda shape, sigma, factor: averaging(shape, factor, sigma),
        "bicubic",
        _bicubic,
        (0.0,),
        WIDTHS,
    ),
    "lowlight": Task(
        lambda shape, sigma, factor: noising(shape, sigma, 1 / factor),
        "gain and Gaussian filter",
        _brighten_and_filter,
    ),
}
"""`denoise`: noise. The others add noise, too: `inpaint` to an image without its central square of
half the side, `superres` to the means of squares of factor x factor pixels, `lowlight` to an image
with factor times less light."""
