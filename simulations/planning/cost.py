"""What a client's training costs at each model rate.

Memory is computed, by the function with which devices judge what they can hold, so that plan and
device cannot disagree: `client.capability.training_bytes`. Time is measured on this machine: one
thread's processor time, which on an idle machine is the time on the clock.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from client.capability import training_bytes
from common.config import RunConfig, parse_fleet
from common.files import show_bytes
from common.network import layout_of
from common.resources import cores
from common.submodels import CompactSubmodel, Submodel, submodel_of_rate
from common.wire import CODECS, pack_reply, pack_task, payload_bytes, spec_for
from simulations.archive.work import Shape, random_images, train_on_nothing
from simulations.planning.measure import MIB, interleaved

STEPS = 2
"""Local steps that are timed."""


@dataclass(frozen=True)
class Cost:
    """One rate's cost to a client.

    Attributes:
        rate: The model rate.
        parameters: Coordinates of the submodel.
        flops: Floating-point operations of a local step, a multiply-add counted as two.
        memory_bytes: Memory for a round of training beyond the libraries' and the images'.
        bytes_down: Payload of a task.
        bytes_up: Payload of a reply.
        step_seconds: Processor time of a local step on one thread.
    """

    rate: Fraction
    parameters: int
    flops: int
    memory_bytes: int
    bytes_down: int
    bytes_up: int
    step_seconds: float


def fit_rate(
    costs: Iterable[Cost], memory: int | float = math.inf, seconds: int | float = math.inf
) -> Fraction | None:
    """Return the largest rate whose cost is within both budgets; None if none is.

    Args:
        costs: Of the candidates, measured on one machine.
        memory: Bytes for `Cost.memory_bytes`.
        seconds: Time for `Cost.step_seconds`; for a device that is slower than the machine that
            measured by some factor, its own budget divided by that factor.
    """
    fitting = [c.rate for c in costs if c.memory_bytes <= memory and c.step_seconds <= seconds]
    return max(fitting, default=None)


def round_seconds(config: RunConfig, costs: Iterable[Cost], steps: int = 1) -> float:
    """Return how long so many local steps of all clients take on this machine."""
    by_rate = {cost.rate: cost.step_seconds for cost in costs}
    rates = config.client_rates
    return steps * sum(by_rate[rate] for rate in rates) / min(len(rates), cores())


def said_round(config: RunConfig, costs: Sequence[Cost]) -> str:
    """Say what a round takes on this machine, and training in all, evaluation apart.

    Args:
        config: The run's configuration.
        costs: Of a client at each rate of its fleet.
    """
    by_rate = {cost.rate: cost for cost in costs}
    sent = sum(by_rate[rate].bytes_down + by_rate[rate].bytes_up for rate in config.client_rates)
    most = max(cost.memory_bytes for cost in costs)
    seconds = round_seconds(config, costs, config.local_steps)
    minutes = config.rounds * seconds / 60
    whole = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"
    return (
        f"a round here: about {seconds:.0f} s and {show_bytes(sent)} sent, at most"
        f" {show_bytes(most)} in a client; training about {whole}"
    )


def rates_of_interest(config: RunConfig, atom: int, rates: str | None = None) -> list[Fraction]:
    """Return the rates to measure, falling: the full width and those named, else all that fit.

    Args:
        config: The run's configuration.
        atom: Channels of the model's atoms.
        rates: As a fleet is written; None for the configuration's and all that the model allows.

    Raises:
        UserError: The text cannot be read.
    """
    if rates:
        return sorted({*parse_fleet(rates), Fraction(1)}, reverse=True)
    # An atom of many channels allows more rates than anybody wants to wait for.
    allowed = [Fraction(k, atom) for k in range(1, atom + 1)] if atom <= 8 else []
    return sorted({*config.widths(atom), *allowed, Fraction(1)}, reverse=True)


def measure_costs(
    config: RunConfig,
    shape: Shape,
    rates: Sequence[Fraction],
    progress: Callable[[int, int], None] | None = None,
    repeats: int = 2,
) -> list[Cost]:
    """Return the cost of a client's training at each rate; times are measured by turns.

    Args:
        config: The run's configuration; its policy is of no account.
        shape: An image's, channels first.
        rates: Model rates, each once.
        progress: Called with the trainings timed and in total.
        repeats: How often each is timed, of which the least counts.

    Raises:
        UserError: A rate does not fit the model's atoms.
    """
    layout = layout_of(config.model, shape[0])
    submodels = {rate: submodel_of_rate(layout, rate) for rate in rates}
    # What is counted first is also what warms up for the timing.
    flops = {rate: _flops(config, shape, submodel) for rate, submodel in submodels.items()}
    steps = _step_seconds(config, shape, submodels, repeats, progress)
    costs = []
    for rate, submodel in submodels.items():
        values = np.zeros(submodel.size, np.float32)
        spec = spec_for(submodel, 1, "static", config.codec)
        reply = CODECS[config.codec].reply.encode(values)
        costs.append(
            Cost(
                rate,
                submodel.size,
                flops[rate],
                training_bytes(config, layout, submodel.k, shape),
                payload_bytes(pack_task(values, spec)),
                payload_bytes(pack_reply(reply, spec, {"loss": 1.0, "images": 1, "seconds": 1.0})),
                steps[rate],
            )
        )
    return costs


def table(costs: Sequence[Cost]) -> str:
    """Return the costs as lines of text, with those that matter as parts of the largest rate's."""
    full = max(costs, key=lambda cost: cost.rate)
    lines = [
        " rate  parameters  GFLOP/step            memory          step time      MiB down    MiB up"
    ]
    for cost in costs:
        memory, seconds = (
            cost.memory_bytes / full.memory_bytes,
            cost.step_seconds / full.step_seconds,
        )
        lines.append(
            f"{cost.rate!s:>5} {cost.parameters:11,d} {cost.flops / 1e9:11.3f} "
            f"{cost.memory_bytes / MIB:9.1f} MiB {memory:4.2f} "
            f"{1000 * cost.step_seconds:10.1f} ms {seconds:5.2f} "
            f"{cost.bytes_down / MIB:11.2f} {cost.bytes_up / MIB:9.2f}"
        )
    return "\n".join(lines)


def _flops(config: RunConfig, shape: Shape, submodel: Submodel) -> int:
    """Return the operations of one local step."""
    with FlopCounterMode(display=False) as counter:
        train_on_nothing(config, submodel, random_images(shape, config.batch_size), 1)
    return counter.get_total_flops()


def _step_seconds(
    config: RunConfig,
    shape: Shape,
    submodels: dict[Fraction, CompactSubmodel],
    repeats: int,
    progress: Callable[[int, int], None] | None,
) -> dict[Fraction, float]:
    """Return the time of one local step at each rate, all measured by turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data = random_images(shape, 64)
    calls = {
        f"{rate} {steps}": (
            lambda submodel=submodel, steps=steps: train_on_nothing(config, submodel, data, steps)
        )
        for rate, submodel in submodels.items()
        for steps in (1, 1 + STEPS)
    }
    times = interleaved(calls, repeats, time.process_time, progress)
    torch.set_num_threads(threads)
    # The difference leaves out what a round does once, such as building the network.
    return {r: (times[f"{r} {1 + STEPS}"] - times[f"{r} 1"]) / STEPS for r in submodels}
