"""How long a client's process takes until it can train, beyond importing PyTorch.

A node that gets a task of the default job starts a process, imports, reads its images from a warm
cache and builds its networks and its optimizer: the case `client` takes one local step besides, at
a batch of one, so that nothing is left to be loaded. Each start is a fresh interpreter, but that of
`forked client`, which is forked as by `scorequilt join`; the least of several counts.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.harness import Result
from simulations.deployment.forkserver import PRELOADED
from simulations.planning.measure import interleaved

STARTS = {
    "python": "",
    "torch": "import torch",
    "roll-call": "import client.app",
    "flwr": "import flwr.clientapp",
    "torch and flwr": "import torch, flwr.clientapp",
    "client": """
import numpy as np, torch
from client.app import app
from client.training import train_locally
from common.config import RunConfig
from common.data import load_partition
from common.submodels import full_submodel
from common.network import layout_of
config = RunConfig(local_steps=1, batch_size=1)
data = load_partition(config.data, config.partition, config.partition_alpha, 8, 0, config.seed)
submodel = full_submodel(layout_of(config.model, data.image_shape[0]))
values = np.full(submodel.size, 0.01, np.float32)
train_locally(values, submodel, data, config, 1, np.random.default_rng(0))
""",
}

FORK = f"""
import gc, os, time
from importlib import import_module
for name in {PRELOADED}:
    import_module(name)
gc.freeze()
started = time.perf_counter()
child = os.fork()
if child == 0:
    exec({STARTS["client"]!r})
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(time.perf_counter() - started)
"""


def run(repeats: int = 3) -> Iterator[Result]:
    """Time every start by turns, in all and on the processor, which another's load slows less."""

    def start(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    start(STARTS["client"])  # fills the cache
    calls = {name: (lambda code=code: start(code)) for name, code in STARTS.items()}
    for metric, clock in (("seconds", time.perf_counter), ("cpu_seconds", spent)):
        seconds = interleaved(calls, repeats, clock)
        for name, value in seconds.items():
            yield Result("startup", name, metric, value, "s")
        for name in ("torch", "torch and flwr"):
            beyond = seconds["client"] - seconds[name]
            label = name.replace(" ", "_")
            yield Result("startup", "client", f"{metric}_beyond_{label}", beyond, "s")
    command = [sys.executable, "-c", FORK]
    forked = [
        float(subprocess.run(command, check=True, capture_output=True).stdout)
        for _ in range(repeats)
    ]
    yield Result("startup", "forked client", "seconds", min(forked), "s")
