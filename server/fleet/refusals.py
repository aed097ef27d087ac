"""Devices that a run does not take: each by itself, and said once."""

import logging
from collections.abc import Collection
from dataclasses import dataclass

MOST = 100
"""Devices that are named; ten thousand strangers shall fill neither the memory nor the log."""

log = logging.getLogger("flwr")


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Who is not taken, and why.

    Attributes:
        node: Flower's node id.
        device: What its owner calls it; may be empty.
        reason: Why, in plain words.
    """

    node: int
    device: str
    reason: str

    def __str__(self) -> str:
        return f"{f'device {self.device}' if self.device else f'node {self.node}'}: {self.reason}"


class Refusals:
    """The devices that are not taken now, of which at most `MOST` are named."""

    def __init__(self) -> None:
        self._refused: dict[int, Refusal] = {}
        self._unnamed = 0

    def __bool__(self) -> bool:
        return bool(self._refused)

    def add(self, refusal: Refusal) -> bool:
        """Note a device and log it; return whether that is news."""
        if self._refused.get(refusal.node) == refusal:
            return False
        # A device without a key comes back as another node, perhaps with the same mistake.
        before = [
            each.node
            for each in self._refused.values()
            if refusal.device and (each.device, each.reason) == (refusal.device, refusal.reason)
        ]
        for node in before:
            del self._refused[node]
        if refusal.node not in self._refused and len(self._refused) >= MOST:
            self._unnamed += 1
            if self._unnamed == 1:
                log.warning("not taken: more than %d devices; no others are named", MOST)
            return False
        self._refused[refusal.node] = refusal
        if not before:
            log.warning("not taken: %s", refusal)
        return True

    def taken(self, node: int, device: str, online: Collection[int]) -> None:
        """Forget why a device was not taken that is now, also as the node that it was before."""
        self._refused = {
            each.node: each
            for each in self._refused.values()
            if each.node != node and (each.device != device or not device or each.node in online)
        }

    def record(self) -> list[dict[str, object]]:
        """Return who is not taken, for `fleet.json`."""
        return [
            {"node": each.node, "device": each.device, "refused": each.reason}
            for each in self._refused.values()
        ]

    def __str__(self) -> str:
        """Say in one line who is not taken and why."""
        more = f"; and {self._unnamed} more" if self._unnamed else ""
        return "; ".join(map(str, self._refused.values())) + more
