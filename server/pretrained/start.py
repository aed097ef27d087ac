"""The weights a federation starts from: random ones, or those of a model in diffusers' format."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from common.config import RunConfig
from common.errors import UserError
from common.network import initial_weights
from server.pretrained.folder import import_pipeline, import_schedule
from server.pretrained.options import unet_options

_KEYS = {
    "widths": "block_out_channels",
    "layers": "layers_per_block",
    "attention": "down_block_types",
    "groups": "norm_num_groups",
    "head_dim": "attention_head_dim",
    "norm_eps": "norm_eps",
    "freq_shift": "freq_shift",
    "flip_sin_to_cos": "flip_sin_to_cos",
    "downsample_padding": "downsample_padding",
    "mid_attention": "add_attention",
    "num_classes": "num_class_embeds",
}
"""Every key of `model` that changes what the network computes, with diffusers' name for it."""


def starting_weights(config: RunConfig, image_channels: int) -> Float32[np.ndarray, "P"]:
    """Return the global weights before the first round.

    With `init` they are a model's, which must have the configuration's architecture and, where it
    says so, have been trained on its clock to predict what the configuration predicts.

    Raises:
        UserError: The folder cannot be read, or holds another kind of model; the line says what to
            set to go on with it.
    """
    folder = Path(config.init.removeprefix("diffusers:"))
    if not config.init:
        return initial_weights(config.model, image_channels, config.seed)
    try:
        read = import_pipeline(folder)
        schedule = import_schedule(folder)
    except UserError as error:
        raise UserError(f"init: {error}") from None
    if read.image_channels != image_channels:
        raise UserError(
            f"init: {folder} is for images of {read.image_channels} channels, but {config.data} "
            f"has {image_channels}"
        )
    theirs, ours = (unet_options(each, image_channels, 1) for each in (read.model, config.model))
    wanted = read.model.model_dump(by_alias=True)
    changes = [
        f"model.{key.replace('_', '-')}={wanted[key.replace('_', '-')]}"
        for key, option in _KEYS.items()
        if theirs[option] != ours[option]
    ]
    if theirs["num_class_embeds"] == (config.model.num_classes or -1) + 1:
        # What diffusers counts as one class more is the null class.
        changes = [
            "model.label-dropout=0.1" if each.startswith("model.num-classes") else each
            for each in changes
        ]
    changes += [
        f"{key}={value}"
        for key, value in (schedule or {}).items()
        if value is not None and value != getattr(config, key)
    ]
    if changes:
        raise UserError(
            f"init: {folder} holds another model than the configuration describes; to start from "
            f"it, add --set {' --set '.join(changes)}"
        )
    return read.theta
