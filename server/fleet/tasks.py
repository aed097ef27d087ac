"""The tasks of a round that are out, and those of earlier rounds that may still be answered."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from jaxtyping import Float32

from common import wire
from common.config import RunConfig
from common.submodels import Submodel, extract, pruning_error
from common.wire import TaskSpec
from server.fleet.members import Client

GRACE = 60.0
"""Seconds after its deadline in which a late reply is still told from none."""

NOBODY = -1
"""The partition under which replies are counted that belong to no task."""


@dataclass(frozen=True)
class Task:
    """What a client was asked.

    Attributes:
        client: Who was asked.
        submodel: What it was assigned.
        spec: What it was told.
        deadline: When the round closes, on the clock of `time.monotonic`.
        given_up: Whether the client was waited for in vain, rather than not waited for.
    """

    client: Client
    submodel: Submodel
    spec: TaskSpec
    deadline: float
    given_up: bool = False


class Tasks:
    """Tells by a reply's number what it answers."""

    def __init__(self) -> None:
        self.open: dict[str, Task] = {}
        self._answered: dict[str, int] = {}
        self._overdue: dict[str, Task] = {}

    def claim(self, reply: Message) -> tuple[int, Task | None]:
        """Return whom a reply concerns, and the task that it answers.

        There is no task for what nobody asked, for a second answer, and for one from another node.
        Errors are taken from anybody, because the grid reports them in a lost node's stead.
        """
        number = reply.metadata.reply_to_message_id
        if number not in self.open:
            return self._answered.get(number, NOBODY), None
        client = self.open[number].client
        if reply.has_content() and reply.metadata.src_node_id != client.node:
            return client.partition, None
        self._answered[number] = client.partition
        return client.partition, self.open.pop(number)

    def close(self, early: bool) -> list[int]:
        """End the round and return the partitions that have not answered.

        A client whose round closed `early` may be busy until its deadline; others were given up.
        """
        for number, task in self.open.items():
            self._overdue[number] = replace(task, given_up=not early)
        silent = [task.client.partition for task in self.open.values()]
        self.open, self._answered = {}, {}
        return silent

    def late(self, grid: Grid) -> Iterator[int]:
        """Take late replies off the grid, one at a time, and yield the partitions they are of."""
        now = time.monotonic()
        for number, task in list(self._overdue.items()):
            for reply in grid.pull_messages([number]):
                self._overdue.pop(number, None)
                if reply.has_content():
                    yield task.client.partition
            if now > task.deadline + GRACE:
                self._overdue.pop(number, None)

    def busy(self) -> set[int]:
        """Return the partitions that may still work on an earlier round."""
        now = time.monotonic()
        return {
            task.client.partition
            for task in self._overdue.values()
            if task.deadline > now and not task.given_up
        }


class Parcel(NamedTuple):
    """What one client is sent.

    Attributes:
        spec: Which submodel, and what to do with it.
        content: The spec with the weights.
        pruning_error: The share of the weights' squared norm that the submodel drops.
    """

    spec: wire.TaskSpec
    content: RecordDict
    pruning_error: float


class Parcels:
    """Packs submodels of the global weights; the same one is packed once, if neighbours ask for it.

    No more than one is in memory here.

    Args:
        theta: The global weights.
        config: The run's configuration; `policy` and `codec` are read.
        round: The round.
    """

    def __init__(self, theta: Float32[np.ndarray, "P"], config: RunConfig, round: int) -> None:
        self._theta = theta
        self._config = config
        self._round = round
        self._last: Parcel | None = None

    def pack(self, submodel: Submodel) -> Parcel:
        """Return a submodel with its weights, in a record that is the caller's own."""
        policy, codec = self._config.policy, self._config.codec
        spec = wire.spec_for(submodel, self._round, policy, codec)
        if self._last is None or self._last.spec != spec:
            self._last = None
            values = extract(self._theta, submodel)
            error = pruning_error(self._theta, values)
            self._last = Parcel(spec, wire.pack_task(values, spec), error)
        return self._last._replace(content=RecordDict(dict(self._last.content)))
