"""What a client's training costs at each model rate, as `simulations.planning.cost` measures it."""

from collections.abc import Iterator
from fractions import Fraction

from benchmarks.harness import Result
from benchmarks.workloads import DIGITS, PATCHES32
from common.config import RunConfig
from simulations.planning.cost import measure_costs
from simulations.planning.measure import MIB

RATES = tuple(Fraction(k, 4) for k in (4, 3, 2, 1))
CASES = {"digits": (DIGITS, (1, 8, 8), 64), "patches32": (PATCHES32, (3, 32, 32), 32)}
"""For each case the architecture, the images' shape and the batch size."""


def run() -> Iterator[Result]:
    """Measure every case at every rate."""
    for case, (arch, shape, batch) in CASES.items():
        costs = measure_costs(RunConfig(model=arch, batch_size=batch, fleet="1"), shape, RATES)
        full = costs[0]
        for cost in costs:
            name = f"{case} {cost.rate}"
            yield Result("client", name, "parameters", cost.parameters)
            yield Result("client", name, "flops", cost.flops)
            yield Result("client", name, "bytes_down", cost.bytes_down)
            yield Result("client", name, "bytes_up", cost.bytes_up)
            yield Result("client", name, "peak_mib", cost.peak_bytes / MIB, "MiB")
            yield Result("client", name, "peak_vs_full", cost.peak_bytes / full.peak_bytes)
            yield Result("client", name, "step_ms", 1000 * cost.step_seconds, "ms")
            yield Result("client", name, "step_vs_full", cost.step_seconds / full.step_seconds)
