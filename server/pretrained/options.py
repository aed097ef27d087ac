"""The options of diffusers' `UNet2DModel` and `DDPMScheduler`, from ours and to ours.

A clock becomes the betas of a scheduler with 1000 timesteps: timestep i is where the clock shows
u = (i + 1) / 1000, which is how the network was conditioned in training.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from pydantic import ValidationError

from common.config import ModelConfig, RunConfig
from common.diffusion import CLOCKS, Clock
from common.errors import UserError

TIMESTEPS = 1000
PREDICTION_TYPES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
UNET_DEFAULTS: dict[str, Any] = {
    "sample_size": None, "in_channels": 3, "out_channels": 3, "center_input_sample": False,
    "time_embedding_type": "positional", "time_embedding_dim": None, "freq_shift": 0,
    "flip_sin_to_cos": True, "down_block_types": ("DownBlock2D",) + ("AttnDownBlock2D",) * 3,
    "mid_block_type": "UNetMidBlock2D", "up_block_types": ("AttnUpBlock2D",) * 3 + ("UpBlock2D",),
    "block_out_channels": (224, 448, 672, 896), "layers_per_block": 2, "mid_block_scale_factor": 1,
    "downsample_padding": 1, "downsample_type": "conv", "upsample_type": "conv", "dropout": 0.0,
    "act_fn": "silu", "attention_head_dim": 8, "norm_num_groups": 32, "attn_norm_num_groups": None,
    "norm_eps": 1e-5, "resnet_time_scale_shift": "default", "add_attention": True,
    "class_embed_type": None, "num_class_embeds": None, "num_train_timesteps": None,
}  # fmt: skip
"""What `UNet2DModel` takes for the options that a config.json leaves out."""

ImageSize = int | tuple[int, int]
"""Height and width; one number if they are equal."""

_SAME = {
    "widths": "block_out_channels",
    "layers": "layers_per_block",
    "groups": "norm_num_groups",
    "dropout": "dropout",
    "norm_eps": "norm_eps",
    "freq_shift": "freq_shift",
    "flip_sin_to_cos": "flip_sin_to_cos",
    "downsample_padding": "downsample_padding",
    "mid_attention": "add_attention",
}
"""Fields of `ModelConfig` whose values go over as they are."""
_OPTIONS = {
    **_SAME,
    "attention": "down_block_types",
    "head_dim": "attention_head_dim",
    "num_classes": "num_class_embeds",
}


def unet_options(arch: ModelConfig, image_channels: int, image_size: ImageSize) -> dict[str, Any]:
    """Return the arguments that make diffusers' `UNet2DModel` this architecture."""
    levels = range(len(arch.widths))
    down = ["AttnDownBlock2D" if level in arch.attention else "DownBlock2D" for level in levels]
    return UNET_DEFAULTS | {
        "sample_size": image_size,
        "in_channels": image_channels,
        "out_channels": image_channels,
        "down_block_types": down,
        "up_block_types": [kind.replace("Down", "Up") for kind in reversed(down)],
        "attention_head_dim": arch.head_dim or None,
        "num_class_embeds": arch.class_rows or None,
        **{option: getattr(arch, key) for key, option in _SAME.items()},
    }


def read_unet_options(given: Mapping[str, Any]) -> tuple[ModelConfig, int, ImageSize | None]:
    """Return the architecture, image channels and image size that a config.json describes.

    Whether the last class stands for none is not written there: all are counted as classes.

    Raises:
        UserError: An option is malformed, or makes the network compute something that `ScoreUNet`
            does not; the line names it.
    """
    unknown = [key for key in given if key[:1] != "_" and key not in UNET_DEFAULTS and given[key]]
    if unknown:
        raise UserError(f"{unknown[0]}: not a known option of UNet2DModel")
    options = UNET_DEFAULTS | dict(given)
    try:
        _check_options(options)
        arch = ModelConfig(
            attention=_attention_levels(options),
            head_dim=options["attention_head_dim"] or 0,
            num_classes=options["num_class_embeds"] or 0,
            **{key: options[option] for key, option in _SAME.items()},
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]).replace("-", "_")
        raise UserError(f"{_OPTIONS[field]}: {first['msg']}, not {first['input']!r}") from None
    except (TypeError, IndexError) as error:
        raise UserError(f"not the options of a UNet2DModel ({error})") from None
    return arch, _positive("in_channels", options["in_channels"]), _size(options["sample_size"])


def scheduler_options(config: RunConfig) -> dict[str, Any]:
    """Return the arguments of diffusers' `DDPMScheduler` for a run's clock and prediction."""
    return {
        "num_train_timesteps": TIMESTEPS,
        "trained_betas": trained_betas(CLOCKS[config.clock]).tolist(),
        "prediction_type": PREDICTION_TYPES[config.prediction],
        "variance_type": "fixed_small",  # that of `common.diffusion.samplers.ancestral`
        # What is predicted is a mean of images in [-1, 1], so clipping brings no prediction farther
        # from the truth, and at small alpha it stops errors in eps from being blown up.
        "clip_sample": True,
        "clip_sample_range": 1.0,
        # Pure noise belongs to timestep 999, from which "leading" would not start in few steps.
        "timestep_spacing": "trailing",
    }


def read_schedule(given: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the `prediction` and `clock` of a scheduler's configuration; see `import_schedule`.

    A clock is one of ours if alpha squared agrees to 0.01 at every timestep; DDPM's linear betas
    are "linear".

    Raises:
        UserError: The scheduler predicts what we do not; the line names it.
    """
    kind = given.get("prediction_type", "epsilon")
    names = {name: prediction for prediction, name in PREDICTION_TYPES.items()}
    if kind not in names:
        raise UserError(f"prediction_type: {kind!r} is not supported, only {', '.join(names)}")
    betas = given.get("trained_betas")
    if betas is None and given.get("beta_schedule", "linear") == "linear":
        ends = given.get("beta_start", 1e-4), given.get("beta_end", 0.02)
        betas = np.linspace(*ends, given.get("num_train_timesteps", TIMESTEPS))
    theirs = np.cumprod(1 - np.asarray([] if betas is None else betas, dtype=np.float64))
    found = None
    for name, clock in CLOCKS.items():
        ours = np.cumprod(1 - trained_betas(clock))
        if theirs.shape == ours.shape and np.abs(theirs - ours).max() < 0.01:
            found = name
    return {"prediction": names[kind], "clock": found}


def trained_betas(clock: Clock) -> Float64[np.ndarray, "timesteps"]:
    """Return beta of each timestep: one less the ratio of successive alpha squared."""
    u = torch.arange(1, TIMESTEPS + 1, dtype=torch.float64) / TIMESTEPS
    return -np.expm1(-2 * np.diff(clock.t_of_u(u).numpy(), prepend=0.0))


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse every option that changes the arithmetic and that `ScoreUNet` leaves no choice in."""
    accepted: dict[str, tuple[Any, ...]] = {
        "_class_name": ("UNet2DModel",),
        "out_channels": (options["in_channels"],),
        "center_input_sample": (False,),
        "time_embedding_type": ("positional",),
        "time_embedding_dim": (None, 4 * options["block_out_channels"][0]),
        "mid_block_type": ("UNetMidBlock2D",),
        "mid_block_scale_factor": (1,),
        "downsample_type": ("conv",),
        "upsample_type": ("conv",),
        "act_fn": ("silu", "swish"),  # two names of one function
        "attn_norm_num_groups": (None, options["norm_num_groups"]),
        "resnet_time_scale_shift": ("default",),
        "class_embed_type": (None,),
    }
    for option, values in accepted.items():
        value = options.get(option, values[0])
        if value not in values:
            raise UserError(f"{option}: {value!r} is not supported, only {values[0]!r}")


def _positive(option: str, value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{option}: must be at least 1, not {value!r}")
    return value


def _size(value: Any) -> ImageSize | None:
    if isinstance(value, list | tuple) and len(value) == 2:
        height, width = (_positive("sample_size", side) for side in value)
        return height if height == width else (height, width)
    return None if value is None else _positive("sample_size", value)


def _attention_levels(options: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the levels with attention after checking that both sides of the UNet agree on them."""
    sides: list[list[bool]] = []
    for side in ("down", "up"):
        plain, attending = f"{side.title()}Block2D", f"Attn{side.title()}Block2D"
        # Models of 2022 write UNetResDownBlock2D for DownBlock2D.
        kinds = [str(kind).removeprefix("UNetRes") for kind in options[f"{side}_block_types"]]
        unknown = [kind for kind in kinds if kind not in (plain, attending)]
        if unknown:
            raise UserError(
                f"{side}_block_types: {unknown[0]!r} is not supported, only {plain} and {attending}"
            )
        sides.append([kind == attending for kind in kinds])
    down, up = sides
    if down != up[::-1] or len(down) != len(options["block_out_channels"]):
        raise UserError(
            "up_block_types: must mirror down_block_types, one for each of block_out_channels"
        )
    return tuple(level for level, attends in enumerate(down) if attends)
