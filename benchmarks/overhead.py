"""`python -m benchmarks.overhead`: a round's time beyond the slowest client's training.

Two clients hold the whole model and do next to nothing with it, in deployment (a SuperLink and two
SuperNodes on loopback) and in simulation. Beside us runs `benchmarks.stock`. A round is all that
lies between two rounds' ends: for us also the row of the history and the checkpoint of the round
before. The first round of a run warms up and the last one is evaluated; of the others the median
counts. As one of `python -m benchmarks all` it is the smaller model in simulation alone.
"""

import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import tomli_w

from benchmarks.harness import Result
from benchmarks.stock import write_stock_app
from benchmarks.workloads import CIFAR10_DDPM
from common.config import EvaluationConfig, ModelConfig, RunConfig, Scalar
from common.network import layout_of
from simulations.engine.home import (
    CONNECTION,
    engine_variables,
    stage,
    temporary_home,
    write_connection,
)
from simulations.engine.processes import Processes, free_ports
from simulations.engine.simulate import _wait_for_port, run_simulation

ROOT = Path(__file__).resolve().parents[1]
MODELS = {
    "6.5 M": ModelConfig(widths=(64, 128, 128), layers=2, attention=(1,), groups=16),
    "35.7 M": CIFAR10_DDPM,
}
CLIENTS = 2
LOOK = 0.01


@dataclass
class Watch:
    """Notes when lines are added to a file."""

    path: Path
    times: list[float] = field(default_factory=list)

    def __enter__(self) -> "Watch":
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK):
            lines = self.path.read_bytes().count(b"\n") if self.path.exists() else 0
            self.times += [time.monotonic()] * (lines - len(self.times))


def scorequilt(model: ModelConfig, rounds: int) -> RunConfig:
    """Return a run of ours in which the clients do next to nothing and the server does not look."""
    return RunConfig(
        fleet=f"1x{CLIENTS}",
        rounds=rounds,
        local_steps=1,
        batch_size=1,
        evaluate_every=rounds + 1,
        model=model,
        evaluation=EvaluationConfig(samples=64, evaluations=1),
    )


def deploy(app: Path, config: dict[str, Scalar], run_dir: Path) -> None:
    """Run an app with SuperNodes on loopback."""
    run_dir.mkdir(parents=True)
    with temporary_home() as name, (run_dir / "log.txt").open("ab") as log:
        home = Path(name)
        port, *ports = free_ports(1 + CLIENTS)
        environment = engine_variables(home, 1, 0)
        with Processes(environment, home, log) as processes:
            address = ("--host", "127.0.0.1", "--port", str(port))
            processes.start("flower-superlink", "--insecure", *address)
            stage(app, home / "app")
            write_connection(home, port)
            settings = {**config, "run-dir": str(run_dir)}
            (home / "run.toml").write_text(tomli_w.dumps(settings), encoding="utf-8")
            _wait_for_port(port, processes, lambda phase: None)
            for partition, own in enumerate(ports):
                processes.start(*_node(app, f"127.0.0.1:{port}", partition, own))
            run = processes.start(
                *("flwr", "run", str(home / "app"), CONNECTION, "--stream"),
                *("--run-config", str(home / "run.toml")),
            )
            if run.wait():
                raise RuntimeError((run_dir / "log.txt").read_text()[-4000:])


def _node(app: Path, server: str, partition: int, port: int) -> list[str]:
    """Return the command that joins a device, as the app's users give it."""
    own = ["--insecure", "--port", str(port)]
    if app == ROOT:
        return ["scorequilt", "join", server, "--partition-id", str(partition), *own]
    config = f"partition-id={partition}"
    return ["flower-supernode", "--superlink", server, "--node-config", config, *own]


def simulate(app: Path, config: dict[str, Scalar], run_dir: Path) -> None:
    """Run an app in Flower's simulation engine."""
    run_simulation(config, CLIENTS, app, run_dir)


ENGINES = {"deployment": deploy, "simulation": simulate}


def overhead(engine: str, app: Path, config: dict[str, Scalar], run_dir: Path) -> float:
    """Return the median of the rounds' seconds less the slowest client's."""
    history = run_dir / "history.jsonl"
    with Watch(history) as watch:
        ENGINES[engine](app, config, run_dir)
    rows = [json.loads(line) for line in history.read_text().splitlines()]
    # Neither the first round, which starts the clients, nor the last, which is evaluated.
    pairs = zip(rows[2:-1], watch.times[2:-1], watch.times[1:-2], strict=True)
    return median(end - start - row["seconds_slowest"] for row, end, start in pairs)


def quick() -> Iterator[Result]:
    """Measure both apps for the smaller model in simulation."""
    return run(("6.5 M",), ("simulation",))


def run(
    sizes: Sequence[str] = tuple(MODELS),
    engines: Sequence[str] = tuple(ENGINES),
    rounds: int = 6,
) -> Iterator[Result]:
    """Measure both apps for some models in some engines."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for size in sizes:
        model = MODELS[size]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_stock_app(folder / "stock", layout_of(model, 1))
            for engine in engines:
                case = f"{engine}, {size}"
                seconds = {
                    "scorequilt": overhead(
                        engine, ROOT, scorequilt(model, rounds).to_flat(), folder / case / "ours"
                    ),
                    "stock": overhead(
                        engine, folder / "stock", {"rounds": rounds}, folder / case / "stock"
                    ),
                }
                for app, value in seconds.items():
                    yield Result("overhead", case, app, value, "s")
                yield Result("overhead", case, "vs_stock", seconds["scorequilt"] / seconds["stock"])


def main() -> None:
    """Print one JSON object per line."""
    for result in run():
        print(json.dumps(result.as_json()), flush=True)


if __name__ == "__main__":
    main()
