"""One round as one value, and how it is put together from what clients trained."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np
from jaxtyping import Float32, UInt8

from common.config import RunConfig
from common.submodels import Layout, extract
from server.aggregation import Aggregate, Fold, NormCheck, Norms, fold_for
from server.fleet import Assignment, Seats
from server.privacy import Page, PrivateFold


@dataclass(frozen=True, kw_only=True)
class Round:
    """All that a complete round moves the state on by.

    Attributes:
        aggregate: The average of the updates, and who trained what.
        masks: By partition what those held whose updates are in it (`Submodel.bitmask`); with
            privacy, of all who may be drawn.
        norms: By rate the norms of the updates; nothing where they are not checked.
        limits: By partition the largest rate of everybody whose memory has run out so far.
        seats: Where everybody stays in the next round, if that is of the same stretch.
    """

    aggregate: Aggregate
    masks: Mapping[int, bytes]
    norms: Norms
    limits: Mapping[int, Fraction]
    seats: Seats = field(default_factory=dict)

    @property
    def partitions(self) -> list[int]:
        """Whose updates are in it, in order."""
        return sorted(self.masks)

    def held(self) -> UInt8[np.ndarray, "clients bytes"]:
        """Return their masks, a row for each of `partitions`, of which there is one or more."""
        rows = [self.masks[partition] for partition in self.partitions]
        return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)


class RoundInput:
    """Takes in what clients trained in one attempt at a round, in any order.

    Nothing in it knows how updates travel: the strategy hands on what comes in messages, the
    theory's federation what its clients return.

    Args:
        layout: The full model's layout.
        config: The run's configuration; `aggregation`, `trim` and `update_check` are read.
        theta: The weights before the round.
        norms: Of the updates of earlier rounds, see `server.aggregation.norms`.
        assigned: Everybody who is asked; with privacy, everybody who may be drawn.
        page: With privacy, the round's noise and its release.
    """

    def __init__(
        self,
        layout: Layout,
        config: RunConfig,
        theta: Float32[np.ndarray, "P"],
        norms: Iterable[Norms],
        assigned: Iterable[Assignment],
        page: Page | None = None,
    ) -> None:
        self._layout = layout
        self._config = config
        self._theta = theta
        self._check = NormCheck(config.update_check, tuple(norms))
        self._page = page
        assigned = list(assigned)
        self._total = sum(each.weight for each in assigned)
        self._masks: dict[int, bytes] = {}
        if page is not None:
            self._masks = {each.client.partition: each.submodel.bitmask() for each in assigned}
        self._norms: dict[str, list[float]] = {}

    def add(self, assignment: Assignment, values: Float32[np.ndarray, "kept"], images: int) -> None:
        """Take in one client's trained weights.

        Args:
            assignment: What it was asked for.
            values: The kept coordinates in the layout's order; not copied, so leave them be.
            images: Images that it trained on.

        Raises:
            ValueError: A value is not finite or too large.
            WireError: The update is refused for its norm.
        """
        client, submodel, norm = assignment.client, assignment.submodel, None
        if self._check.mode != "off":
            before = extract(self._theta, submodel)
            values, norm = self._check.checked(values, before, submodel, client.rate)
        self._fold.add(values, submodel, assignment.weight, images)
        self._masks[client.partition] = submodel.bitmask()
        if norm is not None:
            self._norms.setdefault(str(client.rate), []).append(norm)

    def finish(self, limits: Mapping[int, Fraction], seats: Seats | None = None) -> Round:
        """Return the round that the updates amount to, of which there is one or, privately, none.

        Args:
            limits: See `Round`.
            seats: See `Round`; none by default.
        """
        return Round(
            aggregate=self._fold.finish(self._theta),
            masks=self._masks,
            norms={rate: tuple(sorted(norms)) for rate, norms in sorted(self._norms.items())},
            limits=dict(sorted(limits.items())),
            seats=dict(seats or {}),
        )

    @cached_property
    def _fold(self) -> Fold:
        # Made with the first update, since it takes the memory of a model or more.
        if self._page is None:
            return fold_for(self._layout, self._total, self._config)
        masks = self._masks.values()
        return PrivateFold(self._layout, self._config, self._theta, masks, self._page)
