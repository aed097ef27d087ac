"""The roll-call on its way: questions to nodes, their answers, and word to those not taken."""

import hashlib
from collections.abc import Iterator
from typing import Any

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from common.wire import (
    RollCall,
    WireError,
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

    def unanswered(self, online: set[int]) -> bool:
        """Say whether one of these nodes has still to answer."""
        return not online.isdisjoint(self._open.values())

    def ask(self, grid: Grid, node: int) -> None:
        """Ask a node who it is."""
        self._push(grid, node, pack_question(self._measure), node)

    def tell(self, grid: Grid, node: int, reason: str) -> None:
        """Tell a node, which logs it, why it is not taken."""
        self._push(grid, node, pack_verdict(reason), NOBODY)

    def answers(self, grid: Grid) -> Iterator[tuple[int, RollCall | WireError]]:
        """Yield who has answered since and what, or what is wrong with it."""
        for reply in grid.pull_messages(list(self._open)) if self._open else ():
            node = self._open.pop(reply.metadata.reply_to_message_id, NOBODY)
            if node == NOBODY:
                continue
            try:
                if reply.has_error():
                    reason = (reply.error.reason or "no reason given").strip().splitlines()[-1]
                    raise WireError(f"its program failed: {reason}")
                yield node, unpack_roll_call(reply.content)
            except WireError as error:
                yield node, error

    def _push(self, grid: Grid, node: int, content: RecordDict, of: int) -> None:
        message = Message(content, node, MessageType.QUERY)
        self._open |= {number: of for number in grid.push_messages([message]) if number}
