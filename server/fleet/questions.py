"""The roll-call on its way: questions to nodes, their answers, and word to those not taken."""

import hashlib
from collections.abc import Iterator
from typing import Any

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from common.wire import (
    RollCall,
    WireError,
    address_task,
    pack_question,
    pack_verdict,
    unpack_roll_call,
)

NOBODY = 0
"""The node under whose number those messages are kept whose replies say nothing."""


def key_of(grid: Grid, node: int) -> str:
    """Return a digest of the public key that a node has proved to hold to the SuperLink.

    Flower keeps the node id of a registered key, but a SuperLink that starts without its database
    forgets both, and then gives the key another id.
    """
    key = next((each.public_key for each in grid.get_nodes() if each.node_id == node), b"")
    return hashlib.sha256(key or str(node).encode()).hexdigest()


def recorded(node: int, answer: RollCall) -> dict[str, Any]:
    """Return what a client says of itself, for `fleet.json`."""
    return {
        "node": node,
        "device": answer.name,
        "examples": answer.examples,
        "image_shape": list(answer.image_shape),
        "skipped": answer.skipped,
        "classes": list(answer.classes),
        "accepts_rate": str(answer.rate),
        "memory_free": answer.memory_free,
        "step_seconds": {str(rate): time for rate, time in answer.step_seconds},
    }


class Questions:
    """What nodes have been asked and have not answered yet.

    Args:
        measure: Whether to ask for step times as well.
    """

    def __init__(self, measure: bool) -> None:
        self._measure = measure
        self._open: dict[str, int] = {}
        self._told: set[str] = set()

    def unanswered(self, online: set[int]) -> bool:
        """Say whether one of these nodes has still to answer."""
        return not online.isdisjoint(self._open.values())

    def ask(self, grid: Grid, node: int, number: int | None = None) -> None:
        """Ask a node who it is, and tell it its number if it has one that it needs for its answer.

        Args:
            grid: Where the node is.
            node: The node.
            number: Its number.
        """
        content = pack_question(self._measure)
        if number is not None:
            address_task(content, number)
        asked = self._push(grid, node, content, node)
        if number is not None:
            self._told |= asked

    def tell(self, grid: Grid, node: int, reason: str) -> None:
        """Tell a node, which logs it, why it is not taken."""
        self._push(grid, node, pack_verdict(reason), NOBODY)

    def answers(self, grid: Grid) -> Iterator[tuple[int, RollCall | WireError]]:
        """Yield who has answered since and what, or what is wrong with it.

        Also those who are asked again in between, if they answer at once.
        """
        while replies := list(grid.pull_messages(list(self._open)) if self._open else ()):
            for reply in replies:
                question = reply.metadata.reply_to_message_id
                node, told = self._open.pop(question, NOBODY), question in self._told
                self._told.discard(question)
                if node != NOBODY:
                    yield node, _read(reply, told)

    def _push(self, grid: Grid, node: int, content: RecordDict, of: int) -> set[str]:
        """Send a node something, and return the number of the message, if the grid gave it one."""
        message = Message(content, node, MessageType.QUERY)
        numbers = {number for number in grid.push_messages([message]) if number}
        self._open |= dict.fromkeys(numbers, of)
        return numbers


def _read(reply: Message, told: bool) -> RollCall | WireError:
    """Return a node's answer, or what is wrong with it.

    Args:
        reply: What came.
        told: Whether the node has been told its number, so that it waits for nothing.
    """
    try:
        if reply.has_error():
            reason = (reply.error.reason or "no reason given").strip().splitlines()[-1]
            raise WireError(f"its program failed: {reason}")
        answer = unpack_roll_call(reply.content)
        if told and not answer.examples:
            raise WireError("the client says that it has no images")
    except WireError as error:
        return error
    return answer
