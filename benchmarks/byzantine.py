"""`python -m benchmarks.byzantine FOLDER`: what hostile clients do to a run, and what helps.

Ten clients on digits, five with the full width and five with half of it. In the attacked cases one
of each kind is hostile: the first sends its update with the sign flipped, the other noise. The real
server and clients run in one process. Writes `byzantine.json` to FOLDER.
"""

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message
from flwr.supercore.task_identity import TaskIdentity

from common.config import RunConfig
from common.files import write_json
from common.wire import VALUES, WEIGHTS
from server.app import federate
from server.history import read_rows
from tests.local_grid import LocalGrid

FLIPPED, NOISY = 0, 5
NOISE = 0.1
"""Standard deviation of the noise that a client sends on top of what it was sent."""

BASE: dict[str, Any] = {
    "fleet": "1x5 1/2x5",
    "rounds": 8,
    "local-steps": 20,
    "batch-size": 32,
    "evaluate-every": 100,
    "evaluation.samples": 256,
}
CASES: dict[str, tuple[bool, dict[str, Any]]] = {
    "clean, mean": (False, {}),
    "attacked, mean": (True, {}),
    "attacked, trimmed": (True, {"aggregation": "trimmed", "trim": 0.2}),
    "attacked, median": (True, {"aggregation": "median"}),
    "attacked, reject": (True, {"update-check": "reject"}),
}


def attacked(config: RunConfig) -> LocalGrid:
    """Return a grid on which two clients are hostile."""
    rng = np.random.default_rng(0)
    grid = LocalGrid(config)

    def attack(partition: int, reply: Message) -> Message:
        if partition not in (FLIPPED, NOISY) or reply.metadata.message_type != "train":
            return reply
        number = reply.metadata.reply_to_message_id
        (task,) = (sent for sent in grid.sent if sent.metadata.message_id == number)
        before, after = (
            message.content.array_records[WEIGHTS][VALUES].numpy() for message in (task, reply)
        )
        change = before - after if partition == FLIPPED else rng.normal(0, NOISE, before.shape)
        sent = (before + change).astype(np.float32)
        reply.content[WEIGHTS] = ArrayRecord({VALUES: Array(sent)})
        return reply

    grid.mishap = attack
    return grid


def main(folder: Path) -> None:
    """Run every case and print its final Fréchet distance, as such and against the clean run."""
    logging.disable(logging.CRITICAL)
    for name in ("_run_id", "_node_id", "_task_id"):
        setattr(TaskIdentity, name, 1)  # Flower makes messages only in a process that has a run
    results: dict[str, dict[str, float]] = {}
    for case, (hostile, changes) in CASES.items():
        config = RunConfig.from_flat({**BASE, **changes})
        run_dir = folder / case.replace(", ", "-")
        grid = attacked(config) if hostile else LocalGrid(config)
        federate(grid, config, run_dir)
        row = read_rows(run_dir / "history.jsonl")[-1]
        distance = row["frechet_ema"]
        clean = results.get("clean, mean", {}).get("frechet_ema", distance)
        results[case] = {"frechet_ema": distance, "against_clean": distance / clean}
        print(f"{case}: {distance:.4g}, {distance / clean:.2f} of clean", flush=True)
    write_json(folder / "byzantine.json", results)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
