"""The numbers of devices where whoever comes takes part: given once, and kept by the run."""

import json
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path

from common.errors import UserError
from common.files import write_json
from common.wire import RollCall, WireError


def known_by(answer: RollCall, key: Callable[[], str]) -> str:
    """Return what a device is known by again: its key, its name, or its place in a simulation.

    Args:
        answer: What it says of itself.
        key: Looks its key up.

    Raises:
        WireError: It has neither a key nor a name.
    """
    if answer.partitions:
        return f"partition {answer.partition}"
    if answer.keyed:
        return f"key {key()}"
    if not answer.name.strip():
        raise WireError(
            "it has neither a key nor a name by which it could be known again: join with --key, or "
            "with --name"
        )
    return f"name {answer.name.strip()}"


class Numbers:
    """Who has which number; none is given twice, nor taken back.

    Args:
        most: How many there are.
        path: Where they are remembered; None is nowhere.

    Raises:
        UserError: The file is none of ours.
    """

    def __init__(self, most: int, path: Path | None = None) -> None:
        self._most = most
        self._path = path
        self._numbers: dict[str, int] = {}
        if path is not None and path.exists():
            self._numbers = _read(path)
        self._saved = len(self._numbers)

    @property
    def known(self) -> Mapping[int, str]:
        """What the device of each number is known by, in order."""
        return {number: name for name, number in sorted(self._numbers.items(), key=lambda x: x[1])}

    def of(self, name: str, wanted: int | None = None) -> int:
        """Return the number of a device, the first that is free if it has none yet.

        Args:
            name: What it is known by.
            wanted: The only one that it may have; None for any.

        Raises:
            WireError: There is none left, or another device has the one that is wanted.
        """
        if name in self._numbers:
            return self._numbers[name]
        taken = {*self._numbers.values()}
        number = next(n for n in count() if n not in taken) if wanted is None else wanted
        if number in taken:
            raise WireError(f"its number {number} was given to another device of this run")
        if len(taken) >= self._most or number >= self._most:
            raise WireError(
                f"this run has given all of its max-clients={self._most} numbers; repeat it with "
                "a larger max-clients"
            )
        self._numbers[name] = number
        return number

    def save(self) -> None:
        """Write the file, if a number was given since it was last written."""
        if self._path is not None and len(self._numbers) > self._saved:
            write_json(self._path, self._numbers)
            self._saved = len(self._numbers)


def _read(path: Path) -> dict[str, int]:
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        values = list(numbers.values())
        if len({*values}) < len(values) or not all(type(n) is int and n >= 0 for n in values):
            raise ValueError("numbers are whole, and each stands once")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); it says which device has which number, so put it "
            "back, or begin in another run-dir"
        ) from None
    return dict(numbers)
