"""What is written after each round: samples, scores, one row of history, a checkpoint.

The order is fixed: samples, then the history's row, then the checkpoint, which makes the round
complete, and only then older checkpoints go. A run that resumes drops rows after its checkpoint and
writes them again, the same.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import UInt8

from common.diffusion import SAMPLERS
from common.files import write_json
from common.resources import cores
from server.aggregation import CLIENTS
from server.coverage import Coverage, by_layer, course_summary, round_summary
from server.evaluation.build import AnyEvaluator, evaluator_of
from server.evaluation.evaluator import Evaluator
from server.evaluation.stored import kept_scores, kept_tensors
from server.privacy import epsilon_after, released, statement
from server.record.about import Kept, write_about, write_kept
from server.record.findings import Findings
from server.record.history import (
    History,
    HistoryRow,
    best_of,
    best_round,
    distances_of,
    widest_trained,
)
from server.record.pictures import save_grid
from server.record.report import RoundReport
from server.record.scores import Pictures, final_scores, judged_widths, round_scores
from server.replay import Measured
from server.setting import Setting
from server.state import (
    Reference,
    ServerState,
    checkpoint_of,
    checkpoints,
    discard_old,
    load_checkpoint,
    round_of,
    save_checkpoint,
)

GRID_IMAGES = 64
"""Images in the picture of a round."""


@dataclass
class Recorder:
    """Evaluates a state and writes the run directory.

    Args:
        setting: The run's.
        run_dir: The run directory.
    """

    setting: Setting
    run_dir: Path

    def __post_init__(self) -> None:
        self.config, self.layout = self.setting.config, self.setting.layout
        self._evaluator: tuple[Reference, AnyEvaluator] | None = None
        self._sampled: dict[int, Pictures] = {}
        write_about(self.run_dir, self.setting.about)
        self.history = History(self.run_dir / "history.jsonl")

    def evaluator(self, state: ServerState) -> AnyEvaluator:
        """Return what judges a state: the same one as long as what clients have given is."""
        if self._evaluator is None or self._evaluator[0] is not state.reference:
            same = self._evaluator is not None and not self.config.by_clients
            if not same:
                made = evaluator_of(self.setting, state.reference)
                self._evaluator = state.reference, made
                if isinstance(made, Evaluator):
                    write_kept(self.run_dir, Kept(kept_tensors(made), kept_scores(made)))
        assert self._evaluator is not None
        return self._evaluator[1]

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
            "frechet_by_width": {},
            "frechet_noise": math.nan,
            "held_out_loss": math.nan,
            "held_out_score_loss": math.nan,
            "held_out_by_client": {},
            "reference_by_client": {},
            "reference_images": self.evaluator(state).reference_images,
            "survey_failures": {},
            "bytes_survey": 0,
            "epsilon": epsilon_after(self.config, state.round),
        }
        scores = self._evaluate(state) if self.config.evaluates(state.round) else {}
        summary = {
            **round_summary(self.layout, coverage.vector(CLIENTS)),
            **course_summary(self.layout, state.round, state.counts, state.last),
        }
        row.update(cast(HistoryRow, scores))
        told = released(report.row()) if self.config.privacy.on else report.row()
        row.update(cast(HistoryRow, told))
        if self.config.surveyed:
            findings = report.findings or Findings()
            row.update(findings.row(self.evaluator(state).clock, state.reference))
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

    def measured_before(self, round: int) -> Measured:
        """Return what a round's tasks may depend on: what is known of round - 2 or before.

        The round before is judged while this one trains, and what a run that resumes may know of
        it, it must not make use of.
        """
        for row in reversed(self.history.rows()):
            noise = row.get("frechet_noise")
            if row["round"] < round - 1 and noise and (known := distances_of(row)):
                taught = frozenset(map(Fraction, row.get("replay", ())))
                return Measured({rate: each / noise for rate, each in known.items()}, taught)
        return Measured({})

    def cost(self, state: ServerState) -> str:
        """Say what evaluating the rest of the run will take, from one batch that is timed now."""
        evaluation = self.config.evaluation
        rounds = range(state.round if state.round == 0 else state.round + 1, self.config.rounds + 1)
        times = sum(map(self.config.evaluates, rounds))
        sampler = SAMPLERS[evaluation.sampler]
        calls = sampler.evaluations(sampler.steps_for(evaluation.evaluations))
        evaluator, rates = self.evaluator(state), judged_widths(self.setting)
        by_width = [self._seconds_per_batch(state, evaluator, rate) for rate in rates]
        # The weights themselves are judged at full width, their average at every one.
        networks, once = 1 + len(by_width), by_width[0] + sum(by_width)
        seconds = calls * once / min(networks, cores())
        return (
            f"evaluation: {networks} networks x {calls} evaluations x {evaluation.samples} samples "
            f"at {once / networks / evaluation.samples * 1e3:.2g} ms, about {seconds:.2g} s; "
            f"{times} times in this run, about {times * seconds:.2g} s"
        )

    @torch.no_grad()
    def _seconds_per_batch(
        self, state: ServerState, evaluator: AnyEvaluator, rate: Fraction
    ) -> float:
        denoiser, t = self.setting.denoiser(state.ema, rate), torch.tensor(1.0)
        noise = evaluator.noise[: evaluator.batch]
        labels = {key: value[: evaluator.batch] for key, value in evaluator.labels.items()}
        denoiser(noise, t.double(), **labels)  # the first call sets up what later ones reuse
        started = time.perf_counter()
        denoiser(noise, t.double(), **labels)
        return (time.perf_counter() - started) * len(evaluator.noise) / len(noise)

    def _evaluate(self, state: ServerState) -> dict[str, Any]:
        """Score the weights and every width of their average, and draw the fleet's widest.

        One width in all rounds, so that pictures of different rounds can be laid side by side.
        """
        scores, pictures = round_scores(self.setting, self.evaluator(state), state)
        self._sampled = {state.round: pictures}  # of the last round they are wanted once more
        fleet = self.config.widths(self.layout.atom)
        images = pictures[max((rate for rate in pictures if rate in fleet), default=Fraction(1))]
        save_grid(images[:GRID_IMAGES], self.run_dir / "samples" / f"round-{state.round:04d}.png")
        return scores

    def _earlier(self, round: int) -> ServerState:
        """Return the state after a round whose checkpoint is kept."""
        path = checkpoint_of(self.run_dir / "checkpoints", round)
        return load_checkpoint(path, self.config, self.layout, self.history.rows())

    def summarise(
        self, state: ServerState, ask: Callable[[UInt8[np.ndarray, "N C H W"]], Findings] | None
    ) -> dict[str, Any]:
        """Write `summary.json` and draw what samples best in the end.

        Args:
            state: The state after the last round.
            ask: Where clients judge, lets them judge the last weights and these samples.
        """
        rows = self.history.rows()
        evaluator = self.evaluator(state)
        summary, images = final_scores(
            self.setting,
            evaluator,
            state,
            best_of(rows),
            widest_trained(rows),
            self._earlier,
            self._sampled.get(state.round, {}),
        )
        save_grid(images[:GRID_IMAGES], self.run_dir / "samples" / "final.png")
        if ask is not None:
            levels = ((images.nan_to_num() + 1) * 127.5).round().clamp(0, 255)
            summary |= ask(levels.to(torch.uint8).numpy()).summary(evaluator.clock)
        if self.config.privacy.on:
            summary["privacy"] = statement(self.config, state.round)
        write_json(self.run_dir / "summary.json", summary)
        return summary
