"""`python -m benchmarks.byzantine FOLDER`: what hostile clients do to a run, and what helps.

Ten clients on digits, five with the full width and five with half of it. In the attacked cases one
of each kind is hostile: the first sends its update with the sign flipped, the other noise. The real
server and clients run in one process. Writes `byzantine.json` and `byzantine.png` to FOLDER.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message
from flwr.supercore.task_identity import TaskIdentity
from matplotlib.figure import Figure

from common.config import RunConfig
from common.files import write_json
from common.wire import VALUES, WEIGHTS
from server.app import federate
from server.record.history import read_rows
from simulations.pictures.style import save_figure, styled
from tests.local_grid import LocalGrid

FLIPPED, NOISY = 0, 5
NOISE = 0.1
"""Standard deviation of the noise that a client sends on top of what it was sent."""

BASE: dict[str, Any] = {
    "fleet": "1x5 1/2x5",
    "local-widths": "own",
    "model.widths": "16,32",
    "model.attention": "",
    "rounds": 16,
    "local-steps": 20,
    "batch-size": 16,
    "learning-rate": 5e-3,
    "evaluate-every": 100,
    "evaluation.samples": 256,
}
CASES: dict[str, tuple[bool, dict[str, Any]]] = {
    "clean, mean": (False, {}),
    "attacked, mean": (True, {}),
    "attacked, trimmed": (True, {"aggregation": "trimmed", "trim": 0.2}),
    "attacked, reject": (True, {"update-check": "reject"}),
    "attacked, median": (True, {"aggregation": "median"}),
    "attacked, clip": (True, {"update-check": "clip"}),
    "attacked, reject and trimmed": (
        True,
        {"update-check": "reject", "aggregation": "trimmed", "trim": 0.2},
    ),
}
PROMISED = 1.5
"""How far from the clean run, as a factor, the robust options may end."""


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


@styled
def draw(results: dict[str, dict[str, float]], path: Path) -> None:
    """Draw every case's distance as a bar, and what was promised."""
    figure = Figure(figsize=(7, 0.4 * len(results) + 1), layout="constrained")
    axes = figure.subplots()
    clean, noise = (results["clean, mean"][key] for key in ("frechet_ema", "frechet_noise"))
    right = 1.05 * max(PROMISED * clean, *(row["frechet_ema"] for row in results.values()))
    for place, row in enumerate(results.values()):
        good = row["frechet_ema"] <= PROMISED * clean
        axes.barh(place, row["frechet_ema"], color="C0" if good else "C1")
        text = f"{row['frechet_ema']:.3g}, {row['against_clean']:.2f} x clean"
        axes.text(right, place, text, va="center")
    axes.axvline(PROMISED * clean, color="0.4", ls="--", lw=1, label=f"{PROMISED:g} x clean")
    axes.axvline(noise, color="0.4", lw=1, label="pure noise")
    axes.set_yticks(range(len(results)), list(results))
    axes.invert_yaxis()
    axes.set(xlabel="Fréchet classifier distance")
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper right", ncols=2)
    save_figure(figure, path)


def main(folder: Path) -> None:
    """Run every case that has not run yet and print how far its samples are from real images."""
    logging.disable(logging.CRITICAL)
    for name in ("_run_id", "_node_id", "_task_id"):
        setattr(TaskIdentity, name, 1)  # Flower makes messages only in a process that has a run
    results: dict[str, dict[str, float]] = {}
    for case, (hostile, changes) in CASES.items():
        config = RunConfig.from_flat({**BASE, **changes})
        run_dir = folder / case.replace(", ", "-").replace(" ", "-")
        if not (run_dir / "summary.json").exists():
            federate(attacked(config) if hostile else LocalGrid(config), config, run_dir)
        distance = read_rows(run_dir / "history.jsonl")[-1]["frechet_ema"]
        clean = results.get("clean, mean", {}).get("frechet_ema", distance)
        noise = json.loads((run_dir / "summary.json").read_text())["frechet_noise"]
        results[case] = {
            "frechet_ema": distance,
            "against_clean": distance / clean,
            "frechet_noise": noise,
        }
        print(
            f"{case}: {distance:.4g}, {distance / clean:.2f} of clean, {distance / noise:.1%} of "
            "pure noise",
            flush=True,
        )
        write_json(folder / "byzantine.json", results)
    draw(results, folder / "byzantine.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
