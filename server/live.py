"""Who is at work at the moment, in a file beside the history, for whoever looks on.

Nothing is read back from it; it is there while a run goes on and is gone at its end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from typing import Any

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from server.grid import StreamingGrid

LIVE = "live.json"

AT_WORK = {
    MessageType.TRAIN: "training",
    MessageType.EVALUATE: "judging",
    MessageType.QUERY: "answering",
}

MANY = 64
"""Clients from which on the file is not written for each message."""

PAUSE = 0.2
"""Seconds between two writes then."""


class Live:
    """Keeps `live.json` up to date; a folder that cannot be written stops nothing.

    Args:
        run_dir: The run directory.

    Attributes:
        told: Whether it may be told who is at work; with differential privacy it may not.
    """

    def __init__(self, run_dir: Path, told: bool = False) -> None:
        self.told = told
        self._path = run_dir / LIVE
        self._round = 0
        self._clients: dict[str, dict[str, Any]] = {}
        self._written = 0.0

    def sent(self, message: Message) -> None:
        """Note a message to a client."""
        kind, round = message.metadata.message_type, message.metadata.group_id
        if kind == MessageType.TRAIN and round.isdecimal() and int(round) != self._round:
            self._round = int(round)
            self._clients.clear()
        self._note(message.metadata.dst_node_id, AT_WORK.get(kind, "answering"))

    def received(self, reply: Message) -> None:
        """Note a client's reply."""
        if reply.has_error():
            lines = (reply.error.reason or "no reason given").strip().splitlines()
            why = shorten(lines[-1], 200, placeholder=" …")
            self._note(reply.metadata.src_node_id, "failed", why)
        else:
            self._note(reply.metadata.src_node_id, "waiting")

    def _note(self, node: int, state: str, why: str = "") -> None:
        # As text: numbers of this size are not whole ones in every reader of JSON.
        self._clients[str(node)] = {"state": state, "since": time.time(), "why": why}
        if len(self._clients) < MANY or time.monotonic() > self._written + PAUSE:
            self.write()

    def write(self) -> None:
        """Write the file: a reader finds the old one or the new one, and no disk is waited for."""
        self._written = time.monotonic()
        clients = self._clients if self.told else {}
        aside = self._path.with_name(f".{LIVE}.part")
        with suppress(OSError):
            aside.write_text(json.dumps({"round": self._round, "clients": clients}))
            aside.replace(self._path)

    def end(self) -> None:
        """Take the file away."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


class WatchedGrid(StreamingGrid):
    """A streaming grid that notes what goes out and comes in.

    Args:
        grid: As in `StreamingGrid`.
        live: Where it is noted.
    """

    def __init__(self, grid: Grid, live: Live) -> None:
        super().__init__(grid)
        self._live = live

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send and receive as `StreamingGrid` does."""
        replies = super().send_and_receive(self._sent(messages), timeout=timeout)
        return self._received(replies)

    def _sent(self, messages: Iterable[Message]) -> Iterator[Message]:
        for message in messages:
            self._live.sent(message)
            yield message
            del message  # no payload is kept while the next one is made
        self._live.write()

    def _received(self, replies: Iterator[Message]) -> Iterator[Message]:
        for reply in replies:
            self._live.received(reply)
            yield reply
            del reply
        self._live.write()
