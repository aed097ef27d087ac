"""`python -m benchmarks.rounds`: rounds of the default job as `scorequilt run digits` has them.

How long it takes from the command until every client has taken its first step, and what evaluation
adds to a round: the same job with every round evaluated and with none, by turns. The first round
of a run, which starts the clients, and the last, whose evaluation nothing follows, do not count.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks.harness import Result
from benchmarks.overhead import Watch

COMMAND = (sys.executable, "-c", "from simulations.cli import main; main()")
ROUNDS = 5
NEVER = ROUNDS + 1
REPEATS = 2


def times(run_dir: Path, **changes: int) -> list[float]:
    """Run the default job with some keys replaced.

    Returns:
        Seconds from the command until each round's row was written, that of round 0 first.
    """
    sets = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    command = [*COMMAND, "run", "digits", "--quiet", "--run-dir", str(run_dir), *sets]
    started = time.monotonic()
    with Watch(run_dir / "history.jsonl") as watch:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return [moment - started for moment in watch.times]


def run(folder: Path) -> Iterator[Result]:
    """Measure, with run directories in a folder."""
    times(folder / "fills-the-caches", rounds=1, **{"local-steps": 1})
    first = [
        times(folder / f"first-{i}", rounds=2, **{"evaluate-every": NEVER, "local-steps": 1})[1]
        for i in range(REPEATS + 1)
    ]
    yield Result("rounds", "digits", "until_all_have_taken_a_step", min(first), "s")
    seconds: dict[str, list[float]] = {"evaluated": [], "not_evaluated": []}
    for i in range(REPEATS):
        for case, every in (("evaluated", 1), ("not_evaluated", NEVER)):
            moments = times(folder / f"{case}-{i}", rounds=ROUNDS, **{"evaluate-every": every})
            seconds[case] += [end - start for start, end in pairwise(moments[1:-1])]
    for case, each in seconds.items():
        yield Result("rounds", "digits", f"round_{case}", median(each), "s")
    evaluated, plain = (median(each) for each in seconds.values())
    yield Result("rounds", "digits", "share_of_evaluation", 1 - plain / evaluated)


def main() -> None:
    """Print one JSON object per line."""
    with tempfile.TemporaryDirectory() as name:
        for result in run(Path(name)):
            print(json.dumps(result.as_json()), flush=True)


if __name__ == "__main__":
    main()
