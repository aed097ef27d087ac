"""How fast aggregation is against what memory allows, and against Flower's own FedAvg.

The floor of a workload is the least that any program has to move, at the speed at which `np.copyto`
moves memory in the same run: each kept value read once, each covered global value read and
written once. A speed of 1 is the floor's; `speed_vs_floor` is what a round of the default
configuration has, in which up to `reply-memory` models' worth of replies wait: all ten of A and B,
an eighth of C. It is also given for less memory, and for processor time, which a busy machine
changes less and in which a second thread is no help. The fold is called as the strategy calls it:
replies come one by one, rates mixed, and are checked, added and averaged within the time. Every
reply has memory of its own, so none is found in cache. Submodels come as tasks leave them when they
have been sent.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from numpy.typing import NDArray

from benchmarks.harness import Result, available_memory
from benchmarks.workloads import Workload, workload
from common.config import RunConfig
from common.submodels import (
    Axis,
    CompactSubmodel,
    Layout,
    Parameter,
    Submodel,
    extract,
    full_submodel,
)
from server.aggregation import Aggregate, fold_for
from simulations.planning.measure import PeakMemory, in_fresh_process, interleaved

Values = NDArray[np.float32]

LESS = (0.5, 1.0, 2.0)
"""Models' worth of replies that may wait, besides the default."""

DEFAULT = RunConfig().reply_memory

REPEATS = {"A": 15, "B": 7, "C": 2}
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
    fresh = iter([_sent(load, theta) for _ in range(2 * (1 + len(LESS)) * REPEATS[case])])
    copied = floor_bytes(load.layout, clients) / (2 * theta.nbytes)

    def copy() -> None:
        np.copyto(destination, theta)

    def once(reply_memory: float) -> None:
        fold(theta, next(fresh), replies, reply_memory)

    ways = {case: DEFAULT} | {f"{case}, reply-memory {way:g}": way for way in LESS}
    turns: dict[str, Callable[[], object]] = {"copy": copy}
    for name, way in ways.items():
        turns[name] = partial(once, way)
    turns["copy again"] = copy
    for suffix, clock in (("", time.perf_counter), ("_processor", time.process_time)):
        seconds = interleaved(turns, REPEATS[case], clock)
        floor = copied * min(seconds["copy"], seconds["copy again"])
        for name in ways:
            yield Result("aggregation", name, f"speed_vs_floor{suffix}", floor / seconds[name])
            yield Result("aggregation", name, f"time{suffix}", 1000 * seconds[name], "ms")
        if not suffix:
            speed = floor_bytes(load.layout, clients) / floor / 1e9
            yield Result("aggregation", case, "copy_bandwidth", speed, "GB/s")


def _against_fedavg(case: str, load: Workload) -> Iterator[Result]:
    """Compare with Flower's average of ten full models, which is all that it can average."""
    theta = _values(load.layout.size)
    mixed, full = load.submodels(), [full_submodel(load.layout)] * DENSE
    mixed_replies, full_replies = _replies(mixed), _replies(full)
    fresh = iter([_sent(load, theta) for _ in range(3)])
    records = [_state_dict(load.layout, theta) for _ in range(2)] * (DENSE // 2)
    seconds = interleaved(
        {
            "flwr": lambda: aggregate_arrayrecords(records, "num-examples"),
            "mixed": lambda: fold(theta, next(fresh), mixed_replies),
            "full": lambda: fold(theta, full, full_replies),
        },
        3,
    )
    for name, kind in ((case, "mixed"), (f"{case} full", "full")):
        faster = seconds["flwr"] / seconds[kind]
        yield Result("aggregation", name, "times_faster_than_flwr_fedavg", faster)


def fold(
    theta: Values,
    clients: Sequence[Submodel],
    replies: Sequence[Values],
    reply_memory: float = DEFAULT,
) -> Aggregate:
    """Average the replies in a fixed order that mixes the rates."""
    config = RunConfig(reply_memory=reply_memory)
    average = fold_for(clients[0].layout, float(len(clients)), config)
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
    """Return the peak memory of aggregation in this process, in bytes.

    Resident memory beyond the global weights and the reply that is just being added. It counts what
    the fold holds, and its result.
    """
    load = workload(case)
    theta, clients = _values(load.layout.size), load.submodels()
    _compile()
    memory, peak = PeakMemory(), 0
    average = fold_for(load.layout, float(len(clients)), RunConfig())
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
    fold(_values(4), [full_submodel(layout)], [_values(4)])


def _sent(load: Workload, theta: Values) -> Sequence[CompactSubmodel]:
    """Return every client's submodel with what sending it has worked out: equal neighbours once."""
    submodels, last = load.submodels(), b""
    for submodel in submodels:
        assert submodel.size
        if submodel.bitmask() != last:
            extract(theta, submodel)
        last = submodel.bitmask()
    return submodels


def _values(size: int) -> Values:
    return np.full(size, 0.01, np.float32)


def _replies(clients: Sequence[Submodel]) -> list[Values]:
    return [_values(client.size) for client in clients]


def _state_dict(layout: Layout, theta: Values) -> RecordDict:
    arrays = {p.name: Array(layout.view(theta, p).copy()) for p in layout.parameters}
    metrics = MetricRecord({"num-examples": 1})
    return RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
