"""The tasks of a round that are out, and those of earlier rounds that may still be answered."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from flwr.app import Message, Metadata, RecordDict
from flwr.serverapp import Grid
from jaxtyping import Float32

from common import wire
from common.config import RunConfig
from common.replay import Replay
from common.submodels import Submodel, extract, pruning_error
from common.wire import TaskSpec
from server.fleet.assignments import Assignment

GRACE = 60.0
"""Seconds after its deadline in which a late reply is still told from none."""

NOBODY = -1
"""The partition under which replies are counted that belong to no task."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a client was asked.

    Attributes:
        assignment: Who was asked for what.
        spec: What it was told.
        header: The head of the message, which the grid numbers when it pushes it.
        deadline: When the round closes, on the clock of `time.monotonic`.
    """

    assignment: Assignment
    spec: TaskSpec
    header: Metadata
    deadline: float

    @property
    def partition(self) -> int:
        """The client's own number."""
        return self.assignment.client.partition

    @property
    def number(self) -> str:
        """The message's number, by which replies name it; empty until it is pushed."""
        return self.header.message_id


class OpenTasks:
    """The tasks of one attempt at a round, from being sent to being answered."""

    def __init__(self) -> None:
        self._unnumbered: list[Task] = []
        self._open: dict[str, Task] = {}
        self._answered: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._unnumbered) + len(self._open)

    def add(self, task: Task) -> None:
        """Note a task that is about to be sent."""
        self._unnumbered.append(task)

    def claim(self, reply: Message) -> tuple[int, Task | None]:
        """Return whom a reply concerns, and the task that it answers, which is then closed.

        There is no task for what nobody asked, for a second answer, and for one from another node.
        Errors are taken from anybody, because the grid reports them in a lost node's stead.
        """
        self._enter_by_number()
        number = reply.metadata.reply_to_message_id
        if number not in self._open:
            return self._answered.get(number, NOBODY), None
        task = self._open[number]
        if reply.has_content() and reply.metadata.src_node_id != task.assignment.client.node:
            return task.partition, None
        self._answered[number] = task.partition
        return task.partition, self._open.pop(number)

    def close(self) -> list[Task]:
        """Close all tasks and return those that have not been answered."""
        silent = [*self._open.values(), *self._unnumbered]
        self._unnumbered, self._open, self._answered = [], {}, {}
        return silent

    def _enter_by_number(self) -> None:
        # Whoever is answered has been pushed, whenever that was, and so has a number by now.
        pushed = {task.number: task for task in self._unnumbered if task.number}
        self._unnumbered = [task for task in self._unnumbered if not task.number]
        self._open |= pushed


class Overdue:
    """The tasks of closed attempts that may still be answered, or worked on."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}
        self._given_up: set[str] = set()

    def add(self, tasks: Iterable[Task], given_up: bool) -> None:
        """Take over tasks that were not answered.

        Args:
            tasks: These.
            given_up: Whether they were waited for in vain. Those whose round closed earlier may
                keep their clients busy until its deadline.
        """
        for task in tasks:
            if task.number:
                self._tasks[task.number] = task
                if given_up:
                    self._given_up.add(task.number)

    def late(self, grid: Grid) -> Iterator[tuple[int, int]]:
        """Take late replies off the grid, one at a time; yield whose they are and their bytes."""
        now = time.monotonic()
        for number, task in list(self._tasks.items()):
            for reply in grid.pull_messages([number]):
                self._forget(number)
                if reply.has_content():
                    yield task.partition, wire.payload_bytes(reply.content)
            if now > task.deadline + GRACE:
                self._forget(number)

    def busy(self) -> set[int]:
        """Return the partitions that may still work on an earlier round."""
        now = time.monotonic()
        return {
            task.partition
            for number, task in self._tasks.items()
            if task.deadline > now and number not in self._given_up
        }

    def _forget(self, number: str) -> None:
        self._tasks.pop(number, None)
        self._given_up.discard(number)


class Packed(NamedTuple):
    """What one client is sent.

    Attributes:
        spec: Which submodel, and what to do with it.
        content: The spec with the weights.
        pruning_error: The share of the weights' squared norm that the submodel drops.
    """

    spec: TaskSpec
    content: RecordDict
    pruning_error: float


class Packer:
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
        self._last: Packed | None = None

    def pack(self, submodel: Submodel, replay: Replay | None = None) -> Packed:
        """Return a submodel with its weights and images, in a record that is the caller's own."""
        policy, codec = self._config.policy, self._config.codec
        digest = replay.digest if replay else ""
        spec = wire.spec_for(submodel, self._round, policy, codec, digest)
        if self._last is None or self._last.spec != spec:
            self._last = None
            values = extract(self._theta, submodel)
            error = pruning_error(self._theta, values)
            content = wire.pack_task(values, spec)
            if replay is not None:
                wire.pack_replay(content, replay)
            self._last = Packed(spec, content, error)
        return self._last._replace(content=RecordDict(dict(self._last.content)))
