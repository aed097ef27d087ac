"""`python -m benchmarks.processor_time ENGINE`: which programs a round's processor time goes to.

The runs of `benchmarks.overhead`, ours alone, in `deployment` or `simulation`. Every process is
looked at fifty times a second; what counts lies between the ends of two rounds,
neither the first nor the last. Tasks are ClientApps: forks of
`simulations/deployment/forkserver.py` in deployment, Ray's workers in simulation.
"""

import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.harness import Result
from benchmarks.overhead import ENGINES, MODELS, ROOT, Watch, scorequilt

ROUNDS = 7
LOOK = 0.02

PROGRAMS = {
    "forkserver.py": "tasks",
    "ray::": "tasks",
    "flwr-serverapp": "server app",
    "flwr-simulation": "server app and engine",
    "flower-superlink": "SuperLink",
    "flower-supernode": "SuperNodes",
    "flower-superexec": "SuperExecs",
}
"""What each program's processes are called here."""


class Account(Watch):
    """Adds up what processes have spent whenever a line is added to a file.

    Attributes:
        totals: For each line the processor seconds so far, by program and by whether they went to
            its own code or to the system.
    """

    def __enter__(self) -> "Account":
        self._spent: dict[tuple[str, str, int], float] = {}
        self.totals: list[dict[tuple[str, str], float]] = []
        super().__enter__()
        return self

    def _look(self) -> None:
        while not self._over.wait(LOOK):
            for process in psutil.process_iter():
                with suppress(psutil.Error):  # it has ended
                    self._read(process)
            lines = self.path.read_bytes().count(b"\n") if self.path.exists() else 0
            if lines > len(self.totals):
                total: dict[tuple[str, str], float] = defaultdict(float)
                for (program, kind, _), seconds in self._spent.items():
                    total[program, kind] += seconds
                self.totals.append(total)

    def _read(self, process: psutil.Process) -> None:
        words = " ".join(process.cmdline())
        for program in (PROGRAMS[name] for name in PROGRAMS if name in words):
            spent = process.cpu_times()
            self._spent[program, "code", process.pid] = spent.user
            self._spent[program, "system", process.pid] = spent.system


def run(engine: str) -> Iterator[Result]:
    """Measure both models in an engine."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for size, model in MODELS.items():
        with tempfile.TemporaryDirectory() as name:
            run_dir = Path(name) / "run"
            with Account(run_dir / "history.jsonl") as account:
                ENGINES[engine](ROOT, scorequilt(model, ROUNDS).to_flat(), run_dir)
        first, last = account.totals[2], account.totals[-2]
        rounds = len(account.totals) - 4
        for program, kind in sorted(last):
            spent = (last[program, kind] - first.get((program, kind), 0.0)) / rounds
            yield Result("processor time", f"{engine}, {size}", f"{program}, {kind}", spent, "s")


def main() -> None:
    """Print one JSON object per line."""
    for result in run(sys.argv[1]):
        print(json.dumps(result.as_json()), flush=True)


if __name__ == "__main__":
    main()
