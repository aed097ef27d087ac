"""How long a client's process takes until it can train, beyond importing PyTorch.

A node that gets its first task of the default job starts a process, imports, reads its images from
a warm cache and builds its network. Each start is a fresh interpreter; the least of several counts.
"""

import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.harness import Result
from common.measure import interleaved

STARTS = {
    "python": "",
    "torch": "import torch",
    "flwr": "import flwr.clientapp",
    "torch and flwr": "import torch, flwr.clientapp",
    "client": """
import numpy as np, torch
from client.app import app
from client.training import FlatModel
from common.config import RunConfig
from common.data import load_partition
from common.submodel import full_submodel
from common.unet import layout_of
config = RunConfig()
data = load_partition(config.data, config.partition, config.partition_alpha, 8, 0, config.seed)
layout = layout_of(config.model, data.image_shape[0])
FlatModel(torch.zeros(layout.size), full_submodel(layout), config, data.image_shape[0])
""",
}


def run(repeats: int = 5) -> Iterator[Result]:
    """Time every start by turns."""

    def start(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    start(STARTS["client"])  # fills the cache
    calls = {name: (lambda code=code: start(code)) for name, code in STARTS.items()}
    seconds = interleaved(calls, repeats, time.perf_counter)
    for name, value in seconds.items():
        yield Result("startup", name, "seconds", value, "s")
    for name in ("torch", "torch and flwr"):
        yield Result(
            "startup",
            "client",
            f"beyond_{name.replace(' ', '_')}",
            seconds["client"] - seconds[name],
            "s",
        )
