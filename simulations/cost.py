"""What a client's training costs at each model rate, measured on this machine.

Memory is the peak of resident memory while `train_locally` runs a round of two steps in a process
of its own, beyond what was resident just before. So it counts the weights received and sent, the
network, gradients, optimizer moments, activations, batches and PyTorch's workspaces, but neither
the interpreter and libraries (all imported, and one step of a tiny network taken) nor the images.

Time is one thread's processor time, which on an idle machine is the time on the clock.
"""

import time
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from client.training import train_locally
from common.codecs import CODECS
from common.config import RunConfig
from common.cost import Cost
from common.data import ImageData
from common.measure import MIB, PeakMemory, in_fresh_process, interleaved
from common.sections import ModelConfig
from common.submodel import Layout, Submodel
from common.unet import layout_of
from common.wire import pack_reply, pack_task, payload_bytes, spec_for

STEPS = 2
"""Local steps that are timed."""

Shape = tuple[int, ...]


def measure_costs(config: RunConfig, shape: Shape, rates: Sequence[Fraction]) -> list[Cost]:
    """Return the cost of a client's training at each rate; times are measured by turns.

    Args:
        config: The run's configuration; its policy is of no account.
        shape: An image's, channels first.
        rates: Model rates, each once.

    Raises:
        UserError: A rate does not fit the model's atoms.
    """
    layout = layout_of(config.model, shape[0])
    submodels = {rate: _submodel(layout, rate) for rate in rates}
    steps = _step_seconds(config, shape, submodels)
    costs = []
    for rate, submodel in submodels.items():
        values = np.zeros(submodel.size, np.float32)
        spec = spec_for(submodel, 1, "static", config.codec)
        reply = CODECS[config.codec].reply.encode(values)
        with FlopCounterMode(display=False) as counter:
            _train(config, submodel, _images(shape, config.batch_size), 1)
        costs.append(
            Cost(
                rate,
                submodel.size,
                counter.get_total_flops(),
                in_fresh_process(peak_bytes, config, shape, rate),
                payload_bytes(pack_task(values, spec)),
                payload_bytes(pack_reply(reply, spec, {"loss": 1.0, "images": 1, "seconds": 1.0})),
                steps[rate],
            )
        )
    return costs


def peak_bytes(config: RunConfig, shape: Shape, rate: Fraction) -> int:
    """Return the peak memory of one client's round in this process, in bytes."""
    torch.set_num_threads(1)
    submodel, data = _submodel(layout_of(config.model, shape[0]), rate), _images(shape, 64)
    # PyTorch loads and builds kernels when they are first called; that is not the model's doing.
    tiny = RunConfig(model=ModelConfig(widths=(8, 16), groups=2), batch_size=1, fleet="1")
    _train(tiny, _submodel(layout_of(tiny.model, shape[0]), Fraction(1)), data, 1)
    memory = PeakMemory()
    _train(config, submodel, data, 2)
    return memory.peak()


def table(costs: Sequence[Cost]) -> str:
    """Return the costs as lines of text, with those that matter as parts of the largest rate's."""
    full = max(costs, key=lambda cost: cost.rate)
    lines = [
        " rate  parameters  GFLOP/step       peak memory          step time      MiB down    MiB up"
    ]
    for cost in costs:
        memory, seconds = cost.peak_bytes / full.peak_bytes, cost.step_seconds / full.step_seconds
        lines.append(
            f"{cost.rate!s:>5} {cost.parameters:11,d} {cost.flops / 1e9:11.3f} "
            f"{cost.peak_bytes / MIB:9.1f} MiB {memory:4.2f} "
            f"{1000 * cost.step_seconds:10.1f} ms {seconds:5.2f} "
            f"{cost.bytes_down / MIB:11.2f} {cost.bytes_up / MIB:9.2f}"
        )
    return "\n".join(lines)


def _step_seconds(
    config: RunConfig, shape: Shape, submodels: dict[Fraction, Submodel]
) -> dict[Fraction, float]:
    """Return the time of one local step at each rate, all measured by turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data = _images(shape, 64)
    calls = {
        f"{rate} {steps}": (
            lambda submodel=submodel, steps=steps: _train(config, submodel, data, steps)
        )
        for rate, submodel in submodels.items()
        for steps in (1, 1 + STEPS)
    }
    times = interleaved(calls, 3, time.process_time)
    torch.set_num_threads(threads)
    # The difference leaves out what a round does once, such as building the network.
    return {r: (times[f"{r} {1 + STEPS}"] - times[f"{r} 1"]) / STEPS for r in submodels}


def _train(config: RunConfig, submodel: Submodel, data: ImageData, steps: int) -> None:
    config = config.model_copy(update={"local_steps": steps, "rounds": 1})
    values = np.full(submodel.size, 0.01, np.float32)
    train_locally(values, submodel, data, config, 1, np.random.default_rng(0))


def _submodel(layout: Layout, rate: Fraction) -> Submodel:
    k = layout.kept_per_atom(rate)
    return Submodel.from_positions(layout, k, dict.fromkeys(layout.axes, np.arange(k)))


def _images(shape: Shape, count: int) -> ImageData:
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (count, *shape)).astype(np.float32)
    return ImageData(images, np.zeros(count, np.int64), 10, "random")
