"""What a run has left: its configuration, its history and its weights."""

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from common.config import RunConfig
from common.data import ImageData, load_dataset
from common.errors import UserError
from common.network import layout_of
from common.submodels import Layout
from server.record.history import Row, best_round, read_rows
from server.state import ServerState, checkpoints, load_checkpoint, round_of
from simulations.archive.configs import load_config


@dataclass(frozen=True)
class TrainedRun:
    """One of a run's checkpoints and what is needed to use it.

    Attributes:
        config: The run's configuration.
        layout: The full model's layout.
        state: The state after a round.
        train: The training images.
        summary: What `summary.json` says, empty before the run's end.
    """

    config: RunConfig
    layout: Layout
    state: ServerState
    train: ImageData
    summary: dict[str, Any]


def read_trained_run(run_dir: Path, round: str | None = None) -> TrainedRun:
    """Read a run directory, finished or not.

    Args:
        run_dir: The run directory.
        round: A round whose checkpoint is kept, as a number or as ``best``, the one whose averaged
            weights sampled best; None is the last complete one.

    Raises:
        UserError: It is not a run directory, has no checkpoint yet or none of this round, or a file
            in it is damaged.
    """
    if not (run_dir / "config.toml").is_file():
        raise UserError(f"{run_dir}: not a run directory (it has no config.toml)")
    config = load_config(str(run_dir / "config.toml"))
    found = checkpoints(run_dir / "checkpoints")
    if not found:
        raise UserError(f"{run_dir}: no checkpoint yet; wait for the first round to complete")
    train = load_dataset(config.data, config.shape).train
    layout = layout_of(config.model, train.image_shape[0])
    state = load_checkpoint(_of_round(run_dir, found, round), config, layout)
    path = run_dir / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    return TrainedRun(config, layout, state, train, summary)


def _of_round(run_dir: Path, found: list[Path], round: str | None) -> Path:
    """Return the checkpoint of a round, the newest if none is named."""
    if round is None:
        return found[-1]
    wanted = str(best_round(read_rows(run_dir / "history.jsonl"))) if round == "best" else round
    kept = {str(round_of(path)): path for path in found}
    if wanted not in kept:
        which = f"best, which is {wanted}," if round == "best" else wanted
        raise UserError(
            f"round: {run_dir} has no checkpoint of round {which} but of {', '.join(kept)}"
        )
    return kept[wanted]


def verdict(run_dir: Path) -> str:
    """Say in one line what a finished run amounts to: its best width against noise and real images.

    Raises:
        UserError: The run cannot be read or has no summary yet.
    """
    summary = read_trained_run(run_dir).summary
    if not summary:
        raise UserError(f"{run_dir}: no summary yet; wait for the last round to complete")
    return (
        f"samples best at rate {summary['best_rate']}: Fréchet classifier distance "
        f"{summary['frechet_ema']:.4g}, which is {summary['frechet_fraction_of_noise']:.1%} of "
        f"pure noise ({summary['frechet_noise']:.4g}); held-out images read "
        f"{summary['frechet_held_out'] / summary['frechet_noise']:.1%}"
    )


def averaged_weights(run: TrainedRun, rate: Fraction) -> tuple[Float32[np.ndarray, "P"], str]:
    """Return the moving average that the summary found best at a width, else the first; named."""
    half_lives = [str(half_life) for half_life in run.config.ema.half_life]
    best = run.summary.get("widths", {}).get(str(rate), {}).get("half_life")
    chosen = half_lives.index(best) if best in half_lives else 0
    several = f" (half-life {half_lives[chosen]})" if len(half_lives) > 1 else ""
    return run.state.emas[chosen], f"averaged{several}"


def parse_rate(text: str | Fraction) -> Fraction:
    """Return a rate as written, such as "1/2".

    Raises:
        UserError: The text is not a fraction.
    """
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"rate: '{text}' is not a fraction such as 1/2") from None


@dataclass(frozen=True)
class Run:
    """A run directory, read."""

    path: Path
    config: RunConfig
    rows: list[Row]
    summary: dict[str, Any] | None

    @property
    def name(self) -> str:
        """The folder's name, by which legends tell runs apart."""
        return self.path.resolve().name

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Return the rounds that have a number under `key`, and the numbers."""
        pairs = [(row["round"], row[key]) for row in self.rows if row.get(key) is not None]
        return [number for number, _ in pairs], [value for _, value in pairs]


def read_run(path: Path) -> Run:
    """Read a run directory, finished or not.

    Raises:
        UserError: It is not a run directory, or has no complete round yet.
    """
    if not (path / "config.toml").is_file():
        raise UserError(f"{path}: not a run directory (it has no config.toml)")
    rows = read_rows(path / "history.jsonl")
    if not rows:
        raise UserError(f"{path}: no complete round yet, so there is nothing to draw")
    summary = path / "summary.json"
    read = json.loads(summary.read_text()) if summary.is_file() else None
    return Run(path, load_config(str(path / "config.toml")), rows, read)
