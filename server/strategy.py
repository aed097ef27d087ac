"""`CoverageAvg`: one round of heterogeneously pruned training as a Flower strategy.

Everything that decides the result lives elsewhere as plain functions: who keeps what
(`server.policies.choose`), how updates are averaged (`server.aggregation`), how the state moves on
(`server.state`). This class carries their inputs and outputs to and from Flower's messages, and is
used with Flower's own `Strategy.start`.
"""

import gc
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from textwrap import shorten

import numpy as np
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from jaxtyping import Float32, UInt8

from common import wire
from common.config import RunConfig, stretch_start
from common.submodels import Layout, extract
from common.wire import WireError, pack_array
from server.aggregation import (
    Fold,
    ImportanceFold,
    NormCheck,
    asks_for_scores,
    fold_for,
)
from server.coverage import Coverage, mask_changes
from server.fleet import (
    GRACE,
    Client,
    Parcels,
    Roster,
    Task,
    Tasks,
    participants,
    request_for,
    required,
)
from server.policies import GlobalWeights, submodel_for
from server.record.report import RoundReport
from server.state import ServerState, advance

PAUSE = 0.5
"""Seconds between two looks at who has come, while too few clients are there."""

log = logging.getLogger("flwr")


class NoUsableReplyError(RuntimeError):
    """Too few clients returned an update; to go on would pass the old model off as trained."""


class CoverageAvg(Strategy):
    """Average each coordinate over the clients that were assigned it and replied.

    Args:
        config: The run's configuration.
        layout: The full model's layout.
        roster: Who the clients are; followed from round to round.
        state: Where to start: fresh, or a checkpoint's.
        norms: What is known of the norms of updates.

    `Strategy.start` counts rounds from 1; a resumed run's rounds go on from ``state.round``.
    """

    def __init__(
        self,
        config: RunConfig,
        layout: Layout,
        roster: Roster,
        state: ServerState,
        norms: NormCheck,
    ) -> None:
        self.config = config
        self.layout = layout
        self.roster = roster
        self.state = state
        self.norms = norms
        self.report = RoundReport()
        self.coverage = Coverage(layout, [], np.zeros((0, 3)))
        self._tasks = Tasks()
        self._scores: ImportanceFold | None = None
        self._failing: set[int] = set()
        self._weights = GlobalWeights(layout, self._policy_theta)
        self._started = 0.0
        self._grid: Grid | None = None

    def arrays(self) -> ArrayRecord:
        """Return the global weights as the record that Flower passes around."""
        return ArrayRecord({wire.VALUES: pack_array(self.state.theta)})

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterator[Message]:
        """Yield each client's task, made only when it is sent: one at a time is in memory."""
        self._grid = grid
        self.report = RoundReport()
        yield from self._tasks_of_round(grid)

    def _tasks_of_round(self, grid: Grid) -> Iterator[Message]:
        self._started = time.perf_counter()
        self._follow(grid)
        round = self.state.round + 1
        fleet, busy = self.roster.fleet(), self._tasks.busy()
        clients = participants(fleet, self.config, round)
        clients = [client for client in clients if client.partition not in busy] or clients
        self.report.asked = len(clients)
        self.report.absent = sum(not client.present for client in fleet)
        deadline = time.monotonic() + self.config.round_timeout
        weights = self._weights = GlobalWeights(self.layout, self._policy_theta, self.state.scores)
        parcels = Parcels(self.state.theta, self.config, round, asks_for_scores(self.config, round))
        for client in clients:
            submodel = submodel_for(
                self.config.policy, request_for(self.layout, self.config, client, round, weights)
            )
            if submodel.rate > client.accepts:
                self.report.reject(client.partition, "too large", "accepts no submodel so large")
                continue
            spec, content, error = parcels.pack(submodel)
            self.report.bytes_down += wire.payload_bytes(content)
            self.report.densities.append(submodel.density)
            self.report.masks[client.partition] = spec.bitmask
            self.report.pruning_errors.append(error)
            # A client that is away must not train on it when it comes back much later.
            message = Message(
                content,
                client.node,
                MessageType.TRAIN,
                group_id=str(round),
                ttl=self.config.round_timeout + GRACE,
            )
            metadata = message.metadata
            yield message
            # The grid has numbered the message by now; only its number is kept, not its payload.
            del message, content
            gc.collect(1)
            self._tasks.open[metadata.message_id] = Task(client, submodel, spec, deadline)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold replies in as they arrive and move the state on; try again if they are too few.

        Raises:
            NoUsableReplyError: Too few clients returned a usable update, in all attempts.
        """
        assert self._grid is not None
        while (fold := self._collect(replies)) is None:
            complaint = self.report.complaint(self.state.round + 1, self._needed())
            if self.report.retries == self.config.round_retries:
                raise NoUsableReplyError(complaint)
            log.warning("%s; trying again", complaint)
            self.report = RoundReport(
                retries=self.report.retries + 1,
                rejections=self.report.rejections,
                events=self.report.events,
            )
            tasks = self._tasks_of_round(self._grid)
            replies = self._grid.send_and_receive(tasks, timeout=self.config.round_timeout)
        started = time.perf_counter()
        aggregate = fold.finish(self.state.theta)
        anchor = self._next_anchor(self.state.round + 2)
        self.state = advance(self.state, aggregate, self.layout, self.config)
        updates, masks = self.state.updates + self.report.replied, self._masks()
        scores = self._scores.finish(self.state.scores) if self._scores else self.state.scores
        self.state = replace(self.state, anchor=anchor, updates=updates, masks=masks, scores=scores)
        self.norms.learn(self.report.norms)
        self.report.limits = {p: str(rate) for p, rate in self.roster.limits.items()}
        self.coverage = aggregate.coverage
        now = time.perf_counter()
        self.report.seconds_aggregate += now - started
        self.report.seconds_train = now - self._started - self.report.seconds_aggregate
        return None, None  # the weights are in `state`; a record would copy them for nobody

    def _follow(self, grid: Grid) -> None:
        """Wait until enough clients are there to be asked, and take late replies off the grid."""
        deadline = time.monotonic() + self.config.round_timeout
        self.roster.update(grid, self._failing)
        while not self.roster.enough() and time.monotonic() < deadline:
            time.sleep(PAUSE)
            self.roster.update(grid, self._failing)
        self.report.events |= self.roster.events
        self.roster.events = {}
        for partition in self._tasks.late(grid):
            self.report.reject(partition, "late")

    def _collect(self, replies: Iterable[Message]) -> Fold | None:
        """Take replies in until there are enough or no more come; None if they are too few."""
        fold: Fold | None = None
        self._scores = None
        config, closed = self.config, False
        may_close = config.min_replies > 0 and config.close_early
        for reply in replies:
            received = time.perf_counter()
            # The first reply proves that all tasks are out, so the sum over clients asked is known.
            if fold is None:
                total = sum(self.weight(task.client) for task in self._tasks.open.values())
                fold = fold_for(self.layout, total, config)
                if asks_for_scores(config, self.state.round + 1):
                    self._scores = ImportanceFold(self.layout, total, config)
            self._take(reply, fold)
            # Flower's records refer to themselves: only the collector frees what they carry, and it
            # counts objects, not bytes. What is this young it finds in no time.
            del reply
            gc.collect(1)
            self.report.seconds_aggregate += time.perf_counter() - received
            closed = may_close and self.report.replied >= self._needed()
            if closed and self._tasks.open:
                break
        for partition in self._tasks.close(early=closed):
            self.report.reject(partition, "no reply", "no reply")
        self._failing = set(self.report.failures)
        for partition, reason in sorted(self.report.failures.items()):
            log.warning("round %d: client %d failed: %s", self.state.round + 1, partition, reason)
        return fold if self.report.replied >= self._needed() else None

    def _needed(self) -> int:
        return required(self.config, self.report.asked)

    def _take(self, reply: Message, fold: Fold) -> None:
        """Check one reply and fold it in, or note why not."""
        partition, task = self._tasks.claim(reply)
        if task is None:
            self.report.reject(partition, "unasked")
            return
        if reply.has_error():
            # Flower sends whole tracebacks; what happened is in the last line.
            reason = (reply.error.reason or "no reason given").strip().splitlines()[-1]
            self.report.reject(partition, "error", shorten(reason, 200, placeholder=" …"))
            return
        try:
            answer = wire.unpack_reply(reply.content, task.spec, task.submodel)
            values, norm = wire.trained(answer, task.spec, task.submodel, self.state.theta), None
            if self.norms.mode != "off":
                before = extract(self.state.theta, task.submodel)
                values, norm = self.norms.checked(values, before, task.submodel, task.client.rate)
            fold.add(values, task.submodel, self.weight(task.client), answer.images)
            if self._scores and answer.scores is not None:
                self._scores.add(answer.scores, task.submodel, self.weight(task.client))
        except wire.TooLargeError as error:
            limit = self.roster.limits[partition] = Fraction(error.k, self.layout.atom)
            text = f"out of memory at rate {task.client.rate}, can do {limit}"
            self.report.reject(partition, error.reason, text)
        except WireError as error:
            self.report.reject(partition, error.reason, f"refused: {error}")
        except ValueError as error:
            self.report.reject(partition, "not-finite", f"refused: {error}")
        else:
            self.report.bytes_up += wire.payload_bytes(reply.content)
            self.report.losses.append((answer.loss, self.weight(task.client)))
            self.report.seconds_slowest = max(self.report.seconds_slowest, answer.seconds)
            if norm is not None:
                self.report.norms.setdefault(str(task.client.rate), []).append(norm)

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
        rates = Counter(str(client.rate) for client in self.roster.fleet())
        fleet = ", ".join(f"{count} at rate {rate}" for rate, count in rates.items())
        log.info("CoverageAvg: %s; policy %s", fleet, self.config.policy)
