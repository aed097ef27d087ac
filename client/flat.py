"""A network in training, laid out for the optimizer and for the processor."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from common.config import RunConfig, TrainConfig
from common.diffusion import CLOCKS, eps_denoiser
from common.network import ScoreUNet, load_weights, take_input_scales


class FlatModel:
    """A network whose weights are one vector and whose gradients are another.

    Clipping and the optimizer are then one kernel each, whatever the number of layers. In both
    vectors a convolution's weight stands as channels-last images want it, where it would otherwise
    be reordered three times in a step; and input scales multiply all weights at once.

    Between `prepare` and `finish` the network may be differentiated any number of times.

    Args:
        values: The network's weights in the layout's order; not kept.
        widths: Channels that the network has of each axis (`Submodel.widths`).
        config: The run's configuration.
        channels: Channels of an image.

    Attributes:
        theta: The weights, in the network's own order.
        gradient: Their gradients, after `finish`.
    """

    def __init__(
        self, values: Tensor, widths: Mapping[str, int], config: RunConfig, channels: int
    ) -> None:
        self.network = load_weights(config.model, channels, values, widths, config.scaler).train()
        forward = executed(self.network, config.train)
        self.denoiser = eps_denoiser(forward, CLOCKS[config.clock], config.prediction)
        self.theta = self.ordered(values)
        self.gradient = torch.zeros_like(self.theta)
        self._scale = self._input_scales()
        self._weights = self.theta if self._scale is None else torch.empty_like(self.theta)
        views = zip(self.views(self._weights), self.views(self.gradient), strict=True)
        for parameter, (weight, gradient) in zip(self.network.parameters(), views, strict=True):
            parameter.data, parameter.grad = weight, gradient
        self.prepare()

    def prepare(self) -> None:
        """Take the weights over into the network and forget the gradient."""
        if self._scale is not None:
            torch.mul(self.theta, self._scale, out=self._weights)
        self.gradient.zero_()

    def finish(self) -> None:
        """Make the gradient that of `theta`."""
        if self._scale is not None:
            self.gradient.mul_(self._scale)

    def views(self, vector: Tensor) -> list[Tensor]:
        """Return the parts of a vector in the network's order, shaped as its parameters."""
        shapes = [parameter.shape for parameter in self.network.parameters()]
        views = []
        for part, shape in zip(vector.split([s.numel() for s in shapes]), shapes, strict=True):
            if len(shape) == 4 and self.network.memory_format == torch.channels_last:
                out, inp, height, width = shape
                views.append(part.view(out, height, width, inp).permute(0, 3, 1, 2))
            else:
                views.append(part.view(shape))
        return views

    def ordered(self, values: Tensor) -> Tensor:
        """Bring a vector from the layout's order into the network's."""
        vector, start = torch.empty_like(values), 0
        for view in self.views(vector):
            view.copy_(values[start : start + view.numel()].view(view.shape))
            start += view.numel()
        return vector

    def in_layout(self, vector: Tensor) -> Tensor:
        """Bring a vector from the network's order into the layout's."""
        values, start = torch.empty_like(vector), 0
        for view in self.views(vector):
            values[start : start + view.numel()].view(view.shape).copy_(view)
            start += view.numel()
        return values

    def _input_scales(self) -> Tensor | None:
        """Return the factor of each weight; None if all are 1."""
        factors = take_input_scales(self.network)
        if not factors:
            return None
        scale = torch.ones_like(self.theta)
        names = [name for name, _ in self.network.named_parameters()]
        for name, view in zip(names, self.views(scale), strict=True):
            view.fill_(factors.get(name, 1.0))
        return scale


def executed(network: ScoreUNet, choices: TrainConfig) -> Callable[..., Tensor]:
    """Return the network's forward pass, computed as the training choices say.

    None of them changes what is computed, up to rounding. The weights and the loss stay float32;
    "bfloat16" is torch's autocast.
    """
    network.checkpointing = choices.gradient_checkpointing
    if choices.channels_last:
        network.memory_format = torch.channels_last
    compute: Callable[..., Tensor] = torch.compile(network) if choices.compile else network
    half = choices.precision == "bfloat16"

    def forward(x_BCHW: Tensor, timestep_B: Tensor, **labels: Tensor) -> Tensor:
        with torch.autocast(x_BCHW.device.type, torch.bfloat16, enabled=half):
            return compute(x_BCHW, timestep_B, **labels).to(x_BCHW.dtype)

    return forward
