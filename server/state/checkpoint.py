"""Checkpoints: a round's whole state in one safetensors file, written aside and renamed."""

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from common.config import RunConfig
from common.errors import UserError
from common.files import write_tensors
from common.moments import from_vector
from common.submodels import Layout
from common.wire import CODECS, STRETCH
from server.aggregation import Norms, norms_after
from server.fleet import Seat
from server.state.advance import ServerState
from server.state.reference import Reference

MOMENTS = "moments of "
"""How the names of the clients' moments begin."""

FORMAT = 1
"""Raised when the meaning of a checkpoint changes; older ones are then refused."""

_MAY_DIFFER = {
    *("rounds", "run-dir", "name", "threads", "evaluate-every"),
    *("start-timeout", "round-timeout", "round-retries", "min-replies", "reply-memory"),
    *("min-clients", "max-clients", "train.device", "evaluation.device"),
}
"""Keys that a resumed run may change: they do not enter the weights of the rounds already done."""


NEWEST = 2
"""Checkpoints that are kept for their age; the best round's is kept besides."""


def save_checkpoint(folder: Path, state: ServerState, config: RunConfig, layout: Layout) -> Path:
    """Write a round's state to ``round-NNNN.safetensors``."""
    metadata = {
        "format": str(FORMAT),
        "round": str(state.round),
        "layout": layout.digest,
        "config": json.dumps(config.to_flat()),
        "norms": json.dumps(state.norms),
        "limits": json.dumps({str(p): str(rate) for p, rate in state.limits.items()}),
        "seats": json.dumps(
            {str(p): [str(s.rate), s.index, s.count] for p, s in state.seats.items()}
        ),
        "reference": json.dumps(
            {
                "given": state.reference.given,
                "withheld": {str(p): why for p, why in state.reference.withheld.items()},
            }
        ),
    }
    tensors = {
        "theta": state.theta,
        "moments": state.moments,
        "ema": state.emas,
        "counts": state.counts,
        "images": state.images,
        "last": state.last,
        "updates": np.array(state.replies),
        "masks": state.masks,
    }
    if state.anchor is not None:
        tensors["anchor"] = state.anchor
    tensors |= {f"{MOMENTS}{name}": each.vector() for name, each in state.reference.sets.items()}
    path = checkpoint_of(folder, state.round)
    write_tensors(path, tensors, metadata)
    return path


def checkpoint_of(folder: Path, round: int) -> Path:
    """Return where the checkpoint of a round is, or would be."""
    return folder / f"round-{round:04d}.safetensors"


def discard_old(folder: Path, config: RunConfig, best: int | None) -> None:
    """Delete all checkpoints but the newest two, that of round `best` and the `resumable` one."""
    saved = checkpoints(folder)
    kept = {*saved[-NEWEST:], *_resumable(saved, config)[-1:]}
    for path in saved:
        if path not in kept and round_of(path) != best:
            path.unlink()


def checkpoints(folder: Path) -> list[Path]:
    """Return a run's checkpoints, oldest first."""
    found = folder.glob("round-*.safetensors")
    return sorted((path for path in found if round_of(path) >= 0), key=round_of)


def round_of(path: Path) -> int:
    """Return the round that a checkpoint's name says, -1 if it says none."""
    match = re.fullmatch(r"round-([0-9]+)\.safetensors", path.name)
    return int(match[1]) if match else -1


def resumable(saved: Sequence[Path], config: RunConfig) -> Path | None:
    """Return the checkpoint from which a run goes on as if it had never stopped, None for none.

    That is the last one, unless clients keep something from round to round: then the last that
    ends a stretch of theirs (`common.wire.codecs.residual_counts`), or the last of a complete run.

    Args:
        saved: A run's checkpoints, oldest first.
        config: The run's configuration.

    Raises:
        UserError: There are checkpoints, but none of the end of a stretch.
    """
    if not saved or round_of(saved[-1]) >= config.rounds:
        return saved[-1] if saved else None
    ends = _resumable(saved, config)
    if not ends:
        raise UserError(
            f"{saved[-1].parent}: with codec={config.codec} a run goes on from a checkpoint whose "
            f"round is a multiple of {STRETCH}, and there is none"
        )
    return ends[-1]


def _resumable(saved: Sequence[Path], config: RunConfig) -> list[Path]:
    stretch = STRETCH if CODECS[config.codec].feedback else 1
    return [path for path in saved if round_of(path) % stretch == 0]


def load_checkpoint(
    path: Path, config: RunConfig, layout: Layout, rows: Iterable[Mapping[str, Any]] = ()
) -> ServerState:
    """Read a state back.

    Args:
        path: The file.
        config: The run's configuration.
        layout: The full model's layout.
        rows: The run's history, see `_from_the_history`.

    Raises:
        UserError: The file is damaged, or was written by another version or with another
            configuration; the line shows the difference.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != str(FORMAT):
                raise UserError(f"{path}: checkpoint format {metadata.get('format')}, not {FORMAT}")
            round, written = int(metadata["round"]), json.loads(metadata["config"])
            if not isinstance(written, dict):
                raise ValueError("its configuration is no table")
            _compare(path, written, config)
            if metadata["layout"] != layout.digest:
                raise UserError(f"{path}: model layout {metadata['layout']}, not {layout.digest}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        theta = tensors["theta"]
        if theta.dtype != np.float32 or theta.shape != (layout.size,):
            raise UserError(f"{path}: holds {theta.dtype} weights {theta.shape}, not {layout.size}")
        if "norms" not in metadata:
            metadata |= _from_the_history(rows, round)
        return ServerState(
            round=round,
            theta=theta,
            moments=tensors["moments"],
            emas=tensors["ema"],
            counts=tensors["counts"],
            images=tensors["images"],
            last=tensors["last"],
            replies=int(tensors["updates"]),
            masks=tensors["masks"],
            anchor=tensors.get("anchor"),
            norms=tuple(map(_norms, json.loads(metadata["norms"]))),
            limits={int(p): Fraction(rate) for p, rate in json.loads(metadata["limits"]).items()},
            seats={
                int(p): Seat(Fraction(rate), index, count)
                for p, (rate, index, count) in json.loads(metadata.get("seats", "{}")).items()
            },
            reference=_reference(tensors, json.loads(metadata.get("reference", "{}"))),
        )
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a readable checkpoint ({error})") from None


def _reference(tensors: Mapping[str, np.ndarray], plain: Mapping[str, Any]) -> Reference:
    """Return what clients had said of their images; nothing where none was asked."""
    named = {
        name.removeprefix(MOMENTS): tensor
        for name, tensor in tensors.items()
        if name.startswith(MOMENTS)
    }
    return Reference(
        sets={name: from_vector(vector) for name, vector in sorted(named.items())},
        given=tuple(plain.get("given", ())),
        withheld={int(p): why for p, why in plain.get("withheld", {}).items()},
    )


def _norms(plain: Mapping[str, Sequence[float]]) -> Norms:
    """Return a round's norms as they were before JSON made lists of them."""
    return {rate: tuple(norms) for rate, norms in plain.items()}


def _from_the_history(rows: Iterable[Mapping[str, Any]], round: int) -> dict[str, str]:
    """Return the norms and limits of a checkpoint that was written before there were any in it.

    Runs of that time have them in their history alone. Whoever only looks at such a checkpoint
    needs neither, and need not have the history.
    """
    norms: tuple[Norms, ...] = ()
    limits: dict[str, str] = {}
    for row in rows:
        if row["round"] <= round:
            norms, limits = norms_after(norms, _norms(row["update_norms"])), row["rate_limits"]
    return {"norms": json.dumps(norms), "limits": json.dumps(limits)}


def _compare(path: Path, written: dict[str, object], config: RunConfig) -> None:
    """Refuse a checkpoint whose configuration differs where it matters."""
    now = config.to_flat()
    with contextlib.suppress(UserError):  # an older version's may be spelt otherwise, or lack keys
        written = dict(RunConfig.from_flat(written).to_flat())
    differing = [
        f"{key} was {written.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(set(written) | set(now))
        if key not in _MAY_DIFFER and written.get(key) != now.get(key)
    ]
    if differing:
        raise UserError(f"{path}: written with another configuration: {'; '.join(differing)}")
