"""The network of a submodel as a denoiser."""

import numpy as np
import torch
from jaxtyping import Float32

from common.config import ModelConfig, RunConfig
from common.diffusion import (
    CLOCKS,
    Denoiser,
    eps_denoiser,
)
from common.network.device import computed_on
from common.network.unet import load_weights
from common.submodels import Submodel, extract

MOST, MEMORY = 256, 2**30

LIVE = 20
"""Maps as large as the first level's that are in memory at once: 10 to 20 were measured at 3x32x32
to 3x128x128, with attention and without."""


def submodel_denoiser(
    config: RunConfig,
    theta: Float32[np.ndarray, "P"],
    submodel: Submodel,
    image_channels: int,
    device: torch.device | None = None,
) -> Denoiser:
    """Return a submodel of some global weights, built compact and ready to sample from.

    It takes and gives tensors on the processor, wherever it is computed: there, if `device` is
    None.
    """
    weights = torch.from_numpy(extract(theta, submodel))
    model = load_weights(config.model, image_channels, weights, submodel.widths, config.scaler)
    if config.train.channels_last:
        model.memory_format = torch.channels_last
    network = computed_on(model.eval(), device or torch.device("cpu"))
    return eps_denoiser(network, CLOCKS[config.clock], config.prediction)


def images_at_once(model: ModelConfig, shape: tuple[int, int, int]) -> int:
    """Return how many images a network is asked for at once where no gradient is wanted.

    So many that it needs a GiB at most, and no more than no longer fit the processor's caches. It
    follows from the configuration alone, so that every machine rounds alike.

    Args:
        model: The full model's architecture.
        shape: (C, H, W) of the images.
    """
    _, height, width = shape
    return max(1, min(MOST, MEMORY // (LIVE * 4 * height * width * model.widths[0])))
