"""The loss on images nobody trains on, by noise level: how well noise is predicted, and the score.

Shape letters: L levels, N images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from common.diffusion.denoising import denoising_loss
from common.diffusion.process import Clock, Denoiser, sigma


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


def held_out_loss(clock: Clock, losses: Sequence[float]) -> HeldOutLoss:
    """Return what the losses in the middles of L equal parts of a clock come to; NaN for none."""
    levels = len(losses)
    by_u: dict[float, float] = {}
    score = 0.0
    for level, loss in enumerate(losses):
        u = (level + 0.5) / levels
        t = torch.tensor(clock.t_of_u(u), dtype=torch.float64)
        by_u[u] = loss
        start, end = (clock.t_of_u(edge / levels) for edge in (level, level + 1))
        score += (end - start) * loss / float(sigma(t)) ** 2
    if not by_u:
        return HeldOutLoss(math.nan, math.nan, {})
    return HeldOutLoss(sum(by_u.values()) / levels, score, by_u)


@torch.no_grad()
def losses_by_level(
    denoiser: Denoiser,
    clock: Clock,
    x0: Float[Tensor, "N *shape"],
    noise: Float[Tensor, "L N *shape"],
    batch: int = 256,
    **labels: Any,
) -> list[float]:
    """Return the mean denoising loss of some images at each noise level.

    Args:
        denoiser: The model.
        clock: Whose readings the levels are.
        x0: The images, in [-1, 1].
        noise: What is added to them, for each level.
        batch: How many images the model is asked for at once.
        labels: For the denoiser, (N,).
    """
    losses, levels = [], len(noise)
    for level, added in enumerate(noise):
        t = torch.tensor(clock.t_of_u((level + 0.5) / levels), dtype=torch.float64)
        parts = []
        for start in range(0, len(x0), batch):
            part = slice(start, start + batch)
            cut = {key: value[part] for key, value in labels.items()}
            parts.append(denoising_loss(denoiser, x0[part], t, added[part], **cut))
        losses.append(float(torch.cat(parts).mean()))
    return losses
