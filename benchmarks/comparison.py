"""Fréchet distance of every policy, and of what one would do without any, over fleets and seeds.

    python -m benchmarks.comparison RESULTS.jsonl --seeds 3 --jobs 2
    python -m benchmarks.comparison RESULTS.jsonl --table

Every run is the product's own federation with its clients in one process. Results are appended as
they come in, and runs that are there already are left out, so it can be stopped and started again.
"""

import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import typer

from common.config import RunConfig

Keys = dict[str, Any]

BASE: Keys = {
    **{"rounds": 10, "local-steps": 30, "batch-size": 32, "evaluate-every": 10**6},
    "replay.mode": "off",
}
"""Shorter than the default job, so that a hundred runs take an hour or two."""

OTHERS = ("random", "ordered", "magnitude", "covering", "core+rolling")
"""Policies of channels besides `static`, `rolling` and `balanced`."""

STRONG: Keys = {"local-widths": "sandwich", "rates.several-widths": 1}
"""The sandwich rule on clients that hold the full model: the default."""

WITHOUT, REPLAY = "sandwich by the strong", "the same with replay"

ROWS: dict[str, Keys] = {
    "dense": {"policy": "full", "local-widths": "own"},
    "strong-only": {"participants": "full", "local-widths": "own"},
    "strong-only, sandwich": {"participants": "full", **STRONG},
    "shrink": {"fleet": "1/4x8"},
    "dense, 13 steps": {"policy": "full", "local-widths": "own", "local-steps": 13},
    "dense, 14 steps": {"policy": "full", "local-widths": "own", "local-steps": 14},
    "strong-only, 53 steps": {"participants": "full", "local-widths": "own", "local-steps": 53},
    "strong-only, 56 steps": {"participants": "full", "local-widths": "own", "local-steps": 56},
    "static": {"local-widths": "own"},
    "sandwich": {"local-widths": "sandwich", "rates.several-widths": 0},
    WITHOUT: STRONG,
    REPLAY: STRONG | {"replay.mode": "on", "evaluate-every": 1},
    "rolling, sandwich by the strong": {"policy": "rolling", **STRONG},
    "balanced, sandwich by the strong": {"policy": "balanced", **STRONG},
    **{
        policy: {"policy": policy, "local-widths": "own"}
        for policy in ("rolling", "balanced", *OTHERS, "element-magnitude")
    },
}
"""What a fleet may do: baselines, ways of training static submodels, and the other policies."""


class Setting(NamedTuple):
    """A fleet with its data: what is run there for every seed first, and what after that."""

    keys: Keys
    first: Sequence[str]
    then: Sequence[str]


BASELINES = ("dense", "strong-only", "static", WITHOUT, REPLAY)

SETTINGS = {
    "mixed fleet, IID": Setting(
        {},
        (*BASELINES, "rolling", "balanced", "strong-only, sandwich"),
        (
            "shrink",
            *OTHERS,
            "sandwich",
            "element-magnitude",
        ),
    ),
    # A round of "sandwich by the strong" costs 3.56 steps of the full model, 30 times over; dense
    # takes 8 and strong-only 2 (`scorequilt cost`: 1, 0.25 and 0.063 by rate).
    "mixed fleet, IID, at equal FLOPs": Setting(
        {}, ("strong-only, 53 steps", "dense, 13 steps"), ()
    ),
    # If a weak device is four times slower, it waits for a half-width step of 4 x 0.47 full ones.
    "mixed fleet, IID, at equal time": Setting(
        {}, ("strong-only, 56 steps", "dense, 14 steps"), ()
    ),
    "all-half fleet, IID": Setting({"fleet": "1/2x8"}, ("static", "rolling", "balanced"), OTHERS),
    "mixed fleet, disjoint classes": Setting(
        {"partition": "classes"},
        (*BASELINES, "rolling", "balanced"),
        ("strong-only, sandwich", "rolling, sandwich by the strong", "shrink"),
    ),
    "mixed fleet, Dirichlet 0.1": Setting(
        {"partition": "dirichlet", "partition-alpha": 0.1},
        BASELINES,
        ("rolling", "balanced", "shrink"),
    ),
    # Here the half width has learned something before the last round.
    **{
        f"{name}, 16 rounds of 60 steps": Setting(
            {"rounds": 16, "local-steps": 60, **keys},
            (WITHOUT, REPLAY),
            ("dense", "strong-only"),
        )
        for name, keys in (
            ("mixed fleet, IID", {}),
            ("mixed fleet, disjoint classes", {"partition": "classes"}),
            ("mixed fleet, Dirichlet 0.1", {"partition": "dirichlet", "partition-alpha": 0.1}),
        )
    },
}


class Job(NamedTuple):
    """One run of the comparison."""

    setting: str
    row: str
    seed: int

    def config(self) -> RunConfig:
        """Return the run's configuration."""
        flat = BASE | SETTINGS[self.setting].keys | ROWS[self.row] | {"seed": self.seed}
        return RunConfig.from_flat(RunConfig().to_flat() | flat)


def jobs(seeds: int) -> Iterator[Job]:
    """Yield every run, the most telling first."""
    for stage in ("first", "then"):
        for seed in range(seeds):
            for name, setting in SETTINGS.items():
                yield from (Job(name, row, seed) for row in getattr(setting, stage))


def run(job: Job) -> Keys:
    """Train and judge one federation; return its result as it is written."""
    return {**job._asdict(), **federated(job.config())}


def federated(config: RunConfig) -> Keys:
    """Train and judge one federation in this process; return what it came to and what it sent."""
    from server.record.history import read_rows
    from simulations.engine.inline import run_inline

    logging.getLogger("flwr").setLevel(logging.ERROR)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run_inline(config, Path(folder))
        summary = json.loads((Path(folder) / "summary.json").read_text())
        rows = read_rows(Path(folder) / "history.jsonl")
    noise = summary["frechet_noise"]
    return {
        "percent": {
            rate: 100 * each["frechet_ema"] / noise for rate, each in summary["widths"].items()
        },
        "best_rate": summary["best_rate"],
        "by_class": {name: each["frechet"] for name, each in summary["report"]["by_class"].items()},
        "class_distance": summary["report"]["class_distance"],
        "bytes_up": sum(row["bytes_up"] for row in rows),
        "bytes_down": sum(row["bytes_down"] for row in rows),
        "seconds": time.perf_counter() - started,
    }


def table(results: list[Keys]) -> str:
    """Return the results as Markdown: per cent of pure noise's distance, mean ± deviation."""
    lines = []
    for name, setting in SETTINGS.items():
        if not any(r["setting"] == name for r in results):
            continue
        lines += [
            f"**{name}**",
            "",
            "| | full width | half | quarter | best width | classes off | seeds |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in (*setting.first, *setting.then):
            found = [r for r in results if (r["setting"], r["row"]) == (name, row)]
            if found:
                widths = [
                    _spread([r["percent"][w] for r in found if w in r["percent"]])
                    for w in ("1", "1/2", "1/4")
                ]
                best = _spread([min(r["percent"].values()) for r in found])
                off = _spread([100 * r["class_distance"] for r in found])
                lines.append(f"| {row} | {' | '.join(widths)} | {best} | {off} | {len(found)} |")
        lines.append("")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def main(
    results: Annotated[Path, typer.Argument(help="Where results are, one JSON object a line.")],
    seeds: Annotated[int, typer.Option(help="Seeds of every run.")] = 3,
    workers: Annotated[int, typer.Option("--jobs", help="Runs at once, a thread each.")] = 2,
    only_table: Annotated[bool, typer.Option("--table", help="Run nothing.")] = False,
    figure: Annotated[Path | None, typer.Option(help="A PNG file to draw.")] = None,
    replay: Annotated[
        Path | None, typer.Option(help="A PNG file of what replay does alone.")
    ] = None,
) -> None:
    """Compare what a fleet of unequal clients may do, and print a table."""
    done = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    known = {Job(r["setting"], r["row"], r["seed"]) for r in done}
    waiting = [] if only_table else [job for job in jobs(seeds) if job not in known]
    with ProcessPoolExecutor(workers) as pool, results.open("a") as file:
        for future in as_completed([pool.submit(run, job) for job in waiting]):
            done.append(future.result())
            file.write(json.dumps(done[-1]) + "\n")
            file.flush()
            typer.echo(f"{len(done)} of {len(known) + len(waiting)}: {done[-1]}", err=True)
    typer.echo(table(done))
    from benchmarks.comparison_figures import draw, draw_replay

    if figure:
        draw(done, figure)
    if replay:
        draw_replay(done, replay)


if __name__ == "__main__":
    typer.run(main)
