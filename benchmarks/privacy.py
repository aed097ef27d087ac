"""Distance against ε: digits on 40 clients, ten a round, for several noise multipliers.

    python -m benchmarks.privacy RESULTS.jsonl --seeds 3 --jobs 2 --figure privacy.png
    python -m benchmarks.privacy RESULTS.jsonl --seeds 0 --figure privacy.png

Every run is the product's own federation with its clients in one process. Results are appended as
they come in, and runs that are there already are left out, so it can be stopped and started again.
The noise is drawn from a key of each run's own, so a run that is done again comes out differently.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import typer
from matplotlib.figure import Figure

from common.config import RunConfig
from simulations.pictures.style import save_figure, styled

BASE: dict[str, Any] = {
    "fleet": "1x10 1/2x15 1/4x15",
    "clients-per-round": 10,
    "weighting": "uniform",
    "local-steps": 30,
    "batch-size": 32,
    # Noise grows with the square root of the number of weights: a small model fares better.
    "model.widths": "8,16",
    "model.groups": 2,
}


class Job(NamedTuple):
    """One run: its noise, where 0 is a run without privacy, and all else that differs."""

    noise: float
    clip: float
    rounds: int
    seed: int

    def config(self) -> RunConfig:
        """Return the run's configuration."""
        changes = {
            "privacy.noise-multiplier": self.noise,
            "privacy.clip": self.clip,
            "rounds": self.rounds,
            "evaluate-every": max(1, self.rounds // 6),
            "seed": self.seed,
        }
        return RunConfig.from_flat(RunConfig().to_flat() | BASE | changes)


def jobs(noises: list[float], clip: float, rounds: int, seeds: int) -> Iterator[Job]:
    """Yield every run, all noises of a seed before the next seed."""
    for seed in range(seeds):
        yield from (Job(noise, clip, rounds, seed) for noise in noises)


def run(job: Job) -> dict[str, Any]:
    """Train and judge one federation; return distances in per cent of pure noise's."""
    import logging

    from server.record.history import read_rows
    from simulations.engine.inline import run_inline

    logging.getLogger("flwr").setLevel(logging.ERROR)
    started, config = time.perf_counter(), job.config()
    with tempfile.TemporaryDirectory() as folder:
        run_inline(config, Path(folder))
        summary = json.loads((Path(folder) / "summary.json").read_text())
        rows = read_rows(Path(folder) / "history.jsonl")
    scored = [row for row in rows if row["frechet_ema"] is not None]
    return {
        **job._asdict(),
        "rounds_scored": [row["round"] for row in scored],
        "epsilon": [row["epsilon"] for row in scored],
        "percent": [100 * row["frechet_ema"] / summary["frechet_noise"] for row in scored],
        "seconds": time.perf_counter() - started,
    }


def table(results: list[dict[str, Any]]) -> str:
    """Return where runs end as Markdown: ε, and per cent of pure noise's distance."""
    lines = [
        "| noise multiplier | clip | rounds | ε | distance | best round's | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for noise, clip, rounds in sorted({(r["noise"], r["clip"], r["rounds"]) for r in results}):
        found = [
            r for r in results if (r["noise"], r["clip"], r["rounds"]) == (noise, clip, rounds)
        ]
        spent = found[0]["epsilon"][-1]
        cells = [
            f"{noise:g}",
            f"{clip:g}" if noise else "none",
            str(rounds),
            "∞" if spent is None else f"{spent:.3g}",
            _spread([r["percent"][-1] for r in found]),
            _spread([min(r["percent"]) for r in found]),
            str(len(found)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@styled
def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw every run's distance against its ε; one without noise is a line across."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    kinds = sorted({(r["noise"], r["clip"]) for r in results})
    for number, (noise, clip) in enumerate(kinds):
        for each in (r for r in results if (r["noise"], r["clip"]) == (noise, clip)):
            label = f"z = {noise:g}, C = {clip:g}" if noise else "without privacy"
            label = "_" if label in axes.get_legend_handles_labels()[1] else label
            if noise:
                axes.plot(each["epsilon"], each["percent"], "-o", ms=3, c=f"C{number}", label=label)
            else:
                axes.axhline(each["percent"][-1], c=f"C{number}", lw=1, label=label)
    axes.axhline(100, color="0.5", lw=1, ls="-.", label="pure noise")
    axes.set(xlabel="ε", ylabel="Fréchet distance, % of pure noise", yscale="log")
    axes.set_xscale("symlog")
    axes.set_xlim(left=0)
    axes.legend(fontsize=8)
    save_figure(figure, path)


def _spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def main(
    results: Annotated[Path, typer.Argument(help="Where results are, one JSON object a line.")],
    seeds: Annotated[int, typer.Option(help="Seeds of every run; 0 runs nothing.")] = 3,
    workers: Annotated[int, typer.Option("--jobs", help="Runs at once, a thread each.")] = 2,
    rounds: Annotated[int, typer.Option(help="Of every run.")] = 60,
    clip: Annotated[float, typer.Option(help="privacy.clip.")] = 0.1,
    noise: Annotated[str, typer.Option(help="Noise multipliers, with commas.")] = "0,0.3,1",
    figure: Annotated[Path | None, typer.Option(help="A PNG file to draw.")] = None,
) -> None:
    """Train with several noise multipliers, and say how good samples are at which ε."""
    done = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    known = {Job(r["noise"], r["clip"], r["rounds"], r["seed"]) for r in done}
    noises = [float(text) for text in noise.split(",")]
    waiting = [job for job in jobs(noises, clip, rounds, seeds) if job not in known]
    with ProcessPoolExecutor(workers) as pool, results.open("a") as file:
        for future in as_completed([pool.submit(run, job) for job in waiting]):
            done.append(future.result())
            file.write(json.dumps(done[-1]) + "\n")
            file.flush()
            typer.echo(f"{len(done)} of {len(known) + len(waiting)}: {done[-1]}", err=True)
    typer.echo(table(done))
    if figure:
        draw(done, figure)


if __name__ == "__main__":
    typer.run(main)
