"""`python -m benchmarks.folder`: a large folder of pictures, from the disk to the first batch.

Each number is of a process of its own: *cold* with an empty cache, *warm* after that, *grown* with
ten new files. Seconds run from after the imports to the first batch of 64. Memory is what a process
has in no file, beyond what it had after the imports (on Linux); what it has mapped of the cache's
file is shared by all and can be dropped by the system at any time. The server's is that of its
evaluator, before and after the report at a run's end. The system's own cache of the disk is warm.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from benchmarks.harness import Result
from simulations.planning.measure import MIB

SHAPE = 3, 64, 64
CLASSES = 10

CLIENT = """
import json, sys, time
import numpy as np, torch
from client.batches import draw_batch
from common.config import RunConfig
from common.data import load_partition
import common.diffusion, PIL.Image, PIL.ImageOps, PIL.JpegImagePlugin
def own():
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
before, started = own(), time.perf_counter()
config = RunConfig(data="folder:" + sys.argv[1], image_shape=sys.argv[2])
data = load_partition(config.data, "iid", 0.5, 8, 0, 0, config.shape)
generator = torch.Generator()
rng = np.random.default_rng(0)
draw_batch(data, config, rng, generator)
seconds = time.perf_counter() - started
for _ in range(200):
    draw_batch(data, config, rng, generator)
print(json.dumps({"seconds": seconds, "bytes": own() - before, "images": len(data)}))
"""

SERVER = """
import json, sys, time
import torch
from common.config import RunConfig
from server.setting import prepare
from server.evaluation.build import evaluator_for
from server.evaluation.full import full_report
def own():
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
before, started = own(), time.perf_counter()
config = RunConfig(data="folder:" + sys.argv[1], image_shape=sys.argv[2])
setting = prepare(config)
evaluator = evaluator_for(config, setting.splits)
seconds, held = time.perf_counter() - started, own() - before
full_report(evaluator, evaluator.noise.clamp(-1, 1))
print(json.dumps({
    "seconds": seconds, "bytes": held, "after": own() - before,
    "images": len(setting.splits.train),
}))
"""


def make_pictures(folder: Path, first: int, count: int) -> None:
    """Write JPEG files of 96 x 80 pixels, coarse noise in colour, shared out to ten classes."""
    for i in range(first, first + count):
        rng = np.random.default_rng(i)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8))
        place = folder / f"class-{i % CLASSES}"
        place.mkdir(exist_ok=True)
        coarse.resize((96, 80), Image.Resampling.BILINEAR).save(place / f"{i:07}.jpg")


def measured(script: str, folder: Path, cache: Path) -> dict[str, float]:
    """Return what a script prints about a folder, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), "x".join(map(str, SHAPE))],
        env={**os.environ, "SCOREQUILT_CACHE": str(cache), "SCOREQUILT_CACHE_LIMIT": "0"},
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return dict(json.loads(done.stdout))


def run(count: int, server: bool) -> Iterator[Result]:
    """Measure a folder of so many files."""
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name) / "pictures", Path(name) / "cache"
        folder.mkdir()
        make_pictures(folder, 0, count)
        size = count * int(np.prod(SHAPE))
        yield Result("folder", "pictures", "files", count)
        yield Result("folder", "pictures", "as_numbers", 4 * size / MIB, "MiB")
        yield Result("folder", "pictures", "stored", size / MIB, "MiB")
        for case in ("cold", "warm", "grown"):
            if case == "grown":
                make_pictures(folder, count, 10)
            found = measured(CLIENT, folder, cache)
            yield Result("folder", f"client, {case}", "seconds", found["seconds"], "s")
            yield Result("folder", f"client, {case}", "memory", found["bytes"] / MIB, "MiB")
        for case in ("cold", "warm") if server else ():
            found = measured(SERVER, folder, cache)
            yield Result("folder", f"server, {case}", "seconds", found["seconds"], "s")
            yield Result("folder", f"server, {case}", "memory", found["bytes"] / MIB, "MiB")
            yield Result("folder", f"server, {case}", "with_report", found["after"] / MIB, "MiB")


def main(
    count: Annotated[int, typer.Option(help="Files.")] = 100_000,
    server: Annotated[bool, typer.Option(help="Also the server's evaluator.")] = True,
) -> None:
    """Print one JSON object per line."""
    for result in run(count, server):
        print(json.dumps(result.as_json()), flush=True)


if __name__ == "__main__":
    typer.run(main)
