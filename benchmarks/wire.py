"""What packing and unpacking a reply costs, for each codec, on a 35.7 M-parameter model."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from flwr.app import RecordDict

from benchmarks.harness import Result
from benchmarks.workloads import CIFAR10_DDPM
from common.network import layout_of
from common.submodels import full_submodel
from common.wire import CODECS, pack_reply, payload_bytes, spec_for, unpack_reply
from simulations.planning.measure import interleaved


def run() -> Iterator[Result]:
    """Measure every codec; throughput counts the float32 bytes that go in or come out."""
    submodel = full_submodel(layout_of(CIFAR10_DDPM, 3))
    values = np.random.default_rng(0).normal(0, 0.05, submodel.size).astype(np.float32)
    specs = {codec: spec_for(submodel, 1, "static", codec) for codec in CODECS}
    messages: dict[str, RecordDict] = {}

    def pack(codec: str) -> None:
        array = CODECS[codec].reply.encode(values)
        messages[codec] = pack_reply(array, specs[codec], {"loss": 1.0, "images": 1})

    def unpack(codec: str) -> None:
        unpack_reply(messages[codec], specs[codec], submodel)

    calls = {f"pack {codec}": partial(pack, codec) for codec in CODECS}
    calls |= {f"unpack {codec}": partial(unpack, codec) for codec in CODECS}
    seconds = interleaved(calls, 5)
    for codec in CODECS:
        sent = payload_bytes(messages[codec]) / submodel.size
        for action in ("pack", "unpack"):
            rate = values.nbytes / seconds[f"{action} {codec}"] / 1e9
            yield Result("wire", codec, f"{action}_throughput", rate, "GB/s")
        yield Result("wire", codec, "bytes_per_value", sent, "B")
        yield Result("wire", codec, "bytes_vs_float32", sent / 4)
