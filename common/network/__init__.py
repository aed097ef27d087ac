"""The UNet over channel axes, and its denoiser."""

from common.network.denoiser import images_at_once, submodel_denoiser
from common.network.device import computed_on, device_of
from common.network.layers import take_input_scales
from common.network.unet import ScoreUNet, initial_weights, layout_of, load_weights

__all__ = [
    "ScoreUNet",
    "computed_on",
    "device_of",
    "images_at_once",
    "initial_weights",
    "layout_of",
    "load_weights",
    "submodel_denoiser",
    "take_input_scales",
]
