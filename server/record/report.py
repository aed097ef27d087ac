"""What happened in a round, as the strategy sees it and the history keeps it."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64


@dataclass
class RoundReport:
    """A round's numbers, for the history; those of an attempt are cleared by the next.

    Attributes:
        asked: Clients that were sent a task.
        absent: Clients of the fleet that could not be asked.
        failures: By partition why there is no update of a client that was asked.
        rejections: By partition and reason, how many replies were not used; over all attempts.
        events: By partition who joined, left or was given a smaller rate before this round.
        limits: By partition the largest rate since its memory ran out.
        norms: By rate the norms of the updates taken in.
        retries: Attempts before this one.
        seconds_slowest: The longest that a client says its local steps took; what is left of
            `seconds_train` is the round's overhead.
    """

    asked: int = 0
    absent: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    rejections: dict[int, Counter[str]] = field(default_factory=dict)
    events: dict[int, str] = field(default_factory=dict)
    limits: dict[int, str] = field(default_factory=dict)
    norms: dict[str, list[float]] = field(default_factory=dict)
    retries: int = 0
    densities: list[float] = field(default_factory=list)
    pruning_errors: list[float] = field(default_factory=list)
    losses: list[tuple[float, float]] = field(default_factory=list)
    masks: dict[int, bytes] = field(default_factory=dict)
    mask_change: float = math.nan
    mask_changes: Float64[np.ndarray, "parameters"] | None = None
    bytes_down: int = 0
    bytes_up: int = 0
    seconds_train: float = 0.0
    seconds_aggregate: float = 0.0
    seconds_slowest: float = 0.0

    @property
    def replied(self) -> int:
        """Clients whose update was taken in."""
        return len(self.losses)

    @property
    def loss(self) -> float:
        """The clients' mean training loss by their weights; NaN if there is none."""
        # Sorted, since replies come in any order and the sum must not depend on it.
        total = sum(sorted(weight for _, weight in self.losses))
        weighted = sum(sorted(loss * weight for loss, weight in self.losses))
        return weighted / total if total else math.nan

    def reject(self, partition: int, reason: str, text: str = "") -> None:
        """Count a reply that was not used; `text` says why the client has no update."""
        self.rejections.setdefault(partition, Counter())[reason] += 1
        if text:
            self.failures[partition] = text

    def complaint(self, round: int, needed: int) -> str:
        """Say in one line why a round is not complete."""
        reasons = Counter(self.failures.values()).most_common(1)
        replied, wanted = self.replied or "none", f"; {needed} are needed" if needed > 1 else ""
        return (
            f"round {round}: {replied} of {self.asked} clients returned a usable update{wanted}; "
            f"most often: {reasons[0][0] if reasons else 'no client was there to be asked'}"
        )

    def row(self) -> dict[str, Any]:
        """Return the history's part that is known before evaluation."""
        by_client = sorted(self.rejections.items())
        return {
            "loss": self.loss,
            "clients_asked": self.asked,
            "clients_replied": self.replied,
            "clients_failed": self.asked - self.replied,
            "clients_absent": self.absent,
            "failures": _named(self.failures),
            "rejections": {str(k): dict(sorted(counts.items())) for k, counts in by_client},
            "fleet_events": _named(self.events),
            "rate_limits": _named(self.limits),
            "retries": self.retries,
            "update_norms": {rate: sorted(norms) for rate, norms in sorted(self.norms.items())},
            "density_mean": _mean(self.densities),
            "pruning_error_mean": _mean(self.pruning_errors),
            "pruning_error_max": max(self.pruning_errors, default=math.nan),
            "mask_change": self.mask_change,
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "seconds_train": self.seconds_train,
            "seconds_aggregate": self.seconds_aggregate,
            "seconds_slowest": self.seconds_slowest,
        }


def _named(values: dict[int, str]) -> dict[str, str]:
    return {str(partition): value for partition, value in sorted(values.items())}


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan
