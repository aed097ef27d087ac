"""The local optimizer: PyTorch's fused AdamW kernel on one flat vector."""

import torch
from torch import Tensor
from torch.optim.adamw import adamw


class AdamW:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2) with PyTorch's default constants.

    Bit for bit `torch.optim.AdamW(..., fused=True)` without that class, whose constructor imports
    PyTorch's compiler: more than a second of every client's process, for nothing used here.

    Args:
        theta: The weights, which `step` changes in place.
        gradient: Their gradient, of the same shape; read anew at every step.
        learning_rate: The step size.
        weight_decay: The decoupled decay, at least 0.
    """

    def __init__(
        self, theta: Tensor, gradient: Tensor, learning_rate: float, weight_decay: float
    ) -> None:
        self._theta, self._gradient = theta, gradient
        self._mean, self._square = torch.zeros_like(theta), torch.zeros_like(theta)
        self._steps = torch.zeros((), device=theta.device)
        self._learning_rate, self._weight_decay = learning_rate, weight_decay

    @torch.no_grad()
    def step(self) -> None:
        """Move the weights by the gradient as it stands."""
        adamw(
            [self._theta],
            [self._gradient],
            [self._mean],
            [self._square],
            [],
            [self._steps],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self._learning_rate,
            weight_decay=self._weight_decay,
            eps=1e-8,
            maximize=False,
        )
