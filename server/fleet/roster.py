"""The roster: who answers for each partition while nodes come and go.

The grid only knows node ids, which say nothing and change when a device starts again without a key.
So every node that appears is asked who it is, and what it answers decides whose place it takes.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from common.config import RunConfig
from common.errors import UserError
from common.submodels import Layout
from common.wire import RollCall, WireError, pack_question, unpack_roll_call
from server.fleet.members import Client, fleet_of, highest_rate, required

PAUSE = 0.1
"""Seconds between two looks at who has come, at the start."""

LONGER_PAUSE = 0.5
"""The same while a round waits for enough clients."""

log = logging.getLogger("flwr")


class Roster:
    """The members of a run's fleet, and the largest rate that each can hold.

    Args:
        config: The run's configuration.
        layout: The full model's layout.
        image_shape: (C, H, W) of the run's images, which everybody must have.
        limits: By partition the largest rate since its memory ran out; 0 is none at all.
    """

    def __init__(
        self,
        config: RunConfig,
        layout: Layout,
        image_shape: tuple[int, int, int],
        limits: Mapping[int, Fraction] | None = None,
    ) -> None:
        self.config = config
        self.layout = layout
        self.image_shape = image_shape
        self.rates = config.client_rates
        self._limits = dict(limits or {})
        self._events: dict[int, str] = {}
        self._failing: set[int] = set()
        self._members: dict[int, tuple[int, RollCall]] = {}
        self._online: set[int] = set()
        self._questions: dict[str, int] = {}
        self._queue: dict[int, RollCall] = {}
        self._fleet: list[Client] | None = None

    @property
    def limits(self) -> dict[int, Fraction]:
        """By partition the largest rate since its memory ran out; the caller's own."""
        return dict(self._limits)

    def lower(self, partition: int, limit: Fraction) -> None:
        """Give a client whose memory ran out no more than this from now on."""
        self._limits[partition] = limit
        self._fleet = None

    def heard(self, asked: Iterable[int], failed: Iterable[int]) -> None:
        """Note which of the partitions asked failed at their task: a newcomer may replace them."""
        self._failing = self._failing.difference(asked) | set(failed)

    def take_events(self) -> dict[int, str]:
        """Return what has happened to whom since this was last asked."""
        events, self._events = self._events, {}
        return events

    def start(self, grid: Grid) -> None:
        """Wait until the whole fleet has answered, or as many as a round needs.

        Raises:
            UserError: Too few nodes answered within `start-timeout`, or one of them said something
                that does not fit; the line names it.
        """
        deadline = time.monotonic() + self.config.start_timeout
        while len(self._members) < len(self.rates):
            refused = self.update(grid)
            if refused:
                raise UserError(f"roll-call: {refused[0]}")
            if len(self._members) == len(self.rates):
                break
            if time.monotonic() > deadline:
                if self.config.min_replies and self.enough():
                    break
                raise UserError(
                    f"fleet: names {len(self.rates)} clients, but {len(self._members)} of the "
                    f"{len(self._online)} nodes that are connected answered as one of them; in a "
                    f"simulation start with --federation-config 'num-supernodes={len(self.rates)}'"
                )
            time.sleep(PAUSE)
        if self._queue:
            node, answer = next(iter(self._queue.items()))
            raise UserError(f"roll-call: {_taken(node, answer)}")
        self.take_events()

    def wait(self, grid: Grid) -> None:
        """Follow the nodes until enough clients are there for a round, or its time is over."""
        deadline = time.monotonic() + self.config.round_timeout
        self.update(grid)
        while not self.enough() and time.monotonic() < deadline:
            time.sleep(LONGER_PAUSE)
            self.update(grid)

    def update(self, grid: Grid) -> list[str]:
        """Follow the nodes that have left, ask those that are new and take in those that answered.

        Args:
            grid: Where the nodes are.

        Returns:
            Why somebody who answered was not taken in.
        """
        online = set(grid.get_node_ids())
        for partition, (node, _) in self._members.items():
            if (node in online) != (node in self._online):
                self._events[partition] = "joined" if node in online else "left"
        if online != self._online:
            self._fleet = None
        new, self._online = sorted(online - self._online), online
        self._queue = {node: answer for node, answer in self._queue.items() if node in online}
        for node in new:
            question = Message(pack_question(self.config.round_budget > 0), node, MessageType.QUERY)
            self._questions |= {number: node for number in grid.push_messages([question]) if number}
        refused = []
        for reply in grid.pull_messages(list(self._questions)) if self._questions else ():
            node = self._questions.pop(reply.metadata.reply_to_message_id, 0)
            if not node:
                continue
            try:
                if reply.has_error():
                    reason = (reply.error.reason or "no reason given").strip().splitlines()[-1]
                    raise WireError(f"a client failed: {reason}")
                answer = unpack_roll_call(reply.content)
                self._check(answer)
            except ValueError as error:
                if node in online:  # a node that has gone is answered for by the grid
                    refused.append(f"node {node}: {error}")
            else:
                self._queue[node] = answer
        for reason in refused:
            log.warning("roll-call: %s", reason)
        self._admit()
        return refused

    def _admit(self) -> None:
        """Give those who wait their places, if these are free."""
        for node, answer in list(self._queue.items()):
            holder, _ = self._members.get(answer.partition, (node, answer))
            if holder != node and holder in self._online and answer.partition not in self._failing:
                log.warning("roll-call: %s", _taken(node, answer))
                continue
            del self._queue[node]
            self._members[answer.partition] = node, answer
            self._failing.discard(answer.partition)
            self._fleet = None
            self._events[answer.partition] = "joined"

    def _check(self, answer: RollCall) -> None:
        if answer.partition >= len(self.rates):
            raise WireError(
                f"partition-id {answer.partition}: the fleet names {len(self.rates)} clients, "
                f"which are 0 … {len(self.rates) - 1}"
            )
        if answer.image_shape != self.image_shape:
            theirs, ours = ("x".join(map(str, s)) for s in (answer.image_shape, self.image_shape))
            raise WireError(f"client {answer.partition} has images of {theirs}, the run of {ours}")

    def fleet(self) -> list[Client]:
        """Return every client of the fleet in the order of partitions, absent ones included.

        The same list until something about it changes: a round must not cost what the fleet does.
        """
        if self._fleet is None:
            partitions = range(len(self.rates))
            rates = [self._rate(partition) for partition in partitions]
            fleet = fleet_of(rates, [self._present(partition) for partition in partitions])
            self._fleet = [
                replace(client, accepts=self._accepts(client.partition)) for client in fleet
            ]
        return self._fleet

    def enough(self) -> bool:
        """Say whether as many clients are present as a round needs replies."""
        present = sum(client.present for client in self.fleet())
        asked = min(self.config.clients_per_round or len(self.rates), len(self.rates))
        return present >= max(1, required(self.config, asked))

    def record(self) -> list[dict[str, Any]]:
        """Return a description of every client for `fleet.json`.

        With privacy there is nothing in it that clients say, nor which of them are there.
        """
        rows, secret = [], self.config.privacy.on
        for client in self.fleet():
            row: dict[str, Any] = {
                "partition": client.partition,
                "present": None if secret else client.present,
                "rate": str(client.rate),
                "configured_rate": str(self.rates[client.partition]),
            }
            if client.partition in self._members and not secret:
                node, answer = self._members[client.partition]
                row |= {
                    "node": node,
                    "device": answer.name,
                    "examples": answer.examples,
                    "image_shape": list(answer.image_shape),
                    "skipped": answer.skipped,
                    "accepts_rate": str(answer.rate),
                    "memory_free": answer.memory_free,
                    "step_seconds": {str(rate): time for rate, time in answer.step_seconds},
                }
            rows.append(row)
        return rows

    def _present(self, partition: int) -> tuple[int, int] | None:
        """Return a client's node and number of images if it can be asked to train."""
        node, answer = self._members.get(partition, (0, None))
        if answer is None or node not in self._online or not self._rate(partition):
            return None
        return node, answer.examples

    def _rate(self, partition: int) -> Fraction:
        """Return the rate that a client gets, 0 if there is none that it can hold.

        With privacy it is the configured one, held or not: others' submodels depend on it.
        """
        if self.config.privacy.on:
            return self.rates[partition]
        limit = min(self.rates[partition], self._accepts(partition))
        _, answer = self._members.get(partition, (0, None))
        times = answer.step_seconds if answer else ()
        return highest_rate(self.layout, limit, self.config, times)

    def _accepts(self, partition: int) -> Fraction:
        limit = self._limits.get(partition, Fraction(1))
        _, answer = self._members.get(partition, (0, None))
        return min(limit, answer.rate) if answer else limit


def _taken(node: int, answer: RollCall) -> str:
    who = f" (device {answer.name})" if answer.name else ""
    return (
        f"node {node}{who} says partition-id {answer.partition}, which another node has that still "
        "answers; give each its own"
    )
