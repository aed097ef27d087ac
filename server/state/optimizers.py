"""Server optimizers: how far the global weights go along what a round's average would change.

Each is a pure function from the moments and the change to new moments and a step, all over the
coordinates that some client covered; the others are never handed to it.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

from common.config import ServerConfig

Moments = Float32[np.ndarray, "M *shape"]
Change = Float32[np.ndarray, "*shape"]
Rule = Callable[[Moments, Change, ServerConfig], tuple[Moments, Change]]


def plain(moments: Moments, change: Change, config: ServerConfig) -> tuple[Moments, Change]:
    """Step by the change itself: FedAvg where the learning rate is 1 (Reddi et al. 2021)."""
    return moments, change


def momentum(moments: Moments, change: Change, config: ServerConfig) -> tuple[Moments, Change]:
    """Step by the geometric sum of changes (FedAvgM, Hsu et al. 2019)."""
    moments = config.momentum * moments + change
    return moments, moments[0]


def adam(moments: Moments, change: Change, config: ServerConfig) -> tuple[Moments, Change]:
    """Step by the mean change over its root mean square (FedAdam, Reddi et al. 2021, Alg. 2).

    As there, without bias correction; the second moment starts from 0 rather than from the square
    of the adaptivity, which the denominator holds anyway.
    """
    first = config.momentum * moments[0] + (1 - config.momentum) * change
    second = config.second_momentum * moments[1] + (1 - config.second_momentum) * change**2
    return np.stack([first, second]), first / (np.sqrt(second) + config.adaptivity)


OPTIMIZERS: dict[str, tuple[int, Rule]] = {
    "plain": (0, plain),
    "momentum": (1, momentum),
    "adam": (2, adam),
}
"""For each optimizer the moments that it keeps of every coordinate, and its rule."""
