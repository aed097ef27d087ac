"""A grid that pushes messages one by one and hands over replies as they arrive."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from flwr.app import Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

SHORTEST_PAUSE = 0.005
LONGEST_PAUSE = 0.25

PAUSE = 1 / 8
"""Of the time since something last came: how much later than at once a reply may be seen."""


class StreamingGrid(Grid):
    """Wraps any Flower grid; only `send_and_receive` differs.

    The stock grids buffer every reply of a round, and the networked one sleeps three seconds
    between two looks. This one keeps at most `held` replies, besides the one its consumer works
    on, and looks again after an eighth of the time since something last came, 5 to 250 ms.

    Args:
        grid: the grid of the running ServerApp.
        held: most replies pulled, and so held in memory, at once; at least 1.
        clock: seconds that never run backwards.
        sleep: waits so many seconds of that clock.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        held: int = 4,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._grid = grid
        self._held = held
        self._clock = clock
        self._sleep = sleep

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Push every message now, then return an iterator over the replies in order of arrival.

        `messages` is drawn from one at a time and each message is let go once pushed, so a
        generator keeps a single payload alive. Clients work from then on, whether or not anyone
        iterates. Error replies are replies. A message that the grid refused has no reply.

        Args:
            messages: what to send; at most one reply to each is yielded.
            timeout: seconds from this call to the deadline, None for no deadline. Replies that are
                there at the deadline are still yielded, later ones are not: the caller knows which
                clients are missing from those that replied.
        """
        deadline = None if timeout is None else self._clock() + timeout
        return self._replies(self._push_each(messages), deadline)

    def _push_each(self, messages: Iterable[Message]) -> deque[str]:
        pushed: deque[str] = deque()
        for message in messages:
            # A grid answers None, or nothing, for a message that it could not store.
            pushed.extend(each for each in self._grid.push_messages([message]) if each)
            # The loop variable would keep this payload alive while the next one is being made.
            del message
        return pushed

    def _replies(self, waiting: deque[str], deadline: float | None) -> Iterator[Message]:
        last = self._clock()
        while waiting:
            arrived = 0
            for _ in range(0, len(waiting), self._held):
                asked = [waiting.popleft() for _ in range(min(self._held, len(waiting)))]
                missing = dict.fromkeys(asked)
                pulled = deque(self._grid.pull_messages(asked))
                while pulled:
                    reply = pulled.popleft()
                    # A network may deliver twice, and only what we asked for counts.
                    if reply.metadata.reply_to_message_id in missing:
                        del missing[reply.metadata.reply_to_message_id]
                        arrived += 1
                        yield reply
                    del reply
                waiting.extend(missing)
            now = self._clock()
            if not waiting or (deadline is not None and now >= deadline):
                return
            last = now if arrived else last
            pause = min(max(PAUSE * (now - last), SHORTEST_PAUSE), LONGEST_PAUSE)
            self._sleep(pause if deadline is None else min(pause, deadline - now))

    def set_run(self, run: Run) -> None:
        """Set the run that the wrapped grid operates in."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run that the wrapped grid operates in."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message with the wrapped grid (deprecated by Flower, use `Message`)."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the connected nodes."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return what the wrapped grid knows about the connected nodes."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages with the wrapped grid."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull the replies that are there with the wrapped grid."""
        return self._grid.pull_messages(message_ids)
