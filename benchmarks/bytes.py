"""What each encoding costs in bytes and in Fréchet distance, beside dense federated averaging.

    python -m benchmarks.bytes RESULTS.jsonl --seeds 3
    python -m benchmarks.bytes RESULTS.jsonl --table

Runs of the same seed start from the same weights and see the same batches, so codecs are compared
seed by seed. Results are appended as they come in, and runs that are there already are left out.
"""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from benchmarks.comparison import BASE, Keys, federated
from common.config import RunConfig
from simulations.planning.measure import MIB

DENSE, EXACT = "dense, float32", "float32"

ROWS: dict[str, Keys] = {
    EXACT: {},
    "int8": {"codec": "int8"},
    "int4": {"codec": "int4"},
    DENSE: {"policy": "full", "local-widths": "own"},
    "bfloat16": {"codec": "bfloat16"},
    "float16": {"codec": "float16"},
}
"""The default's mixed fleet with every codec, the most telling first, and all clients dense."""


class Job(NamedTuple):
    """One run."""

    row: str
    seed: int

    def config(self) -> RunConfig:
        """Return the run's configuration."""
        flat = BASE | ROWS[self.row] | {"seed": self.seed}
        return RunConfig.from_flat(RunConfig().to_flat() | flat)


def jobs(seeds: int) -> Iterator[Job]:
    """Yield every run, seed by seed."""
    yield from (Job(row, seed) for seed in range(seeds) for row in ROWS)


def distance(result: Keys) -> float:
    """Return the best width's distance, in per cent of pure noise's."""
    return min(result["percent"].values())


def sent(result: Keys) -> int:
    """Return the bytes of all messages of the run, both ways."""
    return int(result["bytes_up"] + result["bytes_down"])


def table(results: list[Keys]) -> str:
    """Return the results as Markdown, a row for each codec."""
    runs = {Job(r["row"], r["seed"]): r for r in results}
    lines = [
        "| | best width, % of noise | by seed | against float32, by seed | MiB down | up "
        "| fewer bytes than float32 | than dense |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in (DENSE, *(row for row in ROWS if row != DENSE)):
        mine = {seed: r for (name, seed), r in sorted(runs.items()) if name == row}
        if not mine:
            continue
        found = [distance(r) for r in mine.values()]
        pairs = [
            f"{distance(r) / distance(runs[Job(EXACT, seed)]) - 1:+.0%}"
            for seed, r in mine.items()
            if Job(EXACT, seed) in runs
        ]
        down, up = (
            statistics.mean(r[f"bytes_{way}"] for r in mine.values()) / MIB
            for way in ("down", "up")
        )
        lines.append(
            f"| {row} | {statistics.mean(found):.2f} | {', '.join(f'{d:.2f}' for d in found)} "
            f"| {', '.join(pairs)} | {down:.1f} | {up:.1f} "
            f"| {_fewer(runs, EXACT, down + up)} | {_fewer(runs, DENSE, down + up)} |"
        )
    return "\n".join(lines)


def _fewer(runs: dict[Job, Keys], row: str, mib: float) -> str:
    """Return how many times fewer bytes these are than a row's, which no seed changes."""
    theirs = [sent(r) / MIB for job, r in runs.items() if job.row == row]
    return f"{theirs[0] / mib:.2f} x" if theirs else ""


def main(
    results: Annotated[Path, typer.Argument(help="Where results are, one JSON object a line.")],
    seeds: Annotated[int, typer.Option(help="Seeds of every run.")] = 3,
    only_table: Annotated[bool, typer.Option("--table", help="Run nothing.")] = False,
) -> None:
    """Train with every codec, one run after another, and print distance against bytes."""
    done = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    known = {Job(r["row"], r["seed"]) for r in done}
    for job in [] if only_table else [job for job in jobs(seeds) if job not in known]:
        done.append({**job._asdict(), **federated(job.config())})
        with results.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        typer.echo(f"{job}: {distance(done[-1]):.2f} %", err=True)
    typer.echo(table(done))


if __name__ == "__main__":
    typer.run(main)
