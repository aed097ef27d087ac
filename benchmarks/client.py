"""What a client's training costs at each model rate, and how right its computed memory is.

Measured memory is the peak of resident memory while `train_locally` runs a round of two steps in a
process of its own, beyond what was resident just before. So it counts the weights received and
sent, the network, gradients, optimizer moments, activations, batches and PyTorch's workspaces, but
neither the interpreter and libraries (all imported, and one step of a tiny network taken) nor the
images.
"""

from collections.abc import Iterator
from fractions import Fraction

import torch

from benchmarks.harness import Result
from benchmarks.workloads import DIGITS, PATCHES32
from common.config import ModelConfig, RunConfig
from common.network import layout_of
from common.submodels import full_submodel, submodel_of_rate
from simulations.archive.work import Shape, random_images, train_on_nothing
from simulations.planning.cost import measure_costs
from simulations.planning.measure import MIB, PeakMemory, in_fresh_process

RATES = tuple(Fraction(k, 4) for k in (4, 3, 2, 1))
CASES = {"digits": (DIGITS, (1, 8, 8), 64), "patches32": (PATCHES32, (3, 32, 32), 32)}
"""For each case the architecture, the images' shape and the batch size."""


def run() -> Iterator[Result]:
    """Measure every case at every rate."""
    for case, (arch, shape, batch) in CASES.items():
        config = RunConfig(model=arch, batch_size=batch, fleet="1")
        costs = measure_costs(config, shape, RATES, repeats=3)
        peaks = [in_fresh_process(peak_bytes, config, shape, rate) for rate in RATES]
        full = costs[0]
        for cost, peak in zip(costs, peaks, strict=True):
            name = f"{case} {cost.rate}"
            yield Result("client", name, "parameters", cost.parameters)
            yield Result("client", name, "flops", cost.flops)
            yield Result("client", name, "bytes_down", cost.bytes_down)
            yield Result("client", name, "bytes_up", cost.bytes_up)
            yield Result("client", name, "peak_mib", peak / MIB, "MiB")
            yield Result("client", name, "peak_vs_full", peak / peaks[0])
            yield Result("client", name, "computed_vs_peak", cost.memory_bytes / peak)
            yield Result("client", name, "step_ms", 1000 * cost.step_seconds, "ms")
            yield Result("client", name, "step_vs_full", cost.step_seconds / full.step_seconds)


def peak_bytes(config: RunConfig, shape: Shape, rate: Fraction) -> int:
    """Return the peak memory of one client's round in this process, in bytes."""
    torch.set_num_threads(1)
    submodel = submodel_of_rate(layout_of(config.model, shape[0]), rate)
    data = random_images(shape, 64)
    # PyTorch loads what it needs when it is first called; that is not the model's doing.
    small = {"model": ModelConfig(widths=(8, 16), groups=2), "batch_size": 1, "fleet": "1"}
    once = config.train.model_copy(update={"accumulate": 1})
    tiny = config.model_copy(update=small | {"train": once})
    train_on_nothing(tiny, full_submodel(layout_of(tiny.model, shape[0])), data, 1)
    memory = PeakMemory()
    train_on_nothing(config, submodel, data, 2)
    return memory.peak()
