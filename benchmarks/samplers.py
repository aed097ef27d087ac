"""Fréchet distance against network evaluations, for our samplers and diffusers' on one model.

`python -m benchmarks.samplers RUN --json` takes a finished run's averaged weights at full width and
its own noise, grid and classifier. Each sampler's value in few evaluations is compared with its own
in `--reference` steps; diffusers' schedulers work on the exported weights with the exported
schedule. Rows appear as they are measured.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from common.config import RunConfig
from common.data import load_dataset
from common.denoising import clipped, submodel_denoiser
from common.diffusers_format import export_pipeline
from common.process import DELTA, GRIDS, Denoiser
from common.samplers import SAMPLERS, sample
from common.seeding import SERVER, rng_for, torch_generator
from common.submodel import full_submodel
from server.evaluation import Evaluator
from server.recorder import evaluator_for
from simulations.products import TrainedRun, averaged_weights, parse_rate, read_trained_run

BUDGETS = (4, 6, 8, 10, 12, 15, 20, 30, 50)
CLOSE = 0.05
DIFFUSERS: dict[str, tuple[str, dict[str, Any]]] = {
    "diffusers DDIM": ("DDIMScheduler", {}),
    "diffusers DPM-Solver++": ("DPMSolverMultistepScheduler", {}),
    "diffusers DPM-Solver++ Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
}
"""Scheduler and what is set differently from the exported configuration and diffusers' defaults."""

Draw = Callable[[int], tuple[Tensor, int]]
"""From a number of steps to images and the evaluations that each of them took."""


def measure(
    run_dir: Path, samples: int, reference: int, budgets: tuple[int, ...], cases: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each sampler and budget, then how many evaluations came close enough."""
    run = read_trained_run(run_dir)
    evaluation = run.config.evaluation.model_copy(update={"samples": samples})
    config = run.config.model_copy(update={"evaluation": evaluation})
    evaluator = evaluator_for(config, load_dataset(config.data, config.shape))
    theta, _ = averaged_weights(run, parse_rate("1"))
    channels = run.train.image_shape[0]
    denoiser = submodel_denoiser(config, theta, full_submodel(run.layout), channels)
    denoiser = clipped(denoiser) if evaluation.clip else denoiser
    with TemporaryDirectory() as folder:
        for case in cases:
            if case in SAMPLERS:
                draw = _ours(case, denoiser, evaluator, config)
                steps = {SAMPLERS[case].steps_for(budget) for budget in budgets}
            else:
                draw = _theirs(*DIFFUSERS[case], run, evaluator, Path(folder) / "model")
                steps = set(budgets)
            yield from _case(case, draw, sorted(steps), reference, evaluator)


def _case(
    case: str, draw: Draw, steps: list[int], reference: int, evaluator: Evaluator
) -> Iterator[dict[str, Any]]:
    measured: dict[int, float] = {}
    for count in [*steps, reference]:
        started = time.perf_counter()
        images, used = draw(count)
        value = evaluator.frechet(images.clamp(-1, 1))
        measured[used] = value
        yield _row(
            case, "frechet", value, evaluations=used, steps=count, samples=len(images),
            seconds=round(time.perf_counter() - started, 2),
        )  # fmt: skip
    # From there on, so that a lucky one does not count. Below the long run's value is no fault.
    best, close = value, math.nan
    for used in sorted(measured, reverse=True):
        if not measured[used] <= (1 + CLOSE) * best:
            break
        close = used
    yield _row(case, f"evaluations_within_{CLOSE:.0%}_of_{reference}_steps", close)


def _ours(name: str, denoiser: Denoiser, evaluator: Evaluator, config: RunConfig) -> Draw:
    def draw(steps: int) -> tuple[Tensor, int]:
        grid = GRIDS[config.evaluation.grid](evaluator.clock, steps, DELTA)
        generator = torch_generator(rng_for(config.seed, 0, SERVER, "evaluation-sampler"))
        images = sample(name, denoiser, grid, evaluator.noise, generator)
        return images, SAMPLERS[name].evaluations(steps)

    return draw


def _theirs(
    name: str, options: dict[str, Any], run: TrainedRun, evaluator: Evaluator, folder: Path
) -> Draw:
    import diffusers

    channels, height, width = run.train.image_shape
    size = height if height == width else (height, width)
    theta, _ = averaged_weights(run, parse_rate("1"))
    export_pipeline(folder, run.config, theta, channels, size)
    pipeline = diffusers.DDPMPipeline.from_pretrained(folder)
    scheduler_class = getattr(diffusers, name)

    @torch.no_grad()
    def draw(steps: int) -> tuple[Tensor, int]:
        scheduler = scheduler_class.from_config(pipeline.scheduler.config, **options)
        scheduler.set_timesteps(steps)
        x = evaluator.noise * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            x = scheduler.step(pipeline.unet(x, t).sample, t, x).prev_sample
        return x, len(scheduler.timesteps)

    return draw


def _row(case: str, metric: str, value: float, **more: Any) -> dict[str, Any]:
    finite = value if math.isfinite(value) else None
    return {"benchmark": "samplers", "case": case, "metric": metric, "value": finite, **more}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table: a line for each sampler, a column for each budget."""
    distances = [row for row in rows if row["metric"] == "frechet" and row["value"] is not None]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    lines = ["| sampler | Fréchet distance (evaluations) | within 5 % from |", "|---|---|---|"]
    for case in cases:
        ours = [row for row in distances if row["case"] == case]
        values = ", ".join(f"{row['value']:.2f} ({row['evaluations']})" for row in ours)
        close = [r["value"] for r in rows if r["case"] == case and r["metric"] != "frechet"]
        lines.append(f"| {case} | {values} | {close[0] if close else ''} |")
    return "\n".join(lines)


def draw_figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw each sampler's distance against evaluations; diffusers' are dashed."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    distances = [row for row in rows if row["metric"] == "frechet" and row["value"] is not None]
    for case in dict.fromkeys(row["case"] for row in distances):
        ours = [(row["evaluations"], row["value"]) for row in distances if row["case"] == case]
        style = "--s" if case in DIFFUSERS else "-o"
        axes.plot(*zip(*ours, strict=True), style, ms=4, label=case)
    axes.set(xscale="log", yscale="log", xlabel="network evaluations per image")
    axes.set_ylabel("Fréchet classifier distance")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> None:
    """Measure what the command line asks for, or draw what has been measured."""
    parser = argparse.ArgumentParser(prog="benchmarks samplers", description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--json", action="store_true", help="a JSON object per line")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--reference", type=int, default=500, help="steps of the long run")
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)))
    parser.add_argument("--cases", default=",".join([*SAMPLERS, *DIFFUSERS]))
    parser.add_argument("--rows", type=Path, nargs="*", help="draw these lines, measure nothing")
    parser.add_argument("--figure", type=Path, help="a PNG file to draw")
    given = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    if given.rows:
        rows = [json.loads(line) for path in given.rows for line in path.read_text().splitlines()]
    else:
        budgets = tuple(map(int, given.budgets.split(",")))
        cases = given.cases.split(",")
        for row in measure(given.run, given.samples, given.reference, budgets, cases):
            rows.append(row)
            if given.json:
                print(json.dumps(row), flush=True)
    if not given.json:
        print(table(rows))
    if given.figure:
        draw_figure(rows, given.figure)


if __name__ == "__main__":
    main()
