"""Fréchet distance against network evaluations, for our samplers and diffusers' on one model.

`python -m benchmarks.samplers RUN --json` takes a finished run's averaged weights at full width and
its own noise and classifier. A case is a sampler on the run's grid, or on another (`heun/log-snr`).
Its value in few evaluations is compared with its own in `--reference`; diffusers' schedulers work
on the exported weights with the exported schedule. Rows appear as they are measured.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from common.config import RunConfig
from common.diffusion import DELTA, GRIDS, SAMPLERS, Denoiser, for_sampling, sample
from common.seeding import SERVER, rng_for, torch_generator
from server.evaluation.build import evaluator_for
from server.evaluation.evaluator import Evaluator
from server.pretrained.folder import export_pipeline
from simulations.archive.record import RunRecord, read_run

BATCH = 256
"""Images that a network is asked for at once, as for networks of this size in the program."""

BUDGETS = (5, 8, 10, 12, 15, 20, 50)
CLOSE = 0.05
FROM_ABOVE = f"evaluations_at_most_{CLOSE:.0%}_above"
EITHER_WAY = f"evaluations_within_{CLOSE:.0%}"
OURS = [*SAMPLERS, "exponential/kappa"]
DIFFUSERS: dict[str, tuple[str, dict[str, Any]]] = {
    "diffusers DDIM": ("DDIMScheduler", {}),
    "diffusers DPM-Solver++": ("DPMSolverMultistepScheduler", {}),
    # Its largest value is 1 unless told otherwise, so that this clips as the others do.
    "diffusers DPM-Solver++ clipped": ("DPMSolverMultistepScheduler", {"thresholding": True}),
    "diffusers DPM-Solver++ Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
}
"""Scheduler and what is set differently from the exported configuration and diffusers' defaults."""


class Case(NamedTuple):
    """A sampler as it is measured.

    Attributes:
        draw: From a number of steps to images.
        steps_for: From a budget of evaluations to steps.
        evaluations: From steps to the evaluations that each image takes.
    """

    draw: Callable[[int], Tensor]
    steps_for: Callable[[int], int]
    evaluations: Callable[[int], int]


def measure(
    run_dir: Path,
    samples: int,
    reference: int,
    budgets: tuple[int, ...],
    names: list[str],
    clip: bool = True,
) -> Iterator[dict[str, Any]]:
    """Yield a row for each case and budget.

    Args:
        run_dir: The run directory.
        samples: Images of a Fréchet distance.
        reference: Evaluations of the long run, at least as many as any budget.
        budgets: Evaluations.
        names: Of cases, among `OURS`, ``SAMPLER/GRID`` and `DIFFUSERS`.
        clip: Whether our samplers clip the predicted image, if the run's evaluation does.
    """
    run = read_run(run_dir)
    changes = {"samples": samples, "clip": clip and run.config.evaluation.clip}
    evaluation = run.config.evaluation.model_copy(update=changes)
    config = run.config.model_copy(update={"evaluation": evaluation})
    evaluator = evaluator_for(config, run.setting.splits)
    theta, _ = run.averaged(run.state(), Fraction(1))
    denoiser = for_sampling(run.setting.denoiser(theta), clip=evaluation.clip)
    with TemporaryDirectory() as folder:
        for name in names:
            if name in DIFFUSERS:
                case = _theirs(*DIFFUSERS[name], run, evaluator, Path(folder) / "model")
            else:
                case = _ours(name, denoiser, evaluator, config)
            yield from _rows(name, case, sorted({*budgets, reference}), evaluator)


def _rows(
    name: str, case: Case, budgets: Sequence[int], evaluator: Evaluator
) -> Iterator[dict[str, Any]]:
    for budget in budgets:
        steps = case.steps_for(budget)
        used = case.evaluations(steps)
        started = time.perf_counter()
        row = {"budget": budget, "evaluations": used, "steps": steps}
        try:
            images = case.draw(steps)
        except IndexError as error:  # diffusers' Karras sigmas beyond some number of steps
            yield _row(name, "frechet", math.nan, **row, error=f"IndexError: {error}")
            continue
        value = evaluator.frechet(images.clamp(-1, 1))
        seconds = round(time.perf_counter() - started, 2)
        yield _row(name, "frechet", value, **row, samples=len(images), seconds=seconds)


def closeness(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield from how many evaluations on each case is close to its own longest run.

    Args:
        rows: Those of `measure`, at one time or several.
    """
    measured: dict[str, dict[int, Any]] = {}
    for row in rows:
        if row["metric"] == "frechet":
            measured.setdefault(row["case"], {})[row["evaluations"]] = row["value"]
    for name, values in measured.items():
        last = max(values)
        long = math.nan if values[last] is None else values[last]
        found = {used: value for used, value in values.items() if value is not None}
        high, low = ((1 + sign * CLOSE) * long for sign in (1, -1))
        yield _row(name, FROM_ABOVE, _close_from(found, -math.inf, high), reference=last)
        yield _row(name, EITHER_WAY, _close_from(found, low, high), reference=last)


def _close_from(measured: dict[int, float], low: float, high: float) -> float:
    """Return the evaluations from which on all are close, so that a lucky one does not count."""
    close = math.nan
    for used in sorted(measured, reverse=True):
        if not low <= measured[used] <= high:
            break
        close = used
    return close


def _ours(name: str, denoiser: Denoiser, evaluator: Evaluator, config: RunConfig) -> Case:
    sampler, _, grid = name.partition("/")
    times = GRIDS[grid or config.evaluation.grid]

    def draw(steps: int) -> Tensor:
        generator = torch_generator(rng_for(config.seed, 0, SERVER, "evaluation-sampler"))
        grid = times(evaluator.clock, steps, DELTA)
        return sample(sampler, denoiser, grid, evaluator.noise, generator, BATCH)

    return Case(draw, SAMPLERS[sampler].steps_for, SAMPLERS[sampler].evaluations)


def _theirs(
    name: str, options: dict[str, Any], run: RunRecord, evaluator: Evaluator, folder: Path
) -> Case:
    import diffusers

    channels, height, width = run.setting.image_shape
    size = height if height == width else (height, width)
    theta, _ = run.averaged(run.state(), Fraction(1))
    export_pipeline(folder, run.config, theta, channels, size)
    pipeline = diffusers.DDPMPipeline.from_pretrained(folder)
    scheduler_class = getattr(diffusers, name)

    @torch.no_grad()
    def draw(steps: int) -> Tensor:
        scheduler = scheduler_class.from_config(pipeline.scheduler.config, **options)
        scheduler.set_timesteps(steps)
        x = evaluator.noise * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            output = torch.cat([pipeline.unet(part, t).sample for part in x.split(BATCH)])
            x = scheduler.step(output, t, x).prev_sample
        return x

    return Case(draw, steps_for=lambda budget: budget, evaluations=lambda steps: steps)


def _row(case: str, metric: str, value: float, **more: Any) -> dict[str, Any]:
    finite = value if math.isfinite(value) else None
    return {"benchmark": "samplers", "case": case, "metric": metric, "value": finite, **more}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table: a line for each case, a column for each budget."""
    rows = rows + list(closeness(rows))
    budgets = sorted({row["budget"] for row in rows if "budget" in row})
    heads = ["evaluations, at most", *map(str, budgets), "at most 5 % above", "within 5 %"]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for case in dict.fromkeys(row["case"] for row in rows):
        found = {row.get("budget", row["metric"]): row for row in rows if row["case"] == case}
        cells = [_cell(found.get(column, {})) for column in (*budgets, FROM_ABOVE, EITHER_WAY)]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    if not row:
        return ""
    if "error" in row:
        return str(row["error"]).partition(":")[0]
    value = row.get("value")
    return "never" if value is None else f"{value:.4g}"


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
    parser.add_argument("--reference", type=int, default=500, help="evaluations of the long run")
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)))
    parser.add_argument("--cases", default=",".join([*OURS, *DIFFUSERS]))
    parser.add_argument("--no-clip", action="store_true", help="do not clip predicted images")
    parser.add_argument("--rows", type=Path, nargs="*", help="draw these lines, measure nothing")
    parser.add_argument("--figure", type=Path, help="a PNG file to draw")
    given = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    if given.rows:
        lines = [line for path in given.rows for line in path.read_text().splitlines()]
        rows = [row for row in map(json.loads, lines) if row["metric"] == "frechet"]
    else:
        budgets = tuple(map(int, given.budgets.split(",")))
        names = given.cases.split(",")
        clip = not given.no_clip
        for row in measure(given.run, given.samples, given.reference, budgets, names, clip):
            rows.append(row)
            if given.json:
                print(json.dumps(row), flush=True)
    if given.json:
        print(*map(json.dumps, closeness(rows)), sep="\n")
    else:
        print(table(rows))
    if given.figure:
        draw_figure(rows, given.figure)


if __name__ == "__main__":
    main()
