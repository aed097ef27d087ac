"""The architectures that several tests go through, with diffusers' network for each."""

from dataclasses import dataclass

from diffusers import UNet2DModel

from common.config.sections import ModelConfig


@dataclass(frozen=True)
class Architecture:
    """A score model's architecture and the images it is for."""

    model: ModelConfig
    channels: int
    size: int

    def diffusers(self) -> UNet2DModel:
        """Return diffusers' own network, freshly initialised."""
        model, levels = self.model, range(len(self.model.widths))
        return UNet2DModel(
            sample_size=self.size,
            in_channels=self.channels,
            out_channels=self.channels,
            layers_per_block=model.layers,
            block_out_channels=model.widths,
            down_block_types=[
                "AttnDownBlock2D" if i in model.attention else "DownBlock2D" for i in levels
            ],
            up_block_types=[
                "AttnUpBlock2D" if i in model.attention else "UpBlock2D" for i in reversed(levels)
            ],
            norm_num_groups=model.groups,
            attention_head_dim=model.head_dim or None,
            norm_eps=model.norm_eps,
            freq_shift=model.freq_shift,
            flip_sin_to_cos=model.flip_sin_to_cos,
            downsample_padding=model.downsample_padding,
            add_attention=model.mid_attention,
            num_class_embeds=model.num_classes or None,
        )


DIGITS = Architecture(ModelConfig(), 1, 8)
CIFAR10_DDPM = Architecture(
    ModelConfig(
        widths=(128, 256, 256, 256),
        layers=2,
        attention=(1,),
        groups=32,
        norm_eps=1e-6,
        freq_shift=1,
        flip_sin_to_cos=False,
        downsample_padding=0,
    ),
    3,
    32,
)
UNEQUAL = Architecture(
    ModelConfig(
        widths=(32, 64, 96), layers=2, attention=(1, 2), groups=8, head_dim=16, num_classes=5
    ),
    3,
    16,
)
# 64 = 32 + 32: here an identity shortcut runs over a concatenation of two axes.
CONCATENATED = Architecture(
    ModelConfig(widths=(64, 32, 32), groups=8, attention=(0,), mid_attention=False), 3, 8
)
TINY = Architecture(ModelConfig(widths=(8, 16), groups=2, attention=(1,)), 1, 8)

ALL = {
    "digits": DIGITS,
    "cifar10-ddpm": CIFAR10_DDPM,
    "unequal": UNEQUAL,
    "concatenated": CONCATENATED,
    "tiny": TINY,
}
