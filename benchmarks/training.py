"""A local step against the loop one would write with diffusers, and against a matrix product.

Both start from the same weights and do one thing: draw a batch, noise it, predict the noise, step
AdamW with the gradient's norm clipped; on one thread, by turns. The matrix product says what the
machine can do: its rate is that of float32 `torch.mm` at 1024x1024, measured by the same turns.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_, vector_to_parameters
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.client import CASES
from benchmarks.harness import Result
from client.training import train_locally
from common.config import RunConfig
from common.data import ImageData
from common.diffusion import CLOCKS, perturb
from common.network import initial_weights, layout_of, load_weights
from common.submodels import full_submodel
from simulations.planning.measure import interleaved
from tests.architectures import Architecture

STEPS, REPEATS, SIDE = 3, 5, 1024


def run() -> Iterator[Result]:
    """Measure both loops for each architecture."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    matrix = torch.randn(SIDE, SIDE)
    for case, (arch, shape, batch) in CASES.items():
        theta = initial_weights(arch, shape[0], 0)
        submodel = full_submodel(layout_of(arch, shape[0]))
        pixels = np.random.default_rng(0).uniform(-1, 1, (batch, *shape)).astype(np.float32)
        data = ImageData(pixels, np.zeros(batch, np.int64), 10, "random")
        config = RunConfig(model=arch, batch_size=batch, rounds=1, fleet="1")
        theirs = Architecture(arch, shape[0], shape[1]).diffusers()
        vector_to_parameters(torch.from_numpy(theta.copy()), theirs.parameters())
        images = torch.from_numpy(pixels)
        calls: dict[str, Callable[[], object]] = {
            "matrix product": lambda: torch.mm(matrix, matrix)
        }
        for steps in (1, 1 + STEPS):
            chosen = config.model_copy(update={"local_steps": steps})
            calls[f"ours {steps}"] = partial(
                train_locally, theta, submodel, data, chosen, 1, np.random.default_rng(0)
            )
            calls[f"diffusers {steps}"] = partial(_plainly, theirs, images, steps)
        times = interleaved(calls, REPEATS, time.process_time)
        ours, diffusers = (
            (times[f"{name} {1 + STEPS}"] - times[f"{name} 1"]) / STEPS
            for name in ("ours", "diffusers")
        )
        flops = _flops(load_weights(arch, shape[0], torch.from_numpy(theta)), images)
        machine = 2 * SIDE**3 / times["matrix product"]
        yield Result("training", case, "images_per_s", batch / ours, "1/s")
        yield Result("training", case, "diffusers_images_per_s", batch / diffusers, "1/s")
        yield Result("training", case, "speed_vs_diffusers", diffusers / ours)
        yield Result("training", case, "gflop_per_step", flops / 1e9)
        yield Result("training", case, "speed_vs_matrix_product", flops / ours / machine)
    torch.set_num_threads(threads)


def _plainly(model: torch.nn.Module, images: torch.Tensor, steps: int) -> None:
    """Train as a script around diffusers' network does."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    clock, rng = CLOCKS["cosine"], np.random.default_rng(0)
    for _ in range(steps):
        x0 = images[rng.integers(len(images), size=len(images))]
        noise = torch.randn_like(x0)
        t = clock.t_of_u(torch.rand(len(x0), dtype=torch.float64))
        predicted = model(perturb(x0, t, noise), clock.timestep_of_t(t).to(x0)).sample
        loss = functional.mse_loss(predicted, noise)
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def _flops(model: torch.nn.Module, images: torch.Tensor) -> int:
    """Return the operations of a step, a multiplication and an addition being two."""
    with FlopCounterMode(display=False) as counter:
        model(images, torch.full((len(images),), 0.5)).square().mean().backward()
    return int(counter.get_total_flops())
