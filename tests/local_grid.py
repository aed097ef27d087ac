"""A Flower grid whose clients run in this process, in any order, with any misfortune."""

from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from client.app import app as client_app
from common.config.fleet import parse_fleet
from common.config.run import RunConfig

Mishap = Callable[[int, Message], Message | None]
"""Given a client's partition and its reply, return what arrives instead: None for nothing."""


class LocalGrid(Grid):
    """Answers every pushed message by calling the ClientApp.

    Args:
        config: The run's configuration, given to every client.
        order: Sorts the waiting partitions before they reply; the default is by partition.
        mishap: What happens to a reply on its way.
    """

    def __init__(
        self,
        config: RunConfig,
        order: Callable[[int], Any] = lambda partition: partition,
        mishap: Mishap = lambda _, reply: reply,
    ) -> None:
        clients = len(parse_fleet(config.fleet))
        # Node ids say nothing about partitions, as in a real federation.
        self.nodes = {7919 * (clients - i): i for i in range(clients)}
        self.contexts = {
            node: Context(
                run_id=1,
                node_id=node,
                node_config={"partition-id": partition, "num-partitions": clients},
                state=RecordDict(),
                run_config=config.to_flat(),
            )
            for node, partition in self.nodes.items()
        }
        self.order, self.mishap = order, mishap
        self.waiting: dict[str, Message] = {}
        self.ids = count(1)
        self.sent: list[Message] = []

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message_id = str(next(self.ids))
            message.metadata.__dict__["_message_id"] = message_id
            self.waiting[message_id] = message
            self.sent.append(message)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        messages = [self.waiting.pop(i) for i in message_ids if i in self.waiting]
        replies = []
        for message in sorted(
            messages, key=lambda m: self.order(self.nodes[m.metadata.dst_node_id])
        ):
            node = message.metadata.dst_node_id
            reply: Message | None
            try:
                reply = client_app(message, self.contexts[node])
            except Exception as error:  # as Flower's own client runtime does
                failed = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, repr(error))
                reply = Message(failed, reply_to=message)
            reply = self.mishap(self.nodes[node], reply)
            if reply is not None:
                replies.append(reply)
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError
