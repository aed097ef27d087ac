"""What an installation has, what it can do with it, and what of its surroundings is in the way."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common.cache import cache_dir
from simulations import about
from simulations.engine.home import PROXIES

USES = {
    "flwr": "everything",
    "torch": "training and sampling",
    "numba": "a server's loops: run, serve",
    "scipy": "a server's distances: run, serve, evaluate",
    "torchmetrics": "a server's distances: run, serve, evaluate",
    "scikit-learn": "the data sets digits and patches",
    "ray": "simulation: run",
    "matplotlib": "pictures: plot, run",
    "dp-accounting": "differential privacy (privacy)",
    "datasets": "data sets of Hugging Face (hf)",
    "pydicom": "DICOM files (dicom)",
    "pillow-heif": "HEIC pictures (heif)",
}
"""What each package is for that an installation may be without."""

REMARKS = {
    **dict.fromkeys(PROXIES, "a simulation ignores it; join and submit go through it"),
    "pythonpath": "modules there come before installed ones, but not before ours",
    "omp_num_threads": "a simulation sets its own, the key threads",
    "flwr_home": "a simulation has its own",
    "ray_address": "a simulation has its own",
    "cuda_visible_devices": "hides GPUs",
    "scorequilt_cache": "where prepared data are kept",
    "scorequilt_cache_limit": "how much of it",
}
"""What variables do to us that people have set for other reasons, by their names in lower case."""

PROGRAMS = ("flwr", "flower-superlink", "flower-supernode", "ray")


def report(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what there is to say, as headings with remarks.

    Args:
        environment: The variables of this process.
    """
    yield "scorequilt", f"{about.version()} in {about.PROJECT}"
    yield "python", f"{platform.python_version()} at {sys.executable}"
    for name, use in USES.items():
        yield name, _installed(name) or f"not installed; for {use}"
    beside = str(Path(sys.executable).parent)
    path = os.pathsep.join([beside, environment.get("PATH", "")])
    for name in PROGRAMS:
        yield f"program {name}", shutil.which(name, path=path) or "not found beside this Python"
    able = _installed("ray") and _installed("numba")
    yield "engine", "Flower with Ray" if able else "none: this installation cannot simulate"
    yield "devices", _devices()
    yield "cache", _writable(cache_dir())
    yield "home", _writable(Path.home())
    for name, value in sorted(environment.items()):
        if remark := REMARKS.get(name.lower()):
            shown = re.sub(r"//[^/@]*@", "//…@", value)  # a proxy's password is nobody's business
            yield f"${name}", f"{shown}: {remark}"


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> str:
    """Return what training can run on, as PyTorch sees it."""
    threads = f"{os.cpu_count()} processors"
    if _installed("torch") is None:
        return threads
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join([threads, *(names or ["no GPU"])])


def _writable(folder: Path) -> str:
    """Return a folder, and whether one can write there, or into the nearest that is there."""
    nearest = next(each for each in (folder, *folder.parents) if each.exists())
    able = nearest.is_dir() and os.access(nearest, os.W_OK)
    return f"{folder}{'' if able else ': cannot be written to'}"
