"""What happened in a round, as the strategy sees it and the history keeps it."""

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float64

from common.replay import Replay
from server.record.findings import Findings
from server.record.history import HistoryRow


@dataclass
class RoundReport:
    """A round's numbers, written down as they come and never read back into the state.

    They are those of the last attempt at the round, but for what adds up over all of them: bytes,
    rejections, events, retries and seconds.

    Attributes:
        asked: Clients that were sent a task.
        absent: Clients of the fleet that could not be asked.
        failures: By partition why a client that takes part has no update in the round.
        rejections: By partition and reason, how many replies were not used.
        events: By partition who joined, left or was given a smaller rate before this round.
        limits: By partition the largest rate since its memory ran out.
        norms: By rate the norms of the updates taken in.
        retries: Attempts before this one.
        mask_change: How much of what clients held was new to them, on average; NaN if to nobody.
        mask_changes: The same by parameter, None before training.
        bytes_down: Bytes of all tasks sent.
        bytes_up: Bytes of all replies that came, used or not.
        seconds_slowest: The longest that a client says its local steps took; what is left of
            `seconds_train` is the round's overhead.
        clients: By partition that was asked, what was sent and came back.
        replay: By rate of clients what they were sent to train on besides their own images.
        findings: What clients found on their own images after the round, None if not asked.
        started: When the round began, on the clock of `time.perf_counter`.
    """

    asked: int = 0
    absent: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    rejections: dict[int, Counter[str]] = field(default_factory=dict)
    events: dict[int, str] = field(default_factory=dict)
    limits: dict[int, str] = field(default_factory=dict)
    norms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    retries: int = 0
    densities: list[float] = field(default_factory=list)
    pruning_errors: list[float] = field(default_factory=list)
    losses: list[tuple[float, float]] = field(default_factory=list)
    mask_change: float = math.nan
    mask_changes: Float64[np.ndarray, "parameters"] | None = None
    bytes_down: int = 0
    bytes_up: int = 0
    seconds_train: float = 0.0
    seconds_aggregate: float = 0.0
    seconds_slowest: float = 0.0
    clients: dict[int, dict[str, Any]] = field(default_factory=dict)
    replay: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: Findings | None = None
    started: float = field(default_factory=time.perf_counter)

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

    def another(self) -> "RoundReport":
        """Return the report of the next attempt at the same round."""
        return RoundReport(
            rejections=self.rejections,
            events=self.events,
            retries=self.retries + 1,
            bytes_down=self.bytes_down,
            bytes_up=self.bytes_up,
            seconds_aggregate=self.seconds_aggregate,
            clients={
                partition: {key: row[key] for key in ("bytes_down", "bytes_up")}
                for partition, row in self.clients.items()
            },
            started=self.started,
        )

    def begin(self, absent: int, events: Mapping[int, str]) -> None:
        """Note how the fleet stands before anybody is asked."""
        self.absent = absent
        self.events |= events

    def teach(self, replays: Mapping[Fraction, Replay], atom: int) -> None:
        """Note which widths are sent images of a narrower one, and how much of a batch these are.

        Args:
            replays: By rate of the clients.
            atom: Channels of an atom of the model.
        """
        self.replay = {
            str(rate): {
                "teacher": str(Fraction(replay.teacher, atom)),
                "share": float(replay.share),
                "images": len(replay),
            }
            for rate, replay in sorted(replays.items())
        }

    def sent(
        self, partition: int, rate: Fraction, density: float, pruning_error: float, size: int
    ) -> None:
        """Note a task: whose, its submodel, and the message's bytes."""
        self.asked += 1
        before = self.clients.get(partition, {"bytes_down": 0, "bytes_up": 0})
        sent = before["bytes_down"] + size
        self.clients[partition] = {**before, "rate": str(rate), "bytes_down": sent}
        self.densities.append(density)
        self.pruning_errors.append(pruning_error)
        self.bytes_down += size

    def received(self, partition: int, size: int) -> None:
        """Note the bytes of a reply, whatever becomes of it."""
        self.bytes_up += size
        if partition in self.clients:
            self.clients[partition]["bytes_up"] += size

    def used(self, partition: int, loss: float, weight: float, seconds: float) -> None:
        """Note an update that was taken in: whose, its loss, its weight and how long it took."""
        self.clients.setdefault(partition, {}).update(loss=loss)
        self.losses.append((loss, weight))
        self.seconds_slowest = max(self.seconds_slowest, seconds)

    def reject(self, partition: int, reason: str, text: str = "") -> None:
        """Count a reply that was not used; `text` says why the client has no update."""
        self.rejections.setdefault(partition, Counter())[reason] += 1
        if text:
            self.failures[partition] = text

    def aggregated(self, seconds: float) -> None:
        """Note seconds spent on taking replies in and averaging them."""
        self.seconds_aggregate += seconds

    def finish(
        self,
        norms: Mapping[str, tuple[float, ...]],
        limits: Mapping[int, Fraction],
        change: tuple[float, Float64[np.ndarray, "parameters"]],
    ) -> None:
        """Note what the complete round amounts to, and how long it took.

        Args:
            norms: By rate the norms of the updates taken in.
            limits: By partition the largest rate since its memory ran out.
            change: See `server.coverage.mask_changes`.
        """
        self.norms = norms
        self.limits = {partition: str(rate) for partition, rate in limits.items()}
        self.mask_change, self.mask_changes = change
        self.seconds_train = time.perf_counter() - self.started - self.seconds_aggregate

    def complaint(self, round: int, needed: int) -> str:
        """Say in one line why a round is not complete."""
        reasons = Counter(self.failures.values()).most_common(1)
        replied, wanted = self.replied or "none", f"; {needed} are needed" if needed > 1 else ""
        return (
            f"round {round}: {replied} of {self.asked} clients returned a usable update{wanted}; "
            f"most often: {reasons[0][0] if reasons else 'no client was there to be asked'}"
        )

    def row(self) -> HistoryRow:
        """Return the history's part that is known before evaluation."""
        by_client = sorted(self.rejections.items())
        return {
            "loss": self.loss,
            "clients_asked": self.asked,
            "clients_replied": self.replied,
            "clients_failed": self.asked - self.replied,
            "clients_absent": self.absent,
            "by_client": {str(p): row for p, row in sorted(self.clients.items())},
            "failures": _named(self.failures),
            "rejections": {str(k): dict(sorted(counts.items())) for k, counts in by_client},
            "fleet_events": _named(self.events),
            "rate_limits": _named(self.limits),
            "replay": self.replay,
            "retries": self.retries,
            "update_norms": {rate: list(norms) for rate, norms in self.norms.items()},
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


def _named(values: Mapping[int, str]) -> dict[str, str]:
    return {str(partition): value for partition, value in sorted(values.items())}


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan
