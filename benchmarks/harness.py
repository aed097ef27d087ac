"""What all benchmarks share: results, and the machine that they hold for."""

import importlib.metadata
import os
import platform
import re
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from simulations.planning.measure import MIB


@dataclass(frozen=True)
class Result:
    """One number.

    Attributes:
        benchmark: The benchmark's name on the command line.
        case: What was measured: an architecture, a workload, a codec.
        metric: What the number says.
        value: The number.
        unit: Its unit; empty for a ratio.
    """

    benchmark: str
    case: str
    metric: str
    value: float
    unit: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the result with the machine and versions that it holds for."""
        return {**asdict(self), "machine": machine(), "versions": versions()}


@cache
def machine() -> str:
    """Return the processor, its cores and the memory in one line."""
    path = Path("/proc/cpuinfo")  # which only Linux has
    model = re.search(r"model name\s*:\s*(.+)", path.read_text() if path.exists() else "")
    memory = psutil.virtual_memory().total / MIB / 1024
    name = model[1] if model else platform.machine()
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GiB"


@cache
def versions() -> dict[str, str]:
    """Return the versions that the numbers depend on."""
    names = ("numpy", "torch", "flwr", "scorequilt")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}


def available_memory() -> float:
    """Return the bytes that can be had without swapping."""
    return float(psutil.virtual_memory().available)
