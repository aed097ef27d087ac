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
from common.network.device import computed_on
from common.network.unet import load_weights
from common.submodels import Submodel, extract


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
