"""What training computes: a client's steps on images of noise, and their operations."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from client.training import nested_widths, train_locally
from common.config import ModelConfig, RunConfig, TrainConfig
from common.data import ImageData
from common.network import layout_of
from common.submodels import Submodel, submodel_of_rate
from server.policies import policy_named

Shape = tuple[int, int, int]


def random_images(shape: Shape, count: int) -> ImageData:
    """Return images of noise, to measure with."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (count, *shape)).astype(np.float32)
    return ImageData(images, np.zeros(count, np.int64), 10, "random")


def train_on_nothing(config: RunConfig, submodel: Submodel, data: ImageData, steps: int) -> None:
    """Train as a client does, for a number of steps, from weights that are all alike."""
    config = config.model_copy(update={"local_steps": steps, "rounds": 1})
    values = np.full(submodel.size, 0.01, np.float32)
    train_locally(values, submodel, data, config, 1, np.random.default_rng(0))


def step_flops(config: RunConfig, shape: Shape, rate: Fraction) -> float:
    """Return the operations of a local step at a rate, a multiply-add counted as two.

    Where a step trains one of several narrower widths at random, this is the mean. Clients of a
    policy that picks single weights train the full network.
    """
    if policy_named(config.policy).single_weights:
        return width_flops(config.model, config.train, config.batch_size, shape, Fraction(1))
    layout = layout_of(config.model, shape[0])
    narrower = nested_widths(config, layout, layout.kept_per_atom(rate))
    own, *others = (
        width_flops(config.model, config.train, config.batch_size, shape, width)
        for width in (rate, *(Fraction(k, layout.atom) for k in narrower))
    )
    between = math.fsum(others[:-1]) / len(others[:-1]) if others[:-1] else 0.0
    return math.fsum([own, between, *others[-1:]])


@cache
def width_flops(
    model: ModelConfig, train: TrainConfig, batch_size: int, shape: Shape, rate: Fraction
) -> float:
    """Return the operations of a step that trains one width alone."""
    config = RunConfig(model=model, train=train, batch_size=batch_size, local_widths="own")
    submodel = submodel_of_rate(layout_of(model, shape[0]), rate)
    with FlopCounterMode(display=False) as counter:
        train_on_nothing(config, submodel, random_images(shape, batch_size), 1)
    return float(counter.get_total_flops())
