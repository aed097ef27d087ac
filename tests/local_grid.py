"""A Flower grid whose clients run in this process, in any order, with any misfortune."""

from collections.abc import Callable, Iterable
from itertools import count, islice, takewhile
from typing import Any

from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from client.app import app as client_app
from common.config.run import RunConfig
from server.grid import StreamingGrid

FEW = 2
"""At most so many replies of a round arrive between two looks."""

FOREVER = 1e9
"""Seconds."""

Mishap = Callable[[int, Message], Message | None]
"""Given a client's partition and its reply, return what arrives instead: None for nothing."""


class LocalGrid(Grid):
    """Answers every pushed message by calling the ClientApp, when the reply is asked for.

    `send_and_receive` is the product's: `StreamingGrid` over this grid.

    Args:
        config: The run's configuration, given to every client.
        order: Sorts the waiting partitions before they reply; the default is by partition. A whole
            round keeps to it, in whatever portions its replies are asked for.
        mishap: What happens to a reply on its way.
    """

    def __init__(
        self,
        config: RunConfig,
        order: Callable[[int], Any] = lambda partition: partition,
        mishap: Mishap = lambda _, reply: reply,
    ) -> None:
        clients = len(config.client_rates)
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
        self.under_way: set[str] = set()
        self.now = 0.0

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

    def there(self, message: Message) -> bool:
        """Say whether the client that a message went to can answer now."""
        return message.metadata.dst_node_id in self.nodes

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Let clients answer; of a round that is under way the next few, however many are asked."""
        coming = sorted(filter(self.there, self.waiting.values()), key=self._place)
        asked = {*message_ids}
        if asked & self.under_way:
            turn = (each for each in coming if each.metadata.message_id in self.under_way)
            next_few = islice(takewhile(lambda m: m.metadata.message_id in asked, turn), FEW)
            return self._answers(next_few)
        return self._answers(each for each in coming if each.metadata.message_id in asked)

    def _place(self, message: Message) -> Any:
        return self.order(self.nodes[message.metadata.dst_node_id])

    def _answers(self, messages: Iterable[Message]) -> list[Message]:
        replies = []
        for message in messages:
            del self.waiting[message.metadata.message_id]
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
        """Stream as the product does, on a clock of our own; who pulls while we push is served."""
        self.under_way, before = set(), len(self.sent)
        streaming = StreamingGrid(self, clock=lambda: self.now, sleep=self._sleep)
        replies = streaming.send_and_receive(messages, timeout=timeout)
        tasks = (each.metadata for each in self.sent[before:])
        self.under_way = {
            each.message_id for each in tasks if each.message_type == MessageType.TRAIN
        }
        return replies

    def _sleep(self, seconds: float) -> None:
        """Let time pass in no time, and all of it when there is nobody who could answer."""
        self.now += seconds if any(map(self.there, self.waiting.values())) else FOREVER

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError
