"""`CoverageAvg`: one round of heterogeneously pruned training as a Flower strategy.

Everything that decides the result lives elsewhere as plain functions: who keeps what
(`common.extraction`), how updates are averaged (`server.aggregation`), how the state moves on
(`server.state`). This class carries their inputs and outputs to and from Flower's messages, and is
used with Flower's own `Strategy.start`.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from textwrap import shorten

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from jaxtyping import Float32, Float64, UInt8

from common import wire
from common.config import RunConfig
from common.extraction import GlobalWeights, submodel_for
from common.submodel import Layout, Submodel, extract, pruning_error
from server.aggregation import CoverageFold
from server.coverage_report import mask_changes
from server.fleet import Client, participants, request_for, stretch_start
from server.state import ServerState, advance

log = logging.getLogger("flwr")


@dataclass
class RoundReport:
    """What happened in a round, for the history."""

    asked: int = 0
    failures: dict[int, str] = field(default_factory=dict)
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

    @property
    def replied(self) -> int:
        """Clients whose update was taken in."""
        return len(self.losses)

    @property
    def loss(self) -> float:
        """The clients' mean training loss by their weights."""
        total = sum(weight for _, weight in self.losses)
        return sum(loss * weight for loss, weight in self.losses) / total


class NoUsableReplyError(RuntimeError):
    """Every client of a round failed; to go on would pass the old model off as trained."""


class CoverageAvg(Strategy):
    """Average each coordinate over the clients that were assigned it and replied.

    Args:
        config: The run's configuration.
        layout: The full model's layout.
        fleet: Every client, in the order of partitions.
        state: Where to start: fresh, or a checkpoint's.

    `Strategy.start` counts rounds from 1; a resumed run's rounds go on from ``state.round``.
    """

    def __init__(
        self, config: RunConfig, layout: Layout, fleet: list[Client], state: ServerState
    ) -> None:
        self.config = config
        self.layout = layout
        self.fleet = fleet
        self.state = state
        self.report = RoundReport()
        self.round_counts = np.zeros(layout.coverage_size, dtype=np.int64)
        self._tasks: dict[str, tuple[Client, Submodel, wire.TaskSpec]] = {}
        self._weights = GlobalWeights(layout, self._policy_theta)
        self._started = 0.0

    def arrays(self) -> ArrayRecord:
        """Return the global weights as the record that Flower passes around."""
        return ArrayRecord({wire.VALUES: Array(self.state.theta)})

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterator[Message]:
        """Yield each client's task, made only when it is sent: one at a time is in memory."""
        self._started = time.perf_counter()
        round = self.state.round + 1
        clients = participants(self.fleet, self.config, round)
        weights = self._weights = GlobalWeights(self.layout, self._policy_theta)
        self.report = RoundReport(asked=len(clients))
        self._tasks = {}
        for client in clients:
            submodel = submodel_for(
                self.config.policy, request_for(self.layout, self.config, client, round, weights)
            )
            spec = wire.spec_for(submodel, round, self.config.policy, self.config.codec)
            values = extract(self.state.theta, submodel)
            content = wire.pack_task(values, spec)
            self.report.bytes_down += wire.payload_bytes(content)
            self.report.densities.append(submodel.density)
            self.report.masks[client.partition] = spec.bitmask
            self.report.pruning_errors.append(pruning_error(self.state.theta, values))
            message = Message(content, client.node, MessageType.TRAIN, group_id=str(round))
            metadata = message.metadata
            yield message
            # The grid has numbered the message by now; only its number is kept, not its payload.
            del message, content, values
            self._tasks[metadata.message_id] = client, submodel, spec

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold replies in as they arrive and move the state on.

        Raises:
            NoUsableReplyError: Not one client returned a usable update.
        """
        fold: CoverageFold | None = None
        for reply in replies:
            received = time.perf_counter()
            # The first reply proves that all tasks are out, so the sum over clients asked is known.
            fold = fold or CoverageFold(self.layout, sum(map(self.weight, self._asked())))
            self._take(reply, fold)
            self.report.seconds_aggregate += time.perf_counter() - received
        for client in self._asked():
            self.report.failures[client.partition] = "no reply"
        self._tasks = {}
        round = self.state.round + 1
        for partition, reason in sorted(self.report.failures.items()):
            log.warning("round %d: client %d failed: %s", round, partition, reason)
        if fold is None or not self.report.replied:
            reasons = Counter(self.report.failures.values()).most_common(1)
            raise NoUsableReplyError(
                f"round {round}: none of {self.report.asked} clients returned a usable update; "
                f"most often: {reasons[0][0] if reasons else 'no client was asked'}"
            )
        started = time.perf_counter()
        aggregate = fold.finish(self.state.theta)
        anchor = self._next_anchor(round + 1)
        self.state = advance(self.state, aggregate, self.layout, self.config)
        updates, masks = self.state.updates + self.report.replied, self._masks()
        self.state = replace(self.state, anchor=anchor, updates=updates, masks=masks)
        self.round_counts = aggregate.counts
        now = time.perf_counter()
        self.report.seconds_aggregate += now - started
        self.report.seconds_train = now - self._started - self.report.seconds_aggregate
        return self.arrays(), None

    def _take(self, reply: Message, fold: CoverageFold) -> None:
        """Check one reply and fold it in, or note why not."""
        # An error may come from the SuperLink in a lost node's stead, so the task's number counts.
        task = self._tasks.pop(reply.metadata.reply_to_message_id, None)
        if task is None:
            return
        client, submodel, spec = task
        if reply.has_error():
            # Flower sends whole tracebacks; what happened is in the last line.
            reason = (reply.error.reason or "no reason given").strip().splitlines()[-1]
            self.report.failures[client.partition] = shorten(reason, 200, placeholder=" …")
            return
        try:
            values, metrics = wire.unpack_reply(reply.content, spec, submodel)
            loss, images = float(metrics["loss"]), int(metrics["images"])
            fold.add(values, submodel, self.weight(client), images)
        except (ValueError, KeyError) as error:
            self.report.failures[client.partition] = f"refused: {error}"
            return
        self.report.bytes_up += wire.payload_bytes(reply.content)
        self.report.losses.append((loss, self.weight(client)))

    def _policy_theta(self) -> Float32[np.ndarray, "P"]:
        """Return the weights that policies look at: those when clients last moved."""
        return self.state.theta if self.state.anchor is None else self.state.anchor

    def _next_anchor(self, round: int) -> Float32[np.ndarray, "P"] | None:
        """Return what policies look at in the next round, if that is not the weights then."""
        moves = stretch_start(self.config, round) == round
        return None if moves or not self._weights.looked_at else self._policy_theta()

    def _masks(self) -> UInt8[np.ndarray, "clients bytes"]:
        """Note how much of what clients held was new to them; return what all held last."""
        asked = list(self.report.masks)
        now = np.stack([np.frombuffer(bits, np.uint8) for bits in self.report.masks.values()])
        before, masks = self.state.masks[asked], self.state.masks.copy()
        self.report.mask_change, self.report.mask_changes = mask_changes(self.layout, before, now)
        masks[asked] = now
        return masks

    def weight(self, client: Client) -> float:
        """Return a client's weight in the average."""
        weight = client.examples if self.config.weighting == "examples" else 1
        return float(weight * client.rate**self.config.rates.weight)

    def _asked(self) -> list[Client]:
        return [client for client, _, _ in self._tasks.values()]

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Ask nobody: the server evaluates by sampling."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return nothing, as nobody was asked."""
        return None

    def summary(self) -> None:
        """Log the fleet and the policy."""
        rates = Counter(str(client.rate) for client in self.fleet)
        fleet = ", ".join(f"{count} at rate {rate}" for rate, count in rates.items())
        log.info("CoverageAvg: %s; policy %s", fleet, self.config.policy)
