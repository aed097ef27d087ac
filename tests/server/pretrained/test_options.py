"""Options that diffusers' classes take mean there what they mean here; others are refused."""

import inspect
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from common.config.run import RunConfig
from common.config.sections import ModelConfig
from common.diffusion.denoising import PREDICTIONS, to_eps
from common.diffusion.process import CLOCKS, alpha, sigma
from common.errors import UserError
from server.pretrained.options import (
    PREDICTION_TYPES,
    TIMESTEPS,
    UNET_DEFAULTS,
    read_unet_options,
    scheduler_options,
    unet_options,
)
from tests.architectures import ALL, UNEQUAL


def test_the_defaults_are_those_of_diffusers() -> None:
    parameters = list(inspect.signature(UNet2DModel.__init__).parameters.values())[1:]
    assert {p.name: p.default for p in parameters} == UNET_DEFAULTS


@pytest.mark.parametrize("name", ALL)
def test_options_describe_the_architecture_both_ways(name: str) -> None:
    a = ALL[name]
    options = unet_options(a.model, a.channels, a.size)
    assert read_unet_options(options) == (a.model, a.channels, a.size)
    # Attributes that a `UNet2DModel` was made with, whether or not they were given.
    theirs = {key: value for key, value in a.diffusers().config.items() if key[0] != "_"}
    plain = {
        key: list(value) if isinstance(value, tuple) else value for key, value in theirs.items()
    }
    ours = {
        key: list(value) if isinstance(value, tuple) else value for key, value in options.items()
    }
    assert ours == plain
    assert read_unet_options(theirs) == (a.model, a.channels, a.size)


@pytest.mark.parametrize("clock", CLOCKS)
def test_the_scheduler_s_noise_levels_are_the_clock_s(clock: str) -> None:
    scheduler = DDPMScheduler(**scheduler_options(RunConfig(clock=clock)))
    u = torch.arange(1, TIMESTEPS + 1, dtype=torch.float64) / TIMESTEPS
    t = CLOCKS[clock].t_of_u(u)
    kept = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(kept.sqrt(), alpha(t), rtol=1e-4, atol=0)
    # float32 keeps three digits of 1 - 2.5e-6, where the cosine clock begins.
    torch.testing.assert_close((1 - kept).sqrt(), sigma(t), rtol=0.02, atol=0)
    torch.testing.assert_close((1 - kept).sqrt()[10:], sigma(t)[10:], rtol=1e-3, atol=0)


def test_every_prediction_has_a_type() -> None:
    assert PREDICTION_TYPES.keys() == PREDICTIONS.keys()


@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
def test_the_scheduler_reads_a_prediction_as_we_do(prediction: str) -> None:
    config = RunConfig(prediction=prediction)
    scheduler = DDPMScheduler(**scheduler_options(config))
    t = torch.tensor(CLOCKS[config.clock].t_of_u(0.4), dtype=torch.float64)
    x, output = torch.randn(2, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    eps = to_eps(prediction, output, x, t)
    image = ((x - sigma(t) * eps) / alpha(t)).clamp(-1, 1)
    step = scheduler.step(output, 399, x, torch.Generator())
    torch.testing.assert_close(step.pred_original_sample, image.float(), rtol=1e-3, atol=1e-4)


def test_few_steps_start_where_the_noise_is_pure() -> None:
    scheduler = DDPMScheduler(**scheduler_options(RunConfig()))
    scheduler.set_timesteps(10)
    assert scheduler.timesteps[0] == TIMESTEPS - 1


def _options(**changes: Any) -> dict[str, Any]:
    return unet_options(UNEQUAL.model, UNEQUAL.channels, UNEQUAL.size) | changes


def test_what_is_left_out_has_diffusers_s_default() -> None:
    left_out = {"norm_num_groups", "attention_head_dim", "layers_per_block"}
    options = {key: value for key, value in _options().items() if key not in left_out}
    model, *_ = read_unet_options(options)
    assert (model.groups, model.head_dim, model.layers) == (32, 8, 2)


@pytest.mark.parametrize(
    "harmless",
    [
        {"act_fn": "swish"},
        {"attn_norm_num_groups": 8},
        {"time_embedding_dim": 128},
        {"some_future_option": None},
        {"_name_or_path": "somewhere"},
        {"down_block_types": ["UNetResDownBlock2D"] + ["UNetResAttnDownBlock2D"] * 2},
    ],
)
def test_other_spellings_of_the_same_network(harmless: dict[str, Any]) -> None:
    assert read_unet_options(_options(**harmless))[0] == UNEQUAL.model


@pytest.mark.parametrize(("size", "read"), [(None, None), ([8, 8], 8), ((8, 16), (8, 16))])
def test_sizes_of_images(size: Any, read: Any) -> None:
    assert read_unet_options(_options(sample_size=size))[2] == read


@pytest.mark.parametrize(
    ("option", "value"),
    {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "gelu",
        "attn_norm_num_groups": 4,
        "center_input_sample": True,
        "class_embed_type": "timestep",
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "mid_block_scale_factor": 1.414,
        "mid_block_type": None,
        "out_channels": 6,
        "resnet_time_scale_shift": "scale_shift",
        "some_future_option": True,
        "time_embedding_type": "fourier",
        "time_embedding_dim": 64,
        "down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "AttnUpBlock2D"],
        "downsample_padding": 2,
        "norm_num_groups": None,
        "attention_head_dim": "many",
        "in_channels": 0,
        "sample_size": [8, 8, 8],
    }.items(),
)
def test_refuses_by_name_what_would_be_computed_otherwise(option: str, value: Any) -> None:
    changes = {option: value}
    if option == "in_channels":
        changes["out_channels"] = value
    with pytest.raises(UserError, match=f"^{option}: ") as refusal:
        read_unet_options(_options(**changes))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("option", ["down_block_types", "block_out_channels"])
def test_refuses_options_of_the_wrong_kind(option: str) -> None:
    with pytest.raises(UserError, match="not the options of a UNet2DModel"):
        read_unet_options(_options(**{option: None}))


def test_refuses_levels_that_do_not_match() -> None:
    with pytest.raises(UserError, match="one for each of block_out_channels"):
        read_unet_options(_options(block_out_channels=[32, 64]))


def test_the_default_architecture_needs_nothing_special() -> None:
    assert read_unet_options(unet_options(ModelConfig(), 1, 8)) == (ModelConfig(), 1, 8)
