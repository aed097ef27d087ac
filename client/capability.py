"""What a device can do: how large a submodel it can hold, and how long a step of it takes.

Memory is computed, not measured, so that nothing has to be tried out and every machine answers the
same: on PyTorch's meta device a network is built and run without any memory of its own, and what it
would keep for the gradient is added up. `python -m benchmarks client` measures how near that comes.
"""

import math
import time
from fractions import Fraction

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks

from client.training import nested_widths, train_locally
from common.config import RunConfig
from common.data import ImageData
from common.errors import UserError
from common.network import ScoreUNet, layout_of
from common.submodels import Layout, submodel_of_rate
from common.wire import StepSeconds

MIB = 2**20
COPIES = 8
"""Vectors of a width's size: weights, gradient, two moments; received, sent, and in between."""

WORKSPACE = 1.2
"""What PyTorch uses at the peak over what the gradient needs."""

KERNELS = 12 * MIB
"""What PyTorch keeps to compute with, whatever the network."""


def rate_that_fits(
    config: RunConfig, shape: tuple[int, int, int], limit: Fraction, memory: float
) -> Fraction:
    """Return the largest model rate up to `limit` whose training fits into `memory` MiB.

    Raises:
        UserError: Not even the smallest fits.
    """
    layout = layout_of(config.model, shape[0])
    for k in range(int(limit * layout.atom), 0, -1):
        if training_bytes(config, layout, k, shape) <= memory * MIB:
            return Fraction(k, layout.atom)
    least = training_bytes(config, layout, 1, shape) / MIB
    raise UserError(
        f"memory: rate 1/{layout.atom}, the smallest, needs {math.ceil(least)} MiB, but the node "
        f"has {memory:g}"
    )


def training_bytes(config: RunConfig, layout: Layout, k: int, shape: tuple[int, int, int]) -> int:
    """Return about how many bytes training takes beyond the libraries and the images.

    Measured on the CPU it is right to within a quarter for models of 0.2 to 17 MiB, and up to that
    too low with gradient checkpointing.

    Args:
        config: The run's configuration.
        layout: The full model's layout.
        k: Channels kept in every atom.
        shape: (C, H, W) of the images.
    """
    widths = {name: axis.size // layout.atom * k for name, axis in layout.axes.items()}
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage.nbytes()
        return tensor

    batch = -(-config.batch_size // config.train.accumulate)
    with torch.device("meta"), saved_tensors_hooks(note, lambda tensor: tensor):
        network = ScoreUNet(config.model, shape[0], widths, config.scaler)
        network.checkpointing = config.train.gradient_checkpointing
        labels = {"class_labels": torch.zeros(batch, dtype=torch.long)}
        output = network(
            torch.zeros(batch, *shape),
            torch.zeros(batch),
            **(labels if config.model.num_classes else {}),
        )
    del output  # until here, so that no two storages share a place
    trained = (k, *nested_widths(config, layout, k))
    weights = sum(submodel_of_rate(layout, Fraction(each, layout.atom)).size for each in trained)
    return int(KERNELS + COPIES * 4 * weights + WORKSPACE * sum(saved.values()))


def measured(
    config: RunConfig, data: ImageData, most: Fraction, device: torch.device
) -> StepSeconds:
    """Measure the seconds of a local step at the smallest rate and at the largest, up to `most`."""
    layout = layout_of(config.model, data.image_shape[0])
    torch.set_num_threads(config.threads)

    def seconds(rate: Fraction, steps: int) -> float:
        submodel = submodel_of_rate(layout, rate)
        values = np.full(submodel.size, 0.01, np.float32)
        short = config.model_copy(update={"local_steps": steps})
        started = time.perf_counter()
        train_locally(values, submodel, data, short, 1, np.random.default_rng(0), device)
        return time.perf_counter() - started

    times = []
    for rate in sorted({Fraction(k, layout.atom) for k in (1, int(most * layout.atom)) if k}):
        once = seconds(rate, 1)
        # The difference leaves out what a round does once, such as building the network.
        times.append((rate, max((seconds(rate, 4) - min(once, seconds(rate, 1))) / 3, 1e-9)))
    return tuple(times)


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error is that of a device without enough memory."""
    # On the CPU, PyTorch raises a plain RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
