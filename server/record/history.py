"""A run's history: one JSON object per round and line; `HistoryRow` says what is in it."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict, get_type_hints

from common.errors import UserError
from common.files import atomic_write, plain_json

Number = float | None
"""A number that is null in the file where there is none."""


Row = dict[str, Any]
"""A row as it is read: that of another version may lack columns."""


class HistoryRow(TypedDict, total=False):
    """What is written of a round, in the order of the columns; round 0 is before training.

    A whole row has every column; it is put together from parts.
    """

    round: Annotated[int, "complete rounds"]
    frechet: Annotated[Number, "Fréchet distance of samples of the last weights, if evaluated"]
    frechet_ema: Annotated[Number, "the same of the first moving average"]
    frechet_by_width: Annotated[
        dict[str, Number], "the same of every width that is judged, by model rate"
    ]
    frechet_noise: Annotated[Number, "the same of pure noise, beside which to read the others"]
    held_out_loss: Annotated[Number, "mean loss of that average on images nobody trained on"]
    held_out_score_loss: Annotated[Number, "the same, weighted as the likelihood bound has it"]
    held_out_by_client: Annotated[
        dict[str, dict[str, Number]],
        "where clients judge: by client and rate the loss of that width on images it held out",
    ]
    reference_by_client: Annotated[
        dict[str, Number],
        "where clients judge: of those who now told of their images, how far these are from all "
        "other clients'; far more than the others' is another kind of image, or an untrue answer",
    ]
    reference_images: Annotated[int, "images that distances are to"]
    survey_failures: Annotated[dict[str, str], "by client why it found nothing when asked"]
    bytes_survey: Annotated[int, "bytes of what clients were asked to judge, and of their answers"]
    epsilon: Annotated[Number, "ε of the rounds so far at `privacy.delta`, with privacy"]
    loss: Annotated[Number, "the clients' mean training loss by their weights in the average"]
    clients_asked: Annotated[Number, "clients that were sent a task in the last attempt"]
    clients_replied: Annotated[Number, "clients whose update was taken in"]
    clients_failed: Annotated[Number, "clients asked whose update was not"]
    clients_absent: Annotated[Number, "clients of the fleet that could not be asked"]
    by_client: Annotated[
        dict[str, dict[str, Any]],
        "by client that was asked: `rate`, `bytes_down`, `bytes_up`, and its training `loss` where "
        "its update was taken in",
    ]
    failures: Annotated[dict[str, str], "by client why there is no update of it"]
    rejections: Annotated[
        dict[str, dict[str, int]], "by client and reason, replies not used in any attempt"
    ]
    fleet_events: Annotated[dict[str, str], "by client: `joined` or `left` before the round"]
    rate_limits: Annotated[dict[str, str], "by client the largest rate since its memory ran out"]
    replay: Annotated[
        dict[str, dict[str, Any]],
        "by rate of clients that were sent images to train on: the width that drew them, "
        "`teacher`, the `share` of a batch, and how many `images`",
    ]
    retries: Annotated[int, "attempts before the one that had enough replies"]
    update_norms: Annotated[
        dict[str, list[float]], "by rate the norms of the updates taken in, with `update-check`"
    ]
    density_mean: Annotated[Number, "mean fraction of the model's coordinates on a client"]
    pruning_error_mean: Annotated[
        Number, "w², the share of the weights' squared norm that a submodel drops, mean of clients"
    ]
    pruning_error_max: Annotated[Number, "the largest of these"]
    mask_change: Annotated[
        Number, "mean part of a submodel that its client did not hold when last taken in"
    ]
    bytes_up: Annotated[Number, "bytes of all replies that came during the round, used or not"]
    bytes_down: Annotated[Number, "bytes of all tasks sent, in all attempts"]
    seconds_train: Annotated[Number, "from the round's begin to its last reply, less the next"]
    seconds_aggregate: Annotated[Number, "checking replies, averaging, moving the state on"]
    seconds_slowest: Annotated[Number, "the longest that a client says its steps took"]
    gamma_min: Annotated[int, "least number of clients on any coordinate, the theory's Γ"]
    uncovered_fraction: Annotated[float, "coordinates that nobody trained in the round"]
    never_covered_fraction: Annotated[float, "coordinates that nobody has trained in any round"]
    updates_min: Annotated[int, "client updates of a coordinate so far: the least"]
    updates_median: Annotated[int, "the median over coordinates"]
    updates_max: Annotated[int, "the most"]
    staleness_mean: Annotated[
        float, "rounds since a coordinate was last trained, all if never: the mean"
    ]
    staleness_max: Annotated[int, "the most"]
    seconds_evaluate: Annotated[float, "sampling and scoring"]


def columns() -> dict[str, str]:
    """Return what every column of a history means, in their order."""
    hints = get_type_hints(HistoryRow, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}


class History:
    """The rows of a `history.jsonl`, appended as the run goes and trimmed when it resumes.

    Opening it mends what a crash can leave behind: a last line without its end is dropped from the
    file. Only the process that writes the run may open it so; others use `read_rows`.

    Raises:
        UserError: a line before the last is not a JSON object with a `round`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = read_rows(path)
        if path.exists() and path.read_bytes() != (whole := _lines(self._rows)):
            atomic_write(path, whole)

    def rows(self) -> list[Row]:
        """The rows so far, oldest first; the list is the caller's."""
        return list(self._rows)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add `row`, on disk when this returns; NaN and infinities are stored as null.

        Raises:
            ValueError: `row` has no integer `round`, or one not after the last row's.
        """
        plain: Row = plain_json(row)
        number = plain.get("round")
        if not _is_round(number) or (self._rows and number <= self._rows[-1]["round"]):
            last = self._rows[-1]["round"] if self._rows else "none"
            raise ValueError(f"row of round {number!r} cannot follow round {last}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            # One write call, so that a reader sees the line or a beginning of it, which it drops.
            file.write(_lines([plain]))
            file.flush()
            os.fsync(file.fileno())
        self._rows.append(plain)

    def truncate_after(self, round: int) -> None:
        """Forget every row later than `round`: a resumed run writes them again."""
        kept = [row for row in self._rows if row["round"] <= round]
        if len(kept) != len(self._rows):
            atomic_write(self.path, _lines(kept))
            self._rows = kept


def read_rows(path: Path) -> list[Row]:
    """The whole rows of a history, also while a run is writing it; [] where there is no file.

    Raises:
        UserError: a line before the last is not a JSON object with a `round`.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    rows: list[Row] = []
    # What follows the last newline is "" or a torn line: never a row, even if it happens to parse.
    for number, line in enumerate(lines[:-1], start=1):
        row = _parse(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines) - 1:
            raise UserError(
                f"{path} line {number} is not a JSON object with a round; restore or remove it"
            )
    return rows


def _parse(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:  # covers JSONDecodeError and UnicodeDecodeError
        return None
    return row if isinstance(row, dict) and _is_round(row.get("round")) else None


def _is_round(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _lines(rows: list[Row]) -> bytes:
    # allow_nan=False: a NaN that slipped past plain_json must fail here, not in the reader.
    return b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows)


def widest_trained(rows: Iterable[Mapping[str, Any]]) -> Fraction:
    """Return the largest rate at which an update was taken in, 1 where rows do not say."""
    trained = {
        Fraction(client["rate"])
        for row in rows
        for client in row.get("by_client", {}).values()
        if "loss" in client
    }
    return max(trained, default=Fraction(1))


class Best(NamedTuple):
    """What has sampled best: a width of the first averaged weights of a round."""

    round: int
    rate: Fraction
    distance: float


def best_of(rows: Iterable[Mapping[str, Any]]) -> Best | None:
    """Return what of a history has sampled best, None if nothing was scored.

    That is the least distance of any width, of equal ones the earliest round's and its widest; but
    no width wider than any client has trained. Where clients that came later have added to the
    images which distances are to, of the rounds since then.
    """
    rows = list(rows)
    widest = widest_trained(rows)
    last = rows[-1].get("reference_images") if rows else None
    scored = [
        Best(row["round"], rate, distance)
        for row in rows
        if row.get("reference_images") == last
        for rate, distance in distances_of(row).items()
        if rate <= widest
    ]
    return min(scored, key=lambda best: (best.distance, best.round, -best.rate), default=None)


def distances_of(row: Mapping[str, Any]) -> dict[Fraction, float]:
    """Return a round's distances by width, those that are known.

    Rows of before there were widths in them know that of the full one.
    """
    by_width = row.get("frechet_by_width") or {"1": row.get("frechet_ema")}
    return {
        Fraction(rate): distance
        for rate, distance in by_width.items()
        if distance is not None and math.isfinite(distance)
    }


def best_round(rows: Iterable[Mapping[str, Any]]) -> int | None:
    """Return the round of `best_of`."""
    best = best_of(rows)
    return None if best is None else best.round
