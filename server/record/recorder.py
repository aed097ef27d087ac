"""What is written after each round: samples, scores, one row of history, a checkpoint.

The order is fixed: samples, then the history's row, then the checkpoint, which makes the round
complete, and only then older checkpoints go. A run that resumes drops rows after its checkpoint and
writes them again, the same.
"""

import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from common.config import RunConfig
from common.data import load_dataset
from common.diffusion import SAMPLERS, Denoiser
from common.files import write_json
from common.network import submodel_denoiser
from common.submodels import Layout, Submodel, full_submodel, narrowed
from server.aggregation import CLIENTS
from server.coverage import Coverage, by_layer, course_summary, round_summary
from server.evaluation.build import evaluator_for
from server.policies import policy_named
from server.record.history import History, HistoryRow, best_round
from server.record.pictures import save_grid
from server.record.report import RoundReport
from server.state import ServerState, checkpoints, discard_old, round_of, save_checkpoint

Network = tuple[Float32[np.ndarray, "P"], Submodel]
"""Global weights and the part of them to sample from."""

GRID_IMAGES = 64
"""Images in the picture of a round."""


@dataclass
class Recorder:
    """Evaluates a state and writes the run directory.

    Args:
        config: The run's configuration.
        layout: The full model's layout.
        run_dir: The run directory.
    """

    config: RunConfig
    layout: Layout
    run_dir: Path

    def __post_init__(self) -> None:
        self.splits = load_dataset(self.config.data, self.config.shape)
        self.evaluator = evaluator_for(self.config, self.splits)
        self.history = History(self.run_dir / "history.jsonl")

    def denoiser(self, theta: Float32[np.ndarray, "P"], submodel: Submodel) -> Denoiser:
        """Return a submodel of some global weights as a denoiser."""
        channels = self.splits.train.image_shape[0]
        return submodel_denoiser(self.config, theta, submodel, channels)

    def record(self, state: ServerState, report: RoundReport, coverage: Coverage) -> None:
        """Write everything about a complete round.

        Args:
            state: The state after the round.
            report: What happened in it.
            coverage: Who trained what in it, as its aggregate says.
        """
        started = time.perf_counter()
        row: HistoryRow = {
            "round": state.round,
            "frechet": math.nan,
            "frechet_ema": math.nan,
            "held_out_loss": math.nan,
            "held_out_score_loss": math.nan,
        }
        scores = self._evaluate(state) if self._evaluates(state.round) else {}
        summary = {
            **round_summary(self.layout, coverage.vector(CLIENTS)),
            **course_summary(self.layout, state.round, state.counts, state.last),
        }
        row.update(cast(HistoryRow, scores))
        row.update(report.row())
        row.update(cast(HistoryRow, summary))
        row["seconds_evaluate"] = time.perf_counter() - started
        self.history.append(row)
        if report.mask_changes is not None:
            table = by_layer(
                self.layout,
                state.round,
                state.replies,
                state.counts,
                state.last,
                report.mask_changes,
            )
            write_json(self.run_dir / "coverage.json", table)
        save_checkpoint(self.run_dir / "checkpoints", state, self.config, self.layout)
        self.discard_old()

    def go_on_after(self, round: int) -> None:
        """Forget what was written of rounds after this one, which come again; -1 is of all."""
        for path in checkpoints(self.run_dir / "checkpoints"):
            if round_of(path) > round:
                path.unlink()
        self.history.truncate_after(round)
        self.discard_old()

    def discard_old(self) -> None:
        """Delete the checkpoints that nobody goes on from: neither the newest nor the best."""
        discard_old(self.run_dir / "checkpoints", self.config, best_round(self.history.rows()))

    def cost(self, state: ServerState) -> str:
        """Say what evaluating the rest of the run will take, from one batch that is timed now."""
        evaluation = self.config.evaluation
        rounds = range(state.round if state.round == 0 else state.round + 1, self.config.rounds + 1)
        times = sum(map(self._evaluates, rounds))
        sampler = SAMPLERS[evaluation.sampler]
        calls = sampler.evaluations(sampler.steps_for(evaluation.evaluations))
        each = self._seconds_per_batch(state)
        seconds = 2 * calls * each / min(2, os.cpu_count() or 1)
        return (
            f"evaluation: 2 networks x {calls} evaluations x {evaluation.samples} samples at "
            f"{each / evaluation.samples * 1e3:.2g} ms, about {seconds:.2g} s; "
            f"{times} times in this run, about {times * seconds:.2g} s"
        )

    def _evaluates(self, round: int) -> bool:
        """Whether a round is evaluated: every so many, from the start on, and the last."""
        every, rounds = self.config.evaluate_every, self.config.rounds
        return round == rounds or (round % every == 0 and every <= rounds)

    @torch.no_grad()
    def _seconds_per_batch(self, state: ServerState) -> float:
        denoiser, t = self.denoiser(state.ema, full_submodel(self.layout)), torch.tensor(1.0)
        noise, labels = self.evaluator.noise, self.evaluator.labels
        denoiser(noise, t.double(), **labels)  # the first call sets up what later ones reuse
        started = time.perf_counter()
        denoiser(noise, t.double(), **labels)
        return time.perf_counter() - started

    def _evaluate(self, state: ServerState) -> dict[str, float]:
        """Sample from the raw and the first averaged weights, score both and draw the latter."""
        full = full_submodel(self.layout)
        raw, images = self.sample_all([(state.theta, full), (state.ema, full)])
        save_grid(images[:GRID_IMAGES], self.run_dir / "samples" / f"round-{state.round:04d}.png")
        held_out = self.evaluator.held_out_loss(self.denoiser(state.ema, full))
        return {
            "frechet": self.evaluator.frechet(raw),
            "frechet_ema": self.evaluator.frechet(images),
            "held_out_loss": held_out.mean,
            "held_out_score_loss": held_out.score,
        }

    def sample_all(self, networks: Sequence[Network]) -> list[Tensor]:
        """Sample from several networks at once, each on a thread of its own and built there.

        One thread to a network uses two cores better than two threads inside every operation, which
        wait for each other some hundred times a step, and for anything else that runs.
        """
        workers = min(len(networks), os.cpu_count() or 1)
        with ThreadPoolExecutor(workers) as pool:
            return list(
                pool.map(lambda each: self.evaluator.sample(self.denoiser(*each)), networks)
            )

    def _widths(self) -> tuple[Fraction, ...]:
        """Return the widths that the fleet trains; masked submodels all have the full one."""
        masked = policy_named(self.config.policy).single_weights
        return () if masked else self.config.client_rates

    def summarise(self, state: ServerState) -> dict[str, Any]:
        """Judge every width by every average, name what samples best, write `summary.json`."""
        rates = sorted({Fraction(1), *self._widths()}, reverse=True)
        half_lives = [str(half_life) for half_life in self.config.ema.half_life]
        submodels = {str(rate): evaluation_submodel(self.layout, rate) for rate in rates}
        pairs = [(rate, half_life) for rate in submodels for half_life in half_lives]
        networks = [
            (ema, submodel) for submodel in submodels.values() for ema in state.emas
        ]  # in the order of pairs
        pictures = dict(zip(pairs, self.sample_all(networks), strict=True))
        frechet = {pair: self.evaluator.frechet(images) for pair, images in pictures.items()}
        widths: dict[str, Any] = {}
        for rate, submodel in submodels.items():
            scores = {half_life: frechet[rate, half_life] for half_life in half_lives}
            chosen = min(scores, key=lambda half_life: _nan_last(scores[half_life]))
            widths[rate] = {
                "frechet_ema": scores[chosen],
                "half_life": chosen,
                "frechet_by_half_life": scores,
                "parameters": submodel.size,
            }
        best = min(widths, key=lambda rate: _nan_last(widths[rate]["frechet_ema"]))
        half_life = widths[best]["half_life"]
        images = pictures[best, half_life]
        denoiser = self.denoiser(state.emas[half_lives.index(half_life)], submodels[best])
        save_grid(images[:GRID_IMAGES], self.run_dir / "samples" / "final.png")
        summary = {
            "rounds": state.round,
            "best_round": best_round(self.history.rows()),
            "best_rate": best,
            "best_half_life": half_life,
            "frechet_ema": widths[best]["frechet_ema"],
            "frechet_noise": self.evaluator.noise_baseline,
            "frechet_held_out": self.evaluator.reference,
            "frechet_fraction_of_noise": widths[best]["frechet_ema"]
            / self.evaluator.noise_baseline,
            "widths": widths,
            "samples": self.config.evaluation.samples,
            "classifier": self.evaluator.digest,
            "held_out_loss_by_u": self.evaluator.held_out_loss(denoiser).by_u,
            "report": self.evaluator.report(images),
        }
        write_json(self.run_dir / "summary.json", summary)
        return summary


def evaluation_submodel(layout: Layout, rate: Fraction) -> Submodel:
    """Return the submodel by which a width is judged: the first positions of every atom."""
    return narrowed(full_submodel(layout), layout.kept_per_atom(rate))


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value
