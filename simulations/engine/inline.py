"""One run in this process: its clients work one after another, and no engine is started.

Flower's simulation engine takes half a minute of processes on a small machine before the first
round, which is nothing beside a long run and everything beside many short ones. Here the apps are
called as the engine calls them, with the same bits as result. One run keeps one core busy.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from client.app import app as client_app
from common.config import RunConfig
from server.app import app as server_app

RUN_ID = 1


class InlineGrid(Grid):
    """A grid whose clients answer when their replies are asked for.

    Args:
        config: The run's configuration, which says how many clients there are.
    """

    def __init__(self, config: RunConfig) -> None:
        clients = len(config.client_rates)
        self._contexts = {
            partition + 1: Context(
                run_id=RUN_ID,
                node_id=partition + 1,
                node_config={"partition-id": partition, "num-partitions": clients},
                state=RecordDict(),
                run_config=config.to_flat(),
            )
            for partition in range(clients)
        }
        self._waiting: dict[str, Message] = {}
        self._numbers = count(1)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all clients."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep messages until their replies are asked for, and return their ids."""
        ids = []
        for message in messages:
            ids.append(str(next(self._numbers)))
            message.metadata.__dict__["_message_id"] = ids[-1]  # as Flower's own grids do
            self._waiting[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Let one of the clients that these messages went to work, and return its reply."""
        for message_id in message_ids:
            if message_id in self._waiting:
                return [self._answer(self._waiting.pop(message_id))]
        return []

    def _answer(self, message: Message) -> Message:
        try:
            return client_app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:  # which is one client's, and not the run's
            reason = f"{type(error).__name__}: {error}"
            failed = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
            return Message(failed, reply_to=message)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return all replies; the ServerApp's own grid streams them instead."""
        ids = list(self.push_messages(messages))
        return [self._answer(self._waiting.pop(each)) for each in ids]

    def set_run(self, run: Any) -> None:
        """Is not asked: there is one run."""
        raise NotImplementedError

    @property
    def run(self) -> Any:
        """Is not asked: there is one run."""
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Is not asked: Flower has deprecated it."""
        raise NotImplementedError


def run_inline(config: RunConfig, run_dir: Path) -> None:
    """Run a federation, or go on with it after its last checkpoint, and return at its end.

    Flower makes messages only in a process that knows its run; this one's identity is set for good.

    Args:
        config: The run's configuration.
        run_dir: Where everything is written.

    Raises:
        Exception: What the ServerApp raised; `failure.txt` in the run directory has it in one line.
    """
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = RUN_ID
    torch.set_num_threads(config.threads)
    (run_dir / "failure.txt").unlink(missing_ok=True)
    config = config.model_copy(update={"run_dir": str(run_dir.absolute())})
    context = Context(
        run_id=RUN_ID, node_id=0, node_config={}, state=RecordDict(), run_config=config.to_flat()
    )
    server_app(InlineGrid(config), context)
