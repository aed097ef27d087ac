"""What a tracker is, and how it is found by name.

A tracker is told of a run by four methods; none of what it raises reaches the run. Anybody can add
one by an entry point of the group ``scorequilt.trackers`` that names a function from a `Session`:

    [project.entry-points."scorequilt.trackers"]
    mine = "my_package:MyTracker"
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from common.errors import UserError

GROUP = "scorequilt.trackers"


@dataclass(frozen=True)
class Session:
    """The run that a tracker is told of.

    Attributes:
        name: The run's.
        run_dir: Its directory.
        id: The same whenever this run is tracked, as when it is resumed; of letters and digits.
        config: Its configuration, by flattened key.
    """

    name: str
    run_dir: Path
    id: str
    config: Mapping[str, Any]


class Tracker(Protocol):
    """Shows a run somewhere. Calls come one at a time, from one thread, rounds in order."""

    def row(self, row: Mapping[str, Any]) -> None:
        """Take a complete round's row of the history (docs/history.md); `numbers` flattens it."""

    def image(self, name: str, path: Path, round: int) -> None:
        """Take a picture, such as a round's samples."""

    def file(self, path: Path) -> None:
        """Take a file that a finished run has left."""

    def end(self, failed: bool) -> None:
        """The run has ended; what is still under way should be sent now."""


Factory = Callable[[Session], Tracker]

OURS = {
    "tensorboard": "simulations.trackers.tensorboard:TensorBoard",
    "wandb": "simulations.trackers.services:WeightsAndBiases",
    "mlflow": "simulations.trackers.services:MLflow",
    "trackio": "simulations.trackers.services:Trackio",
}
"""The trackers that come with the program; all but the first need a package of their name."""


def tracker_named(name: str) -> Factory:
    """Return what makes a tracker.

    Raises:
        UserError: There is none of this name.
        ImportError: Its package is not installed.
    """
    others = {point.name: point for point in entry_points(group=GROUP)}
    if name in others:
        made: Factory = others[name].load()
        return made
    if name not in OURS:
        raise UserError(f"there is no such tracker; there are {', '.join([*OURS, *others])}")
    if name != "tensorboard":
        import_module(name)
    module, _, made_by = OURS[name].partition(":")
    factory: Factory = getattr(import_module(module), made_by)
    return factory


_PARTS = {
    "quality": "frechet frechet_ema held_out_loss held_out_score_loss loss epsilon",
    "clients": "clients_asked clients_replied clients_failed clients_absent retries",
    "coverage": "density_mean gamma_min uncovered_fraction never_covered_fraction updates_min "
    "updates_median updates_max staleness_mean staleness_max mask_change "
    "pruning_error_mean pruning_error_max",
    "bytes": "bytes_up bytes_down bytes_survey",
    "seconds": "seconds_train seconds_aggregate seconds_slowest seconds_evaluate",
}
_PART = {column: part for part, columns in _PARTS.items() for column in columns.split()}


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a history's row under names in parts, such as ``quality/loss``.

    Clients' training losses are ``client_loss/PARTITION``; other columns by client or rate are the
    column's name with these, a rate of 1/2 written 1_2. What is null is left out.
    """
    found: dict[str, float] = {}
    for column, value in row.items():
        if column == "round":
            continue
        if column == "by_client":
            losses = {who: did.get("loss") for who, did in value.items()}
            found |= dict(_leaves("client_loss", losses))
        else:
            place = (
                column if isinstance(value, Mapping) else f"{_PART.get(column, 'other')}/{column}"
            )
            found |= dict(_leaves(place, value))
    return found


def _leaves(place: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{place}/{str(key).replace('/', '_')}", inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield place, float(value)
