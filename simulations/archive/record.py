"""What a run has left, finished or not: its configuration, history, summary and weights."""

import json
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from common.config import CLIENTS, RunConfig
from common.data.classes import numbered
from common.errors import UserError
from server.evaluation.pixels import pixel_covariance, whole_covariance
from server.record.about import KEPT, Kept, read_about, read_kept
from server.record.history import Row, best_round, read_rows
from server.setting import Setting, prepare
from server.state import ServerState, checkpoints, load_checkpoint, round_of
from simulations.archive.configs import load_config


@dataclass(frozen=True)
class RunRecord:
    """A run directory. What is not asked for is not read, and need not be there yet.

    Attributes:
        path: The directory.
        config: The run's configuration.
    """

    path: Path
    config: RunConfig

    @property
    def name(self) -> str:
        """The folder's name, by which legends tell runs apart."""
        return self.path.resolve().name

    @cached_property
    def setting(self) -> Setting:
        """What the run is about, and its model's table: neither takes the images themselves.

        Its networks are computed on what this machine has, which may be another than the run's.
        """
        here = self.config.evaluation.model_copy(update={"device": "auto"})
        config = self.config.model_copy(update={"evaluation": here})
        kind = read_about(self.path)
        return prepare(config) if kind is None else Setting(config, kind)

    @cached_property
    def kept(self) -> Kept:
        """What the run has kept to compare samples with.

        Raises:
            UserError: Nothing, or it is damaged.
        """
        kept = read_kept(self.path)
        if kept is None:
            raise UserError(
                f"{self.path}: keeps nothing of its images, as it is of a version before"
            )
        return kept

    @property
    def train_labels(self) -> Int64[np.ndarray, " N"]:
        """The classes of the training images; all alike where these are on clients alone."""
        kept = read_kept(self.path)
        if kept is None and self.config.data == CLIENTS:
            return np.arange(max(1, self.config.model.num_classes), dtype=np.int64)
        if kept is None:
            return self.setting.splits.train.labels
        return kept.tensors["labels"].astype(np.int64)

    @cached_property
    def covariance(self) -> Float64[np.ndarray, "D D"]:
        """How the values of training images go together.

        Raises:
            UserError: Nothing of it is kept, and the images are not there; or it is damaged.
        """
        kept = read_kept(self.path)
        upper = None if kept is None else kept.tensors.get("covariance")
        if upper is None:  # of a version before
            upper = pixel_covariance(self.setting.splits.train)
        try:
            assert upper is not None, "images that are too large are refused before"
            return whole_covariance(upper, math.prod(self.setting.image_shape))
        except ValueError as error:
            raise UserError(f"{self.path / KEPT}: {error}") from None

    def class_of(self, asked: str | int) -> int:
        """Return the number of a class that is asked for by its name or its number.

        Raises:
            UserError: The model has no classes, or not this one; the line names those it has.
        """
        classes, names = self.config.model.num_classes, self.setting.about.classes
        if not classes:
            raise UserError(f"class: {asked} is given to a model without classes")
        if str(asked) in names:
            return names.index(str(asked))
        if str(asked).isdecimal() and int(asked) < classes:
            return int(asked)
        numbers = f"the numbers 0 … {classes - 1}"
        known = numbers if names in ((), numbered(classes)) else f"{', '.join(names)}, or {numbers}"
        raise UserError(f"class: there is no {asked!r}; the classes are {known}")

    @cached_property
    def rows(self) -> list[Row]:
        """The history's rows.

        Raises:
            UserError: The history is damaged.
        """
        return read_rows(self.path / "history.jsonl")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` says, empty before the run's end.

        Raises:
            UserError: The file is damaged.
        """
        path = self.path / "summary.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from None

    def state(self, round: str | None = None) -> ServerState:
        """Return the state after a round.

        Args:
            round: A round whose checkpoint is kept, as a number, ``last``, or ``best``, the one
                whose averaged weights sampled best at some width. None is the summary's best, and
                before the run's end the last complete one.

        Raises:
            UserError: There is no checkpoint yet or none of this round, or it is damaged.
        """
        found = checkpoints(self.path / "checkpoints")
        if not found:
            raise UserError(f"{self.path}: no checkpoint yet; wait for the first round to complete")
        setting = self.setting
        return load_checkpoint(self._checkpoint(found, round), self.config, setting.layout)

    def _checkpoint(self, found: list[Path], round: str | None) -> Path:
        """Return the checkpoint of a round, see `state`."""
        # That of a run which goes on after its end is of an end that is no more.
        ended = self.summary.get("rounds") == round_of(found[-1])
        named = self.summary.get("best_round") if round is None and ended else None
        if round == "last" or (round is None and named is None):
            return found[-1]
        wanted = str(best_round(self.rows) if round == "best" else round or named)
        kept = {str(round_of(path)): path for path in found}
        if wanted not in kept:
            which = f"best, which is {wanted}," if round == "best" else wanted
            raise UserError(
                f"round: {self.path} has no checkpoint of round {which} but of {', '.join(kept)}"
            )
        return kept[wanted]

    def rate(self, asked: str | Fraction | None = None) -> Fraction:
        """Return a model rate as written, such as "1/2"; None is the one that samples best.

        That is known from the run's end, if the features can tell; else it is the full width.

        Raises:
            UserError: The text is not a fraction.
        """
        text = (self.summary.get("best_rate") or "1") if asked is None else asked
        try:
            return Fraction(text)
        except (ValueError, ZeroDivisionError):
            raise UserError(f"rate: '{text}' is not a fraction such as 1/2") from None

    def averaged(self, state: ServerState, rate: Fraction) -> tuple[Float32[np.ndarray, "P"], str]:
        """Return the average that the summary found best at a width, else the first; named.

        Of rounds before the last the first is known to be best, or nothing.
        """
        half_lives = [str(half_life) for half_life in self.config.ema.half_life]
        last = state.round == self.summary.get("rounds")
        best = self.summary.get("widths", {}).get(str(rate), {}).get("half_life") if last else None
        chosen = half_lives.index(best) if best in half_lives else 0
        several = f" (half-life {half_lives[chosen]})" if len(half_lives) > 1 else ""
        return state.emas[chosen], f"averaged{several}"

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Return the rounds that have a number under `key` in the history, and the numbers."""
        pairs = [(row["round"], row[key]) for row in self.rows if row.get(key) is not None]
        return [number for number, _ in pairs], [value for _, value in pairs]


def read_run(path: Path) -> RunRecord:
    """Open a run directory.

    Raises:
        UserError: It is not a run directory, or its configuration cannot be read.
    """
    if not (path / "config.toml").is_file():
        raise UserError(f"{path}: not a run directory (it has no config.toml)")
    return RunRecord(path, load_config(str(path / "config.toml")))


def verdict(run_dir: Path) -> str:
    """Say in one line what a finished run amounts to: its best width against noise and real images.

    Raises:
        UserError: The run cannot be read or has no summary yet.
    """
    summary = read_run(run_dir).summary
    if not summary:
        raise UserError(f"{run_dir}: no summary yet; wait for the last round to complete")
    if summary["best_rate"] is None:
        faults = "; ".join(summary["features"]["faults"])
        return (
            f"no width or round is called best: the features cannot tell damaged images from good "
            f"ones ({faults}); look at samples/final.png, and at held_out_loss in history.jsonl"
        )
    spent = summary.get("privacy")
    private = f"; ε = {spent['epsilon']:.3g} at δ = {spent['delta']:g}" if spent else ""
    return (
        f"samples best at rate {summary['best_rate']}: Fréchet classifier distance "
        f"{summary['frechet_ema']:.4g}, which is {summary['frechet_fraction_of_noise']:.1%} of "
        f"pure noise ({summary['frechet_noise']:.4g}); held-out images read "
        f"{summary['frechet_held_out'] / summary['frechet_noise']:.1%}{private}"
    )
