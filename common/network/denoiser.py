"""The network of a submodel as a denoiser."""

import numpy as np
import torch
from jaxtyping import Float32

from common.config import RunConfig
from common.diffusion import (
    CLOCKS,
    Denoiser,
    eps_denoiser,
)
from common.network.unet import load_weights
from common.submodels import Submodel, extract


def submodel_denoiser(
    config: RunConfig,
    theta: Float32[np.ndarray, "P"],
    submodel: Submodel,
    image_channels: int,
) -> Denoiser:
    """Return a submodel of some global weights, built compact and ready to sample from."""
    weights = torch.from_numpy(extract(theta, submodel))
    model = load_weights(config.model, image_channels, weights, submodel.widths, config.scaler)
    if config.train.channels_last:
        model.memory_format = torch.channels_last
    return eps_denoiser(model.eval(), CLOCKS[config.clock], config.prediction)
