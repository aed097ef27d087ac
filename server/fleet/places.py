"""The places of a fleet: a fixed number that clients name, or one for whoever comes."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from common.config import RunConfig
from common.submodels import Layout
from common.wire import RollCall, WireError
from server.fleet.numbers import Numbers, known_by


class Places(Protocol):
    """Who gets which number.

    Attributes:
        most: How many places there are.
    """

    most: int

    def numbers(self) -> Sequence[int] | None:
        """Return the numbers that were given away, None where there are places without a client."""

    def place(self, answer: RollCall, key: Callable[[], str]) -> int:
        """Return the number of a client.

        Args:
            answer: What it says of itself.
            key: Looks its key up, which takes a while.

        Raises:
            WireError: There is none for it.
        """

    def taken(self, number: int, answer: RollCall) -> str:
        """Say why a client cannot have its number while another one answers."""

    def configured(self, number: int) -> Fraction:
        """Return the largest rate that the configuration gives a client."""

    def known_by(self, number: int) -> dict[str, str]:
        """Return what a client is known by, for `fleet.json`."""

    def remember(self) -> None:
        """Write down who has which number, if that has changed."""


class FixedPlaces:
    """A place for each client that the configuration names; every one brings its number along."""

    def __init__(self, config: RunConfig) -> None:
        self._rates = config.client_rates
        self.most = len(self._rates)

    def numbers(self) -> None:
        """All of them are there from the start."""

    def place(self, answer: RollCall, key: Callable[[], str]) -> int:
        """Return the client's own number."""
        if answer.partition is None or answer.partition >= self.most:
            says = "no partition-id"
            if answer.partition is not None:
                says = f"partition-id {answer.partition}"
            raise WireError(
                f"it says {says}, but the fleet names {self.most} clients, which are 0 … "
                f"{self.most - 1}"
            )
        return answer.partition

    def taken(self, number: int, answer: RollCall) -> str:
        """Say who has the number."""
        return (
            f"it says partition-id {number}, which another node has that still answers; give each "
            "its own"
        )

    def configured(self, number: int) -> Fraction:
        """Return the rate that stands at the client's place."""
        return self._rates[number]

    def known_by(self, number: int) -> dict[str, str]:
        """Nothing but the number."""
        return {}

    def remember(self) -> None:
        """Nothing was given away."""


class OpenPlaces:
    """A place for whoever comes, in order of arrival, up to `max-clients`.

    Args:
        config: The run's configuration.
        layout: The full model's layout.
        path: Where the run remembers them; None is nowhere.
    """

    def __init__(self, config: RunConfig, layout: Layout, path: Path | None) -> None:
        self.most = config.max_clients
        self._widest = config.widths(layout.atom)[-1]
        self._given = Numbers(self.most, path)

    def numbers(self) -> Sequence[int]:
        """Return those that have ever come."""
        return list(self._given.known)

    def place(self, answer: RollCall, key: Callable[[], str]) -> int:
        """Return the client's number, a new one if it has none."""
        return self._given.of(known_by(answer, key), answer.partition)

    def taken(self, number: int, answer: RollCall) -> str:
        """Say what another one has, too."""
        what = "key" if answer.keyed else f"name {answer.name}"
        return f"another node has its {what} and still answers; give each its own"

    def configured(self, number: int) -> Fraction:
        """Return the largest width, whoever it is."""
        return self._widest

    def known_by(self, number: int) -> dict[str, str]:
        """Return what the client is recognised by."""
        return {"known_by": self._given.known[number]}

    def remember(self) -> None:
        """Write the numbers down."""
        self._given.save()
