"""`ScoreUNet`: diffusers' `UNet2DModel`, parameter for parameter, at any width.

Same names, shapes and arithmetic (Ho et al. 2020's UNet as diffusers builds it), so that weights go
both ways. Unlike the original it is declared over named channel axes (`common.network.layers`): a
residual stream keeps its axis through identity shortcuts, every convolution without one opens a
new axis, and a skip concatenation runs two after another. Built with the widths of a submodel it
*is* the compact network that a client trains.

Shape suffixes: B batch, C channels, H height, W width.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch.utils.checkpoint import checkpoint

from common.config import ModelConfig
from common.errors import UserError
from common.network.blocks import Attention, Block, Downsample, ResnetBlock, TimeEmbedding, Upsample
from common.network.layers import Conv2d, Embedding, GroupNorm, Plan, read_layout
from common.submodels import Channels, Layout


class ScoreUNet(nn.Module):
    """The noise predictor, full or compact.

    `checkpointing` and `memory_format` may be set on it: they change how it computes,
    not what.

    Args:
        arch: The full model's architecture.
        image_channels: Channels of an image, 1 or 3.
        widths: Channels kept on each axis (`Submodel.widths`); None builds the full model.
        scaler: Whether layers make up for dropped inputs; without effect on the full model.

    Raises:
        UserError: Levels, groups or head sizes do not fit together; the line names the key.
    """

    def __init__(
        self,
        arch: ModelConfig,
        image_channels: int,
        widths: Mapping[str, int] | None = None,
        scaler: bool = True,
    ) -> None:
        super().__init__()
        _check(arch)
        self.arch = arch
        self.checkpointing = False
        self.memory_format = torch.contiguous_format
        plan = self.plan = Plan(widths, scaler)
        x = plan.axis("conv_in", arch.widths[0])
        self.conv_in = Conv2d(plan, image_channels, x, padding=1)
        self.time_embedding = TimeEmbedding(plan, arch.widths[0], 4 * arch.widths[0])
        temb = self.time_embedding.out
        self.class_embedding = Embedding(plan, arch.class_rows, temb) if arch.num_classes else None

        last = len(arch.widths) - 1
        skips = [x]
        self.down_blocks = nn.ModuleList()
        for level, size in enumerate(arch.widths):
            block = Block()
            for i in range(arch.layers):
                x = self._layer(plan, block, f"down{level}.{i}", x, size, temb, level)
                skips.append(x)
            if level < last:
                down = Downsample(plan, f"down{level}.downsample", x, arch.downsample_padding)
                block.downsamplers.append(down)
                x = down.out
                skips.append(x)
            self.down_blocks.append(block)

        self.mid_block = Block()
        for i in range(2):
            resnet = ResnetBlock(plan, arch, f"mid.{i}", x, arch.widths[-1], temb)
            self.mid_block.resnets.append(resnet)
            x = resnet.out
            if i == 0 and arch.mid_attention:
                self.mid_block.attentions.append(Attention(plan, arch, "mid.attention", x))

        self.up_blocks = nn.ModuleList()
        for level, size in reversed(list(enumerate(arch.widths))):
            block = Block()
            for i in range(arch.layers + 1):
                joined = x + skips.pop()
                x = self._layer(plan, block, f"up{level}.{i}", joined, size, temb, level)
            if level > 0:
                up = Upsample(plan, f"up{level}.upsample", x)
                block.upsamplers.append(up)
                x = up.out
            self.up_blocks.append(block)

        self.conv_norm_out = GroupNorm(plan, x, arch.groups, arch.norm_eps, "conv_norm_out")
        self.conv_out = Conv2d(plan, x, image_channels, padding=1)

    def _layer(
        self,
        plan: Plan,
        block: Block,
        name: str,
        inp: Channels,
        size: int,
        temb: Channels,
        level: int,
    ) -> Channels:
        """Append a resnet block, and attention where the level has it; return the output's axes."""
        resnet = ResnetBlock(plan, self.arch, name, inp, size, temb)
        block.resnets.append(resnet)
        if level in self.arch.attention:
            attention = Attention(plan, self.arch, f"{name}.attention", resnet.out)
            block.attentions.append(attention)
        return resnet.out

    def forward(
        self,
        x_BCHW: Float[Tensor, "B C H W"],
        timestep_B: Float[Tensor, "B"],
        class_labels: Int64[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """Predict the noise in an image.

        Args:
            x_BCHW: Noisy images; height and width divisible by 2 to the number of levels less one.
            timestep_B: The clock's time as `Clock.timestep_of_t` gives it, in [-1, 999].
            class_labels: Classes, or the null class, when the architecture has any.

        Raises:
            ValueError: Labels were given to an unconditional model, or not to a conditional one.
        """
        if (class_labels is None) != (self.class_embedding is None):
            raise ValueError("class labels belong to a model with classes, and only to it")
        temb = self.time_embedding(self._sinusoids(timestep_B).to(x_BCHW.dtype))
        if self.class_embedding is not None:
            temb = temb + self.class_embedding(class_labels)
        temb = F.silu(temb)  # every block applies it; once is enough

        # Here and not on the image: with one channel there is no order to take over.
        h = self.conv_in(x_BCHW).contiguous(memory_format=self.memory_format)
        skips = [h]
        for block in _blocks(self.down_blocks):
            for resnet, attention in block.layers():
                h = self._through(resnet, h, temb)
                h = h if attention is None else self._through(attention, h)
                skips.append(h)
            for down in block.downsamplers:
                h = down(h)
                skips.append(h)
        for resnet, attention in self.mid_block.layers():
            h = self._through(resnet, h, temb)
            h = h if attention is None else self._through(attention, h)
        for block in _blocks(self.up_blocks):
            for resnet, attention in block.layers():
                h = self._through(resnet, torch.cat([h, skips.pop()], dim=1), temb)
                h = h if attention is None else self._through(attention, h)
            for up in block.upsamplers:
                h = up(h)
        return self.conv_out(F.silu(self.conv_norm_out(h)))

    def _through(self, layer: nn.Module, *inputs: Tensor) -> Tensor:
        """Apply a layer, keeping only its inputs for the gradient where `checkpointing` is on."""
        if self.checkpointing and torch.is_grad_enabled():
            output: Tensor = checkpoint(layer, *inputs, use_reentrant=False)
            return output
        return cast(Tensor, layer(*inputs))

    def _sinusoids(self, timestep_B: Tensor) -> Tensor:
        """Return sines and cosines of the timestep (Vaswani et al. 2017, section 3.5), float32."""
        half = self.arch.widths[0] // 2
        steps = torch.arange(half, dtype=torch.float32, device=timestep_B.device)
        frequencies = torch.exp(-math.log(10000.0) * steps / (half - self.arch.freq_shift))
        angles = timestep_B.float()[:, None] * frequencies
        sin, cos = torch.sin(angles), torch.cos(angles)
        return torch.cat([cos, sin] if self.arch.flip_sin_to_cos else [sin, cos], dim=1)


@lru_cache(maxsize=8)  # a simulation's worker needs it for every message
def layout_of(arch: ModelConfig, image_channels: int) -> Layout:
    """Return the layout of the full model without allocating its weights.

    Raises:
        UserError: The architecture does not fit together.
    """
    with torch.device("meta"):
        model = ScoreUNet(arch, image_channels)
    return read_layout(model, model.plan.atom)


def _blocks(modules: nn.ModuleList) -> list[Block]:
    """Tell the type checker what the list holds."""
    return cast(list[Block], list(modules))


def _check(arch: ModelConfig) -> None:
    """Refuse architectures that cannot be built, naming the key."""
    if not arch.widths or min(arch.widths) < 1:
        raise UserError("model.widths: needs at least one positive width, such as '32,64'")
    if arch.widths[0] % 2:
        raise UserError(f"model.widths: the first width must be even, not {arch.widths[0]}")
    unknown = [level for level in arch.attention if not 0 <= level < len(arch.widths)]
    if unknown:
        raise UserError(f"model.attention: level {unknown[0]} is not in 0 … {len(arch.widths) - 1}")


def load_weights(
    arch: ModelConfig,
    image_channels: int,
    weights: Float[Tensor, "kept"],
    widths: Mapping[str, int] | None = None,
    scaler: bool = True,
) -> ScoreUNet:
    """Build a network whose parameters are views of one flat vector.

    Args:
        arch: The full model's architecture.
        image_channels: Channels of an image.
        weights: The submodel's coordinates in the layout's order. Not copied: a step of training
            that writes to this vector has changed the network, and the other way round.
        widths: Channels kept on each axis; None for the full model.
        scaler: Whether layers make up for dropped inputs.

    Raises:
        UserError: The architecture does not fit together.
        ValueError: The vector's length is not that of the network.
    """
    with torch.device("meta"):  # no time spent on initial weights that nobody will use
        model = ScoreUNet(arch, image_channels, widths, scaler)
    expected = sum(parameter.numel() for parameter in model.parameters())
    if weights.numel() != expected:
        raise ValueError(f"{weights.numel()} weights for a network of {expected}")
    start = 0
    for name, skeleton in list(model.named_parameters()):
        owner, _, leaf = name.rpartition(".")
        stop = start + skeleton.numel()
        # Put in place of the skeleton: `Module.to_empty` would import SymPy, for half a second.
        view = nn.Parameter(weights[start:stop].view(skeleton.shape))
        model.get_submodule(owner).register_parameter(leaf, view)
        start = stop
    return model


def initial_weights(arch: ModelConfig, image_channels: int, seed: int) -> Float32[np.ndarray, "P"]:
    """Return freshly initialised global weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ScoreUNet(arch, image_channels)
    return parameters_to_vector(model.parameters()).detach().numpy()
