"""A run's secret randomness, and the record of what it has released.

Whoever knows the noise can take it off, and whoever knows who was drawn has less to guess. So
neither follows from the run's seed, which stands in its configuration, but from a key of its own.
The key makes a run that is killed and goes on equal to one that never stopped.

It must not make the same noise hide two different sums: their difference would be bare. Therefore
the weights that a round releases are written down before anything else sees them, and a round that
is done again (its checkpoint was lost, or a codec's memory asks for it) takes what was written,
whatever its clients reply this time. Every round is released once, and counted once.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from jaxtyping import Float32, Float64
from safetensors import SafetensorError, safe_open
from scipy.special import ndtri

from common.errors import UserError
from common.files import atomic_file, write_tensors
from common.wire import STRETCH

FOLDER = "privacy"
"""Where it lies in the run directory; only its owner may look."""

KEY_BYTES = 32

KEPT = STRETCH + 1
"""Releases that are kept: a run goes back by a stretch at most, and the round being recorded."""

BITS = 52
"""Bits of a uniform number: half a step further it is still a float64, and never 0 or 1."""


class Ledger:
    """The key and the releases of one run.

    Args:
        run_dir: The run directory.
        resumed: Whether the run has checkpoints already.

    Raises:
        UserError: The key of a resumed run is missing, or is not one.
    """

    def __init__(self, run_dir: Path, resumed: bool) -> None:
        self.folder = run_dir / FOLDER
        path = self.folder / "key"
        if not path.exists():
            if resumed:
                raise UserError(
                    f"{path}: missing, and without it this run cannot go on with the noise that "
                    "it began with; restore it or start a new run"
                )
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_file(path) as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(secrets.token_bytes(KEY_BYTES))
        self._key = path.read_bytes()
        if len(self._key) != KEY_BYTES:
            raise UserError(f"{path}: has {len(self._key)} bytes, and a key has {KEY_BYTES}")

    def page(self, round: int) -> "Page":
        """Return what there is of a round, 1 or later."""
        return Page(self.folder, self._key, round)


@dataclass(frozen=True)
class Page:
    """A round's secret randomness and its release."""

    folder: Path
    key: bytes = field(repr=False)
    round: int

    def lot(self, partition: int) -> float:
        """Return a client's number by which it is drawn, uniform on [0, 1)."""
        digest = self._derived(f"participant {partition}")
        return (int.from_bytes(digest[:8]) >> 11) * 2.0**-53

    def noise(self) -> "Noise":
        """Return the round's noise, which begins anew with each call."""
        return Noise(self._derived("noise"))

    def once(
        self, before: Float32[np.ndarray, "P"], make: Callable[[], Float32[np.ndarray, "P"]]
    ) -> Float32[np.ndarray, "P"]:
        """Return the weights that the round releases, made now unless that was done before.

        Args:
            before: The weights before the round.
            make: Makes them; called at most once in a round's life.

        Raises:
            UserError: The round was released but that is no longer there, or was of other weights.
        """
        path, digest = self._path(self.round), hashlib.sha256(before.tobytes()).hexdigest()
        kept = sorted(
            int(match[1]) for each in self.folder.iterdir() if (match := _NAME(each.name))
        )
        if self.round in kept:
            return _read(path, digest)
        if kept and kept[-1] > self.round:
            raise UserError(
                f"{path}: round {self.round} was released once and is no longer kept, so it cannot "
                "be done again; restore a later checkpoint or start a new run"
            )
        made = make()
        write_tensors(path, {"theta": made}, {"before": digest})
        for round in kept:
            if round <= self.round - KEPT:
                self._path(round).unlink()
        return made

    def _path(self, round: int) -> Path:
        return self.folder / f"round-{round:04d}.safetensors"

    def _derived(self, purpose: str) -> bytes:
        """Return 32 bytes that nobody can tell from random ones without the key."""
        return hmac.digest(self.key, f"{purpose} of round {self.round}".encode(), "sha256")


class Noise:
    """Independent standard normal numbers, each a function of the key and its place.

    They are quantiles of uniform numbers from ChaCha20's key stream, so that no number of them
    tells of the others, as those of a statistical generator might. None is beyond 8.2.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    def next(self, count: int) -> Float64[np.ndarray, "count"]:
        """Return the numbers that follow those returned so far."""
        words = np.frombuffer(self._stream.update(bytes(8 * count)), "<u8") >> (64 - BITS)
        return np.asarray(ndtri((words + 0.5) * 2.0**-BITS))


_NAME = re.compile(r"round-([0-9]+)\.safetensors").fullmatch


def _read(path: Path, digest: str) -> Float32[np.ndarray, "P"]:
    """Return the weights that were released, if they came of these weights."""
    try:
        with safe_open(path, framework="numpy") as file:
            before, theta = (file.metadata() or {}).get("before"), file.get_tensor("theta")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable release ({error})") from None
    if before != digest:
        raise UserError(
            f"{path}: was released by a round that began with other weights; start a new run "
            "in another directory"
        )
    return theta
