"""`python -m benchmarks.scale FOLDER`: rounds of 20 clients out of fleets of 100, 300 and 1000.

Flower's simulation engine runs the default model with next to no local work. A round's seconds and
the server's memory should follow those who take part and not the fleet. Writes `scale.json` and
`scale.png` to FOLDER. Beside the engine stands the server alone, its clients in its own process.
"""

import json
import logging
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Annotated

import psutil
import typer
from flwr.app import ArrayRecord, ConfigRecord
from flwr.supercore.task_identity import TaskIdentity
from matplotlib.figure import Figure

from benchmarks.many import SHAPE, ManyClients
from benchmarks.overhead import ROOT, Watch
from common.config import EvaluationConfig, RunConfig
from common.files import write_json
from common.network import initial_weights
from server.fleet import Roster
from server.grid import StreamingGrid
from server.state import initial_state
from server.strategy import CoverageAvg
from simulations.engine.simulate import run_simulation
from simulations.pictures.style import save_figure, styled
from simulations.planning.measure import MIB

TAKE_PART = 20
ROUNDS = 6


def configuration(clients: int) -> RunConfig:
    """Return a run in which a few of many clients do a single small step."""
    return RunConfig(
        name="scale",
        fleet=f"1/2x{clients}",
        clients_per_round=TAKE_PART,
        rounds=ROUNDS,
        local_steps=1,
        batch_size=2,
        evaluate_every=ROUNDS + 1,
        start_timeout=600,
        evaluation=EvaluationConfig(samples=64, evaluations=1),
    )


def in_engine(clients: int, run_dir: Path) -> dict[str, float]:
    """Return what a simulated round takes, and the most memory of the process with the server."""
    largest = 0.0

    def look(phase: str) -> None:
        nonlocal largest
        largest = max(largest, _server_mib(str(run_dir)))

    started = time.monotonic()
    with Watch(run_dir / "history.jsonl") as watch:
        run_simulation(configuration(clients).to_flat(), clients, ROOT, run_dir, look)
    gaps = [end - start for start, end in zip(watch.times[1:-2], watch.times[2:-1], strict=True)]
    return {
        "start": watch.times[0] - started,
        "round": median(gaps),
        "server_mib": largest,
    }


def _server_mib(run_dir: str) -> float:
    """Return the resident memory of Flower's simulation process whose run writes there."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            named = any("flwr-simulation" in word for word in process.cmdline())
            if named and process.environ().get("SCOREQUILT_SCALE") == run_dir:
                return float(process.memory_info().rss) / MIB
    return 0.0


def alone(clients: int) -> float:
    """Return the processor seconds of a round for the server, clients answering at once."""
    config = configuration(clients)
    grid = ManyClients(clients)
    streaming, roster = StreamingGrid(grid), Roster(config, grid.layout, SHAPE)
    roster.start(streaming)
    state = initial_state(grid.layout, initial_weights(config.model, SHAPE[0], 0), config)
    strategy = CoverageAvg(config, grid.layout, roster, state)
    times = []
    for number in range(1, ROUNDS + 1):
        started = time.process_time()
        tasks = strategy.configure_train(number, ArrayRecord(), ConfigRecord(), streaming)
        strategy.aggregate_train(number, streaming.send_and_receive(tasks))
        times.append(time.process_time() - started)
    return min(times)


def main(
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
    fleets: Annotated[str, typer.Option(help="Numbers of clients.")] = "100,300,1000",
) -> None:
    """Run every fleet, print its numbers as JSON and draw them."""
    logging.disable(logging.CRITICAL)
    for name in ("_run_id", "_node_id", "_task_id"):
        setattr(TaskIdentity, name, 1)  # Flower makes messages only in a process that has a run
    rows = []
    for clients in map(int, fleets.split(",")):
        with tempfile.TemporaryDirectory() as name:
            run_dir = Path(name).resolve() / "run"
            os.environ["SCOREQUILT_SCALE"] = str(run_dir)
            row = {"clients": clients, **in_engine(clients, run_dir), "server": alone(clients)}
        print(json.dumps(row), flush=True)
        rows.append(row)
    write_json(folder / "scale.json", rows)
    draw(rows, folder / "scale.png")


@styled
def draw(rows: list[dict[str, float]], path: Path) -> None:
    """Draw what every fleet took."""
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    titles = {
        "round": "a round (s)",
        "server": "of it the server (s)",
        "server_mib": "memory (MiB)",
    }
    for axes, (key, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        axes.plot([row["clients"] for row in rows], [row[key] for row in rows], "o-")
        top = 1.2 * max(row[key] for row in rows)
        axes.set(xlabel="clients in the fleet", title=title, ylim=(0, top), xscale="log")
        axes.set_xticks([row["clients"] for row in rows], [str(row["clients"]) for row in rows])
        axes.minorticks_off()
    save_figure(figure, path)


if __name__ == "__main__":
    typer.run(main)
