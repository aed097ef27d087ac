"""What clients found on their own images, and what it comes to over all of them."""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from common.diffusion import Clock, held_out_loss
from common.wire import TRAINING, Answer
from server.evaluation.metrics import FrechetTo
from server.evaluation.pooled import FEWEST
from server.record.history import HistoryRow
from server.state import Reference


@dataclass(kw_only=True)
class Findings:
    """What a survey's answers say.

    Attributes:
        answers: By partition what was taken in.
        failures: By partition why nothing was.
        bytes: Of questions and answers together.
    """

    answers: dict[int, Answer] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    bytes: int = 0

    def reference(self, before: Reference) -> Reference:
        """Return the reference with the moments that were given."""
        return before.joined(
            {p: each.moments for p, each in self.answers.items() if each.moments},
            {p: each.withheld for p, each in self.answers.items() if each.withheld},
        )

    def losses(self) -> dict[Fraction, tuple[float, ...]]:
        """Return each width's losses by level, the mean by the images that clients judged."""
        totals: dict[Fraction, tuple[int, np.ndarray]] = {}
        for _, answer in sorted(self.answers.items()):
            for rate, losses in answer.losses.items():
                count, total = totals.get(rate, (0, np.zeros(len(losses))))
                totals[rate] = count + answer.held_out, total + answer.held_out * np.array(losses)
        return {rate: tuple((total / count).tolist()) for rate, (count, total) in totals.items()}

    def row(self, clock: Clock, reference: Reference) -> HistoryRow:
        """Return the history's part that clients have found.

        Args:
            clock: The run's.
            reference: With the moments that were given.
        """
        full = held_out_loss(clock, self.losses().get(Fraction(1), ()))
        return {
            "held_out_loss": full.mean,
            "held_out_score_loss": full.score,
            "held_out_by_client": {
                str(partition): {
                    str(rate): held_out_loss(clock, losses).mean
                    for rate, losses in answer.losses.items()
                }
                for partition, answer in sorted(self.answers.items())
                if answer.losses
            },
            "reference_by_client": self._distances(reference),
            "survey_failures": {str(p): why for p, why in sorted(self.failures.items())},
            "bytes_survey": self.bytes,
        }

    def _distances(self, reference: Reference) -> dict[str, float | None]:
        """Return how far the images of everybody who has now told of them are from all others'."""
        whole = reference.sets.get(TRAINING)
        gave = {p: each.moments[TRAINING] for p, each in self.answers.items() if each.moments}
        return {
            str(partition): FrechetTo(whole - own).of_moments(own)
            for partition, own in sorted(gave.items())
            if whole is not None and min(own.count, whole.count - own.count) >= FEWEST
        }

    def summary(self, clock: Clock) -> dict[str, Any]:
        """Return what clients found at a run's end, for `summary.json`.

        `held_out` has by rate the `loss` and that `by_u`; `memorisation` by client how near the
        samples and its held-out images come to its training images: quantiles
        `common.wire.QUANTILES` of root-mean-square differences per value. Samples that are far
        nearer than held-out images have been memorised.
        """
        losses = self.losses()
        found = {rate: held_out_loss(clock, losses[rate]) for rate in sorted(losses, reverse=True)}
        return {
            "held_out": {
                str(rate): {"loss": loss.mean, "by_u": loss.by_u} for rate, loss in found.items()
            },
            "memorisation": {
                str(partition): {
                    "samples": list(each.nearest),
                    "held_out": list(each.nearest_held_out),
                }
                for partition, each in sorted(self.answers.items())
                if each.nearest
            },
            "survey_failures": {str(p): why for p, why in sorted(self.failures.items())},
        }
