"""What the classes of a run are called: agreed on by name, to mean the same everywhere."""

import logging
from collections.abc import Iterable

from common.config import CLIENTS, RunConfig
from common.data.classes import in_order, numbered, said_classes, unknown_class
from common.wire import RollCall, WireError

log = logging.getLogger("flwr")


class ClassNames:
    """The names of a run's classes, each at its number.

    A data set that the server knows fixes them. Where clients alone have images, those who are
    there at the start do, together; under differential privacy nobody but the configuration may,
    and classes are numbers.

    Args:
        config: The run's configuration.
        names: Those that are fixed already, by the data or earlier in the run; nothing for numbers.
        fixed: Whether they are.
    """

    def __init__(self, config: RunConfig, names: tuple[str, ...] = (), fixed: bool = True) -> None:
        self._most = config.model.num_classes
        self._known = names or numbered(self._most)
        self._open = config.data == CLIENTS and not (fixed or config.privacy.on)

    @property
    def names(self) -> tuple[str, ...]:
        """Those to tell clients: none if the run is not conditional, or numbers are all there is.

        Raises:
            ValueError: They are not fixed yet.
        """
        if self._open:
            raise ValueError("the classes are fixed only when the roll-call is over")
        return () if self._known == numbered(self._most) else self._known

    def check(self, answer: RollCall, others: Iterable[RollCall]) -> None:
        """Refuse a client with a class that the run does not know.

        Args:
            answer: What it says.
            others: What those say who are there already.

        Raises:
            WireError: It has one, or there would be more classes with its own than the run has.
        """
        if not self._most or not answer.classes:
            return
        if not self._open:
            for name in answer.classes:
                if name not in self._known:
                    raise WireError(f"it has {unknown_class(name, self._known)}")
        elif len(names := self._of([answer, *others])) > self._most:
            raise WireError(
                f"with its classes ({said_classes(answer.classes)}) there are {len(names)} in "
                f"all ({said_classes(names)}), and the run has model.num-classes={self._most}"
            )

    def fix(self, answers: Iterable[RollCall]) -> None:
        """Fix the names by those that are there at the start, where nothing else does."""
        if self._open and self._most:
            found = self._of(answers)
            self._known = found if set(found) - {*numbered(self._most)} else self._known
            log.info("classes: %s", said_classes(self._known))
            if len(self._known) < self._most:
                log.warning(
                    "model.num-classes: %d, of which nobody has more than %d",
                    self._most,
                    len(self._known),
                )
        self._open = False

    @staticmethod
    def _of(answers: Iterable[RollCall]) -> tuple[str, ...]:
        return in_order({name for answer in answers for name in answer.classes})
