"""What all benchmarks share: results, and the machine that they hold for."""

import importlib.metadata
import os
import platform
import re
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

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
    model = re.search(r"model name\s*:\s*(.+)", _proc("cpuinfo"))
    total = re.search(r"MemTotal:\s*(\d+)", _proc("meminfo"))
    memory = f", {int(total[1]) / MIB:.0f} GiB" if total else ""
    return f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores{memory}"


@cache
def versions() -> dict[str, str]:
    """Return the versions that the numbers depend on."""
    names = ("numpy", "torch", "flwr", "scorequilt")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}


def available_memory() -> float:
    """Return the bytes that can be had without swapping; infinity where the system does not say."""
    found = re.search(r"MemAvailable:\s*(\d+)", _proc("meminfo"))
    return int(found[1]) * 1024 if found else float("inf")


def _proc(name: str) -> str:
    path = Path("/proc", name)
    return path.read_text() if path.exists() else ""
