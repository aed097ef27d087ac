"""Is the exported model the one that was trained? Its samples by diffusers, beside ours.

`python -m benchmarks.exported RUN --json` exports a run as `scorequilt export` does and samples
from the folder in a separate process that has only diffusers, through `DDPMPipeline` as a user
would (noise of its own) and through `DDIMPipeline`, whose only randomness, the first noise, is
given to our sampler as well. Both sides are scored by the run's classifier.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Result
from common.diffusion import CLOCKS, Denoiser, Grid, clock_grid, for_sampling, sample
from server.evaluation.build import evaluator_for
from server.evaluation.evaluator import Evaluator
from server.pretrained.folder import import_pipeline
from server.pretrained.options import TIMESTEPS
from simulations.archive.record import read_run
from simulations.results.export import export_run

BATCH = 256
"""Images that a network is asked for at once, as for networks of this size in the program."""

PIPELINES = {"DDPMPipeline": "ancestral", "DDIMPipeline": "ddim"}
"""What is opened, and our sampler that computes the same."""
CHUNKS = 4
SEED = 7


def measure(run_dir: Path, samples: int, evaluations: int) -> Iterator[Result]:
    """Yield whether the weights came back, and for each pipeline both distances.

    `frechet_noise` is a rough standard error of the difference, from how distances of `CHUNKS`
    parts scatter. Those of few images scatter more than in proportion, so that it reads high.

    Args:
        run_dir: The run directory.
        samples: Images of each side, a multiple of `CHUNKS`.
        evaluations: Network evaluations per image, at least 2. It must divide the model's 1000
            timesteps, or diffusers takes the step between two of them to be of another length.

    Raises:
        ValueError: It does not.
    """
    if TIMESTEPS % evaluations:
        raise ValueError(f"{evaluations} evaluations do not divide {TIMESTEPS} timesteps")
    run = read_run(run_dir)
    evaluator = evaluator_for(run.config, run.setting.splits)
    theta, _ = run.averaged(run.state("last"), Fraction(1))
    with TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        export_run(run_dir, model, "last", "1")
        same = import_pipeline(model).theta.tobytes() == theta.tobytes()
        yield Result("exported", "weights", "come back bit for bit", float(same))

        shape = (samples, *run.setting.image_shape)
        denoiser = for_sampling(run.setting.denoiser(theta), clip=True)
        clock = CLOCKS[run.config.clock]
        # diffusers' "trailing" timesteps, of which the last step goes to time 0.
        grid = clock_grid(clock, evaluations - 1, clock.t_of_u(1 / evaluations))
        draw_in_diffusers(model, samples, evaluations, Path(folder))
        for pipeline, sampler in PIPELINES.items():
            ours = _draw(sampler, denoiser, grid, shape)
            theirs = torch.from_numpy(np.load(Path(folder) / f"{pipeline}.npy"))
            yield from _compare(pipeline, ours, theirs, evaluator)


def draw_in_diffusers(model: Path, count: int, evaluations: int, out: Path) -> None:
    """Have a process without our code draw from a folder; it writes out/PIPELINE.npy."""
    script = Path(__file__).with_name("open_exported.py")
    # -I leaves the environment's paths and the working directory out of where modules come from.
    command = [sys.executable, "-I", script, model, count, evaluations, SEED, out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"diffusers failed on {model}:\n{done.stderr}")


def _draw(sampler: str, denoiser: Denoiser, grid: Grid, shape: tuple[int, ...]) -> Tensor:
    """Return images drawn batch by batch from the script's seeds: its first noise is ours."""
    parts = []
    for i, part in enumerate(torch.empty(shape).split(BATCH)):
        generator = torch.Generator().manual_seed(SEED + i)
        noise = torch.randn(part.shape, generator=generator)
        parts.append(sample(sampler, denoiser, grid, noise, generator))
    return torch.cat(parts).clamp(-1, 1)


def _compare(case: str, ours: Tensor, theirs: Tensor, evaluator: Evaluator) -> Iterator[Result]:
    distances = [evaluator.frechet(images) for images in (ours, theirs)]
    errors = [_standard_error(images, evaluator) for images in (ours, theirs)]
    values = {
        "frechet_ours": distances[0],
        "frechet_diffusers": distances[1],
        "ratio": distances[1] / distances[0],
        "frechet_noise": math.hypot(*errors),
        "largest_pixel_difference": float((ours - theirs).abs().max()),
    }
    for metric, value in values.items():
        yield Result("exported", case, metric, value)


def _standard_error(images: Tensor, evaluator: Evaluator) -> float:
    parts = [evaluator.frechet(part) for part in images.chunk(CHUNKS)]
    return float(np.std(parts, ddof=1)) / CHUNKS**0.5


def main(arguments: list[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(prog="benchmarks exported", description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--json", action="store_true", help="a JSON object per line")
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--evaluations", type=int, default=20)
    given = parser.parse_args(arguments)
    for result in measure(given.run, given.samples, given.evaluations):
        line = f"{result.case:<14} {result.metric:<26} {result.value:.5g}"
        print(json.dumps(result.as_json()) if given.json else line, flush=True)


if __name__ == "__main__":
    main()
