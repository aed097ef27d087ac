"""The blocks that `ScoreUNet` is made of, declared over channel axes; names are diffusers'.

Shape suffixes: B batch, C channels, H height, W width, L = H * W, N heads, D features of a head.
"""

import math
from collections.abc import Iterator
from itertools import zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config import ModelConfig
from common.errors import UserError
from common.network.layers import Conv2d, GroupNorm, Linear, Plan, full_width
from common.submodels import Channels

FEW_POSITIONS = 64
"""Up to here attention holds all scores: no more numbers than queries, keys and values are."""


class ResnetBlock(nn.Module):
    """Norm, SiLU, convolution, twice, with the time embedding added between, and a shortcut.

    The shortcut is the identity when input and output have equally many channels; then the output
    lies on the input's axes. Otherwise a 1x1 convolution leads to a new axis.
    """

    def __init__(
        self, plan: Plan, arch: ModelConfig, name: str, inp: Channels, size: int, temb: Channels
    ) -> None:
        super().__init__()
        hidden = plan.axis(f"{name}.hidden", size)
        identity = full_width(inp) == size
        self.out = inp if identity else plan.axis(f"{name}.out", size)
        self.norm1 = GroupNorm(plan, inp, arch.groups, arch.norm_eps, f"{name}.norm1")
        self.conv1 = Conv2d(plan, inp, hidden, padding=1)
        self.time_emb_proj = Linear(plan, temb, hidden)
        self.norm2 = GroupNorm(plan, hidden, arch.groups, arch.norm_eps, f"{name}.norm2")
        self.dropout = nn.Dropout(arch.dropout)
        self.conv2 = Conv2d(plan, hidden, self.out, padding=1)
        self.conv_shortcut = None if identity else Conv2d(plan, inp, self.out, kernel=1)

    def forward(self, x_BCHW: Tensor, activated_temb_BC: Tensor) -> Tensor:
        """Return the block's output; the time embedding comes with its SiLU applied."""
        # The convolution's bias goes with the time embedding, for which it is one addition less to
        # every pixel, and in the gradient one sum less over them.
        shift_BC = self.time_emb_proj(activated_temb_BC) + self.conv1.bias
        h = self.conv1.without_bias(F.silu(self.norm1(x_BCHW))) + shift_BC[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return h + (x_BCHW if self.conv_shortcut is None else self.conv_shortcut(x_BCHW))


class Attention(nn.Module):
    """Self-attention over positions with a residual connection.

    Queries and keys share one inner axis, values and output another; both are cut within each head.
    """

    def __init__(self, plan: Plan, arch: ModelConfig, name: str, inp: Channels) -> None:
        super().__init__()
        size = full_width(inp)
        head_dim = arch.head_dim or size
        if size % head_dim:
            raise UserError(f"model.head-dim: {head_dim} does not divide {name}'s {size} channels")
        self.heads = size // head_dim
        inner_qk, inner_v = plan.axis(f"{name}.qk", size), plan.axis(f"{name}.v", size)
        plan.boundaries.append(head_dim)
        self.group_norm = GroupNorm(plan, inp, arch.groups, arch.norm_eps, f"{name}.group_norm")
        self.to_q = Linear(plan, inp, inner_qk)
        self.to_k = Linear(plan, inp, inner_qk)
        self.to_v = Linear(plan, inp, inner_v)
        self.to_out = nn.ModuleList([Linear(plan, inner_v, inp), nn.Dropout(0.0)])
        # A score is a sum over the head's features, so the scaler applies to it as to any sum.
        self.scale = plan.input_scale(inner_qk) / math.sqrt(head_dim)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the input plus what every position gathers from all others."""
        h_BLC = self.group_norm(x_BCHW).flatten(2).transpose(1, 2)
        q, k, v = (
            proj(h_BLC).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for proj in (self.to_q, self.to_k, self.to_v)
        )
        h_BNLD = attend(q, k, v, self.scale)
        h_BCL = self.to_out[0](h_BNLD.transpose(1, 2).flatten(2)).transpose(1, 2)
        return x_BCHW + h_BCL.reshape(x_BCHW.shape)


def attend(q_BNLD: Tensor, k_BNLD: Tensor, v_BNLD: Tensor, scale: float) -> Tensor:
    """Return what each query gathers from the values: softmax(scale q k^T) v.

    torch's kernel never holds all scores, which is worth its overhead only where they are many.
    """
    if q_BNLD.shape[2] > FEW_POSITIONS:
        return F.scaled_dot_product_attention(q_BNLD, k_BNLD, v_BNLD, scale=scale)
    return torch.softmax((scale * q_BNLD) @ k_BNLD.transpose(2, 3), dim=3) @ v_BNLD


class Downsample(nn.Module):
    """A strided convolution that halves the resolution, onto a new axis."""

    def __init__(self, plan: Plan, name: str, inp: Channels, padding: int) -> None:
        super().__init__()
        self.out = plan.axis(name, full_width(inp))
        self.pad = (0, 1, 0, 1) if padding == 0 else None
        self.conv = Conv2d(plan, inp, self.out, stride=2, padding=padding)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Halve height and width."""
        return self.conv(x_BCHW if self.pad is None else F.pad(x_BCHW, self.pad))


class Upsample(nn.Module):
    """Nearest-neighbour doubling and a convolution, onto a new axis."""

    def __init__(self, plan: Plan, name: str, inp: Channels) -> None:
        super().__init__()
        self.out = plan.axis(name, full_width(inp))
        self.conv = Conv2d(plan, inp, self.out, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Double height and width."""
        return self.conv(F.interpolate(x_BCHW, scale_factor=2.0, mode="nearest"))


class Block(nn.Module):
    """The layers of one level on one side of the UNet; which lists are filled is its kind."""

    def __init__(self) -> None:
        super().__init__()
        self.resnets = nn.ModuleList()
        self.attentions = nn.ModuleList()
        self.downsamplers = nn.ModuleList()
        self.upsamplers = nn.ModuleList()

    def layers(self) -> Iterator[tuple[nn.Module, nn.Module | None]]:
        """Yield each resnet block with the attention after it, if any."""
        return zip_longest(self.resnets, self.attentions)


class TimeEmbedding(nn.Module):
    """Two linear maps with a SiLU between, from sinusoids to the embedding all blocks share."""

    def __init__(self, plan: Plan, inp: int, size: int) -> None:
        super().__init__()
        hidden = plan.axis("time.hidden", size)
        self.out = plan.axis("time.out", size)
        self.linear_1 = Linear(plan, inp, hidden)
        self.linear_2 = Linear(plan, hidden, self.out)

    def forward(self, sinusoids_BC: Tensor) -> Tensor:
        """Embed the sinusoids."""
        return self.linear_2(F.silu(self.linear_1(sinusoids_BC)))
