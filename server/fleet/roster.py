"""The roster: who answers for each partition while nodes come and go.

The grid only knows node ids, which say nothing and change when a device starts again without a key.
So every node that appears is asked who it is, and what it answers decides whose place it takes. One
that cannot be taken is refused by itself: nobody else waits for it.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from common.config import RunConfig
from common.errors import UserError
from common.submodels import Layout
from common.wire import RollCall, UnfitError, WireError
from server.fleet.classes import ClassNames
from server.fleet.members import Client, fleet_of, highest_rate, required
from server.fleet.places import FixedPlaces, OpenPlaces, Places
from server.fleet.questions import Questions, key_of, recorded
from server.fleet.refusals import Refusal, Refusals

PAUSE = 0.1
"""Seconds between two looks at who has come, at the start."""

LONGER_PAUSE = 0.5
"""The same while a round waits for enough clients."""

SETTLE = 15.0
"""Seconds that whoever is connected has to answer once enough have, where whoever comes takes part.
"""


class Roster:
    """The members of a run's fleet, and the largest rate that each can hold.

    Args:
        config: The run's configuration.
        layout: The full model's layout.
        image_shape: (C, H, W) of the run's images, which everybody must have.
        limits: By partition the largest rate since its memory ran out; 0 is none at all.
        numbers: Where the run remembers who has which number if whoever comes takes part; None is
            nowhere.
        classes: What the run's classes are called; numbers if None.
    """

    def __init__(
        self,
        config: RunConfig,
        layout: Layout,
        image_shape: tuple[int, int, int],
        limits: Mapping[int, Fraction] | None = None,
        numbers: Path | None = None,
        classes: ClassNames | None = None,
    ) -> None:
        self.config = config
        self.layout = layout
        self.image_shape = image_shape
        self.classes = classes or ClassNames(config)
        self._places: Places = (
            OpenPlaces(config, layout, numbers) if config.auto else FixedPlaces(config)
        )
        self._limits = dict(limits or {})
        self._events: dict[int, str] = {}
        self._failing: set[int] = set()
        self._members: dict[int, tuple[int, RollCall]] = {}
        self._online: set[int] = set()
        self._questions = Questions(config.round_budget > 0)
        self._queue: dict[int, tuple[int, RollCall]] = {}
        self._refusals = Refusals()
        self._simulated = 0
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

        Where whoever comes takes part, that is until enough have answered and nobody else who is
        connected is about to.

        Raises:
            UserError: Too few nodes answered within `start-timeout`, or one of a simulation cannot
                be taken; the line says who and why.
        """
        deadline, settled = time.monotonic() + self.config.start_timeout, None
        while True:
            self.update(grid)
            now = time.monotonic()
            settled = settled or (now + SETTLE if self.enough() else None)
            if self._complete(now, settled):
                break
            everybody = not self._questions.unanswered(self._online)
            if self._simulated and self._refusals and everybody:  # nobody else can come
                raise UserError(f"roll-call: {self._refusals}")
            if now > deadline:
                if self.enough() and (self.config.auto or self.config.min_replies):
                    break
                raise UserError(self._too_few())
            time.sleep(PAUSE)
        self.classes.fix(self._answers())
        self.take_events()

    def _complete(self, now: float, settled: float | None) -> bool:
        """Say whether a run need not wait for anybody any more."""
        if not self.config.auto or self._simulated:
            wanted = self._simulated if self.config.auto else self._places.most
            return len(self._members) >= wanted
        if settled is None:
            return False
        return now > settled or not self._questions.unanswered(self._online)

    def _too_few(self) -> str:
        """Say that too few have come, and who was refused."""
        most = self._places.most
        wanted = f"names {most} clients"
        if self.config.auto:
            wanted = f"auto begins with min-clients={self.config.min_clients}"
        hint = f"; not taken: {self._refusals}" if self._refusals else ""
        if self._simulated and not self.config.auto:
            hint += f"; in a simulation start with --federation-config 'num-supernodes={most}'"
        return (
            f"fleet: {wanted}, but {len(self._members)} of the {len(self._online)} nodes that are "
            f"connected answered as one of them{hint}"
        )

    def wait(self, grid: Grid) -> None:
        """Follow the nodes until enough clients are there for a round, or its time is over."""
        deadline = time.monotonic() + self.config.round_timeout
        self.update(grid)
        while not self.enough() and time.monotonic() < deadline:
            time.sleep(LONGER_PAUSE)
            self.update(grid)

    def update(self, grid: Grid) -> None:
        """Follow the nodes that have left, ask those that are new and take in those that answered.

        Args:
            grid: Where the nodes are.
        """
        online = set(grid.get_node_ids())
        for partition, (node, _) in self._members.items():
            if (node in online) != (node in self._online):
                self._events[partition] = "joined" if node in online else "left"
        if online != self._online:
            self._fleet = None
        new, self._online = sorted(online - self._online), online
        self._queue = {node: waiting for node, waiting in self._queue.items() if node in online}
        for node in new:
            self._questions.ask(grid, node)
        for node, answer in self._questions.answers(grid):
            if node not in online:  # a node that has gone is answered for by the grid
                continue
            try:
                if isinstance(answer, WireError):
                    raise answer
                self._simulated = max(self._simulated, answer.partitions)
                self._check(answer)
                number = self._places.place(answer, partial(key_of, grid, node))
                if answer.examples:
                    self._queue[node] = number, answer
                else:  # its number says which images are its own
                    self._questions.ask(grid, node, number)
            except WireError as error:
                if isinstance(error, UnfitError):
                    self._simulated = max(self._simulated, error.partitions)
                self._refuse(grid, node, getattr(answer, "name", ""), str(error))
        self._admit(grid)

    def _admit(self, grid: Grid) -> None:
        """Give those who wait their places, if these are free."""
        for node, (partition, answer) in list(self._queue.items()):
            holder, _ = self._members.get(partition, (node, answer))
            if holder != node and holder in self._online and partition not in self._failing:
                self._refuse(grid, node, answer.name, self._places.taken(partition, answer))
                if len(self._queue) > self._places.most:
                    del self._queue[node]
                continue
            del self._queue[node]
            self._members[partition] = node, answer
            self._failing.discard(partition)
            self._fleet = None
            self._events[partition] = "joined"
            self._refusals.taken(node, answer.name, self._online)
        self._places.remember()

    def _check(self, answer: RollCall) -> None:
        if answer.image_shape != self.image_shape:
            theirs, ours = ("x".join(map(str, s)) for s in (answer.image_shape, self.image_shape))
            raise WireError(f"it has images of {theirs}, the run of {ours}")
        self.classes.check(answer, self._answers())

    def _answers(self) -> list[RollCall]:
        """Return what those have answered who are there, and those that wait to be taken."""
        taken = [(node, answer) for node, answer in self._members.values() if node in self._online]
        return [answer for _, answer in (*taken, *self._queue.values())]

    def _refuse(self, grid: Grid, node: int, device: str, reason: str) -> None:
        """Leave a node out, for a reason that is told to whoever can mend it."""
        if self._refusals.add(Refusal(node=node, device=device, reason=reason)):
            self._questions.tell(grid, node, reason)
            self._fleet = None
        # Nor is it asked for what it could do before.
        for partition, (holder, _) in list(self._members.items()):
            if holder == node:
                del self._members[partition]
                self._events[partition] = "left"
                self._fleet = None

    def fleet(self) -> list[Client]:
        """Return every client of the fleet in the order of partitions, absent ones included.

        The same list until something about it changes: a round must not cost what the fleet does.
        """
        if self._fleet is None:
            numbers = self._places.numbers()
            partitions = range(self._places.most) if numbers is None else numbers
            rates = [self._rate(partition) for partition in partitions]
            present = [self._present(partition) for partition in partitions]
            self._fleet = [
                replace(client, accepts=self._accepts(client.partition))
                for client in fleet_of(rates, present, numbers)
            ]
        return self._fleet

    def enough(self) -> bool:
        """Say whether as many clients are present as a round needs replies."""
        present = sum(client.present for client in self.fleet())
        if self.config.auto:
            return present >= self.config.min_clients
        asked = min(self.config.clients_per_round or self._places.most, self._places.most)
        return present >= max(1, required(self.config, asked))

    def record(self) -> list[dict[str, Any]]:
        """Return a description of every client, and of who is not taken, for `fleet.json`.

        With privacy there is nothing in it that clients say, nor which of them are there.
        """
        rows: list[dict[str, Any]] = []
        secret = self.config.privacy.on
        for client in self.fleet():
            row: dict[str, Any] = {
                "partition": client.partition,
                "present": None if secret else client.present,
                "rate": str(client.rate),
                "configured_rate": str(self._places.configured(client.partition)),
                **self._places.known_by(client.partition),
            }
            if client.partition in self._members and not secret:
                node, answer = self._members[client.partition]
                row |= recorded(node, answer)
            rows.append(row)
        return [*rows, *self._refusals.record()]

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
        limit = self._places.configured(partition)
        if self.config.privacy.on:
            return limit
        limit = min(limit, self._accepts(partition))
        _, answer = self._members.get(partition, (0, None))
        times = answer.step_seconds if answer else ()
        return highest_rate(self.layout, limit, self.config, times)

    def _accepts(self, partition: int) -> Fraction:
        limit = self._limits.get(partition, Fraction(1))
        _, answer = self._members.get(partition, (0, None))
        return min(limit, answer.rate) if answer else limit
