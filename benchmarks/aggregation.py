"""How fast aggregation is against what memory allows, and against Flower's own FedAvg.

The floor of a workload is the least that any program has to move, at the speed at which `np.copyto`
moves memory in the same run: each kept value read once, each covered global value read and
written once. A speed of 1 is the floor's. Replies are `at hand` (the fold may hold all of them) or
stream in one by one, rates mixed, as in a round. Every reply has memory of its own, so none is
found in cache. Submodels come as a round has them when replies arrive, after `extract`: their sizes
are known, where their coordinates lie is not yet worked out.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from numpy.typing import NDArray

from benchmarks.harness import Result, available_memory
from benchmarks.workloads import Workload, workload
from common.submodels import Axis, CompactSubmodel, Layout, Parameter, Submodel, full_submodel
from server.aggregation import Aggregate, CoverageFold
from simulations.planning.measure import PeakMemory, in_fresh_process, interleaved

Values = NDArray[np.float32]

AT_HAND = float("inf")
STREAMING = 0.5
"""How much a fold may hold, in models; the second is its default."""

REPEATS = {"A": 9, "B": 5, "C": 2}
DENSE = 10
"""Full models in an average with Flower's."""


def run() -> Iterator[Result]:
    """Measure workloads A, B and C, and full models alone."""
    for case in REPEATS:
        load = workload(case)
        peak = in_fresh_process(peak_extra_bytes, case) / (4 * load.layout.size)
        yield Result("aggregation", case, "peak_extra_memory_vs_model", peak)
        yield from _against_floor(case, load)
        if case != "C":
            yield from _against_fedavg(case, load)


def _against_floor(case: str, load: Workload) -> Iterator[Result]:
    clients = load.submodels()
    needed = 4 * sum(client.size for client in clients)
    if needed > 0.8 * available_memory():
        return
    theta = _values(load.layout.size)
    replies = _replies(clients)
    destination = np.empty_like(theta)
    fresh = iter([_fresh(load) for _ in range(2 * REPEATS[case])])
    seconds = interleaved(
        {
            "copy": lambda: np.copyto(destination, theta),
            "at hand": lambda: fold(theta, next(fresh), replies, AT_HAND),
            "copy again": lambda: np.copyto(destination, theta),
            "streaming": lambda: fold(theta, next(fresh), replies, STREAMING),
        },
        REPEATS[case],
    )
    bandwidth = 2 * theta.nbytes / min(seconds["copy"], seconds["copy again"])
    floor = floor_bytes(load.layout, clients) / bandwidth
    for metric, kind in (("", "at hand"), ("_streaming", "streaming")):
        yield Result("aggregation", case, f"speed_vs_floor{metric}", floor / seconds[kind])
        yield Result("aggregation", case, f"time{metric}", 1000 * seconds[kind], "ms")
    yield Result("aggregation", case, "copy_bandwidth", bandwidth / 1e9, "GB/s")


def _against_fedavg(case: str, load: Workload) -> Iterator[Result]:
    """Compare with Flower's average of ten full models, which is all that it can average."""
    theta = _values(load.layout.size)
    mixed, full = load.submodels(), [full_submodel(load.layout)] * DENSE
    mixed_replies, full_replies = _replies(mixed), _replies(full)
    fresh = iter([_fresh(load) for _ in range(3)])
    records = [_state_dict(load.layout, theta) for _ in range(2)] * (DENSE // 2)
    seconds = interleaved(
        {
            "flwr": lambda: aggregate_arrayrecords(records, "num-examples"),
            "mixed": lambda: fold(theta, next(fresh), mixed_replies, AT_HAND),
            "full": lambda: fold(theta, full, full_replies, AT_HAND),
            "full streaming": lambda: fold(theta, full, full_replies, STREAMING),
        },
        3,
    )
    for name, kind in (
        (case, "mixed"),
        (f"{case} full", "full"),
        (f"{case} full, streaming", "full streaming"),
    ):
        faster = seconds["flwr"] / seconds[kind]
        yield Result("aggregation", name, "times_faster_than_flwr_fedavg", faster)


def fold(
    theta: Values, clients: Sequence[Submodel], replies: Sequence[Values], hold: float
) -> Aggregate:
    """Average the replies in a fixed order that mixes the rates."""
    average = CoverageFold(clients[0].layout, float(len(clients)), hold)
    for i in np.random.default_rng(0).permutation(len(clients)):
        average.add(replies[i], clients[i], 1.0, images=1)
    return average.finish(theta)


def floor_bytes(layout: Layout, clients: Sequence[CompactSubmodel]) -> int:
    """Return the bytes that have to be read and written, whatever the program."""
    covered = np.zeros(layout.coverage_size, dtype=bool)
    for client in {client.bitmask(): client for client in clients}.values():
        for parameter, view in layout.coverage_views(covered):
            view[client.coverage_index(parameter)] = True
    return 4 * (sum(client.size for client in clients) + 2 * int(layout.coverage_sizes @ covered))


def peak_extra_bytes(case: str) -> int:
    """Return the peak memory of streaming aggregation in this process, in bytes.

    Resident memory beyond the global weights and the reply that is just being added. It counts what
    the fold holds, and its result.
    """
    load = workload(case)
    theta, clients = _values(load.layout.size), load.submodels()
    _compile()
    memory, peak = PeakMemory(), 0
    average = CoverageFold(load.layout, float(len(clients)))
    for i in np.random.default_rng(0).permutation(len(clients)):
        reply = _values(clients[i].size)
        memory.restart()
        average.add(reply, clients[i], 1.0, images=1)
        peak = max(peak, memory.peak() - reply.nbytes)
        del reply
    memory.restart()
    average.finish(theta)
    return max(peak, memory.peak())


def _compile() -> None:
    """Have the machine code of all loops in memory, whatever the model."""
    layout = Layout((Parameter("one", (4,), ((Axis("one", 4),),), 0),), 4)
    for hold in (STREAMING, AT_HAND):
        fold(_values(4), [full_submodel(layout)], [_values(4)], hold)


def _fresh(load: Workload) -> list[CompactSubmodel]:
    """Return every client's submodel with no more worked out than sending it takes."""
    submodels = load.submodels()
    for submodel in submodels:
        assert submodel.size
    return submodels


def _values(size: int) -> Values:
    return np.full(size, 0.01, np.float32)


def _replies(clients: Sequence[Submodel]) -> list[Values]:
    return [_values(client.size) for client in clients]


def _state_dict(layout: Layout, theta: Values) -> RecordDict:
    arrays = {p.name: Array(layout.view(theta, p).copy()) for p in layout.parameters}
    metrics = MetricRecord({"num-examples": 1})
    return RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
