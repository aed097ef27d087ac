"""What a client's training costs at each model rate: memory, time, parameters and bytes.

Memory is the peak of resident memory while `train_locally` runs a round of two steps in a process
of its own, beyond what was resident just before. So it counts the weights received and sent, the
network, gradients, optimizer moments, activations, batches and PyTorch's workspaces, but neither
the interpreter and libraries (all imported, and one step of a tiny network taken) nor the images.

Time is one thread's processor time, which on an idle machine is the time on the clock.
"""

import time
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import torch

from benchmarks.harness import MIB, PeakMemory, Result, in_fresh_process, interleaved
from benchmarks.workloads import DIGITS, PATCHES32
from client.training import train_locally
from common.config import RunConfig
from common.data import ImageData
from common.sections import ModelConfig
from common.submodel import Submodel
from common.unet import layout_of
from common.wire import pack_reply, pack_task, payload_bytes, spec_for

RATES = tuple(Fraction(k, 4) for k in (4, 3, 2, 1))
CASES = {"digits": (DIGITS, (1, 8, 8), 64), "patches32": (PATCHES32, (3, 32, 32), 32)}
"""For each case the architecture, the images' shape and the batch size."""

STEPS = 2
"""Local steps that are timed."""


def run() -> Iterator[Result]:
    """Measure every case at every rate."""
    for case in CASES:
        steps = _step_seconds(case)
        peaks = {rate: in_fresh_process(peak_bytes, case, rate) for rate in RATES}
        for rate in RATES:
            submodel, name = _submodel(CASES[case][0], CASES[case][1][0], rate), f"{case} {rate}"
            values = np.zeros(submodel.size, np.float32)
            spec = spec_for(submodel, 1, "static", "float32")
            down = payload_bytes(pack_task(values, spec))
            up = payload_bytes(pack_reply(values, spec, {"loss": 1.0, "images": 1}))
            yield Result("client", name, "parameters", submodel.size)
            yield Result("client", name, "bytes_down", down)
            yield Result("client", name, "bytes_up", up)
            yield Result("client", name, "peak_mib", peaks[rate] / MIB, "MiB")
            yield Result("client", name, "peak_vs_full", peaks[rate] / peaks[RATES[0]])
            yield Result("client", name, "step_ms", 1000 * steps[rate], "ms")
            yield Result("client", name, "step_vs_full", steps[rate] / steps[RATES[0]])


def peak_bytes(case: str, rate: Fraction) -> int:
    """Return the peak memory of one client's round in this process, in bytes."""
    torch.set_num_threads(1)
    arch, shape, batch = CASES[case]
    data = _images(shape, batch)
    submodel = _submodel(arch, shape[0], rate)
    # PyTorch loads and builds kernels when they are first called; that is not the model's doing.
    tiny = ModelConfig(widths=(8, 16), groups=2)
    _train(tiny, _submodel(tiny, shape[0], Fraction(1)), _images(shape, 1), 1, 1)
    memory = PeakMemory()
    _train(arch, submodel, data, batch, 2)
    return memory.peak()


def _step_seconds(case: str) -> dict[Fraction, float]:
    """Return the time of one local step at each rate, all measured by turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    arch, shape, batch = CASES[case]
    data = _images(shape, batch)
    submodels = {rate: _submodel(arch, shape[0], rate) for rate in RATES}

    def rounds(rate: Fraction, steps: int) -> None:
        _train(arch, submodels[rate], data, batch, steps)

    calls = {
        f"{rate} {steps}": (lambda rate=rate, steps=steps: rounds(rate, steps))
        for rate in RATES
        for steps in (1, 1 + STEPS)
    }
    times = interleaved(calls, 3, time.process_time)
    torch.set_num_threads(threads)
    # The difference leaves out what a round does once, such as building the network.
    return {rate: (times[f"{rate} {1 + STEPS}"] - times[f"{rate} 1"]) / STEPS for rate in RATES}


def _train(arch: ModelConfig, submodel: Submodel, data: ImageData, batch: int, steps: int) -> None:
    config = RunConfig(model=arch, batch_size=batch, local_steps=steps, rounds=1, fleet="1")
    values = np.full(submodel.size, 0.01, np.float32)
    train_locally(values, submodel, data, config, 1, np.random.default_rng(0))


def _submodel(arch: ModelConfig, channels: int, rate: Fraction) -> Submodel:
    layout = layout_of(arch, channels)
    k = layout.kept_per_atom(rate)
    return Submodel.from_positions(layout, k, dict.fromkeys(layout.axes, np.arange(k)))


def _images(shape: tuple[int, int, int], count: int) -> ImageData:
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (count, *shape)).astype(np.float32)
    return ImageData(images, np.zeros(count, np.int64), 10, "random")
