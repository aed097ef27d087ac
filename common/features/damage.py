"""Images damaged in ways that anybody sees: features that do not notice are good for nothing."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Images = Float[Tensor, "N C H W"]

NOISE = 0.4
"""Standard deviation of visible noise, where black and white are 2 apart."""

PASSES = 4
"""Of the blur; together a standard deviation of 1.4 pixels."""

DAMAGES = UNDAMAGED, NOISY, BLURRED, PURE_NOISE = "undamaged", "noisy", "blurred", "pure_noise"


def damaged(images: Images, generator: torch.Generator) -> dict[str, Images]:
    """Return images in [-1, 1] as they are, and each way of damaging them, by name.

    Args:
        images: Any number of them.
        generator: Draws the noise.
    """
    noise = torch.randn(images.shape, generator=generator)
    return {
        UNDAMAGED: images,
        NOISY: (images + NOISE * noise).clamp(-1, 1),
        BLURRED: blurred(images, PASSES),
        PURE_NOISE: noise.clamp(-1, 1),
    }


def blurred(images: Images, passes: int) -> Images:
    """Average images with their neighbours, 1 2 1 across and down, so many times."""
    line = torch.tensor([1.0, 2.0, 1.0])
    kernel = (line[:, None] * line / 16).expand(images.shape[1], 1, 3, 3)
    for _ in range(passes):
        padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
        images = functional.conv2d(padded, kernel, groups=images.shape[1])
    return images
