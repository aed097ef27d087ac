"""Compiled functions, whose machine code is kept in the user's cache from run to run."""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core.codegen import get_host_cpu_features

from common.cache import cache_dir

Function = TypeVar("Function", bound=Callable[..., Any])

config: Any = numba.config


def compiled(function: Function) -> Function:
    """Compile at the first call, or find what was compiled before, if there is a folder for it.

    All calls have arguments of the same types: where there are several kinds, two processes that
    keep their code at the same time can mix them up. Nothing checks an index in compiled code: who
    calls it answers for sizes.
    """
    usual = getattr(config, "CACHE_LOCATOR_CLASSES", "")  # older versions have no such thing
    config.CACHE_LOCATOR_CLASSES = f"{__name__}.{UserCache.__name__}"
    try:
        return numba.njit(function, cache=True, nogil=True, error_model="numpy")
    except RuntimeError:  # there is no folder
        return numba.njit(function, nogil=True, error_model="numpy")
    finally:
        config.CACHE_LOCATOR_CLASSES = usual


class UserCache:
    """Tells numba where a function's machine code is kept, by what it was made of and for.

    On its own numba goes by the path of the source file, and a simulation unpacks the app into
    another folder in every run.
    """

    def __init__(self, function: Callable[..., Any], source: bytes) -> None:
        key = repr((source, numba.__version__, get_host_cpu_features(), config.BOUNDSCHECK))
        self._key = hashlib.sha256(key.encode()).hexdigest()
        self._line = function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function: Callable[..., Any], path: str) -> "UserCache | None":
        """Return where a function of a file is kept, or None if nothing can be kept there."""
        try:
            kept = cls(function, Path(path).read_bytes())
            kept.ensure_cache_path()
        except OSError:
            return None
        return kept

    def get_cache_path(self) -> str:
        """Return the folder."""
        return str(cache_dir() / f"loops-{self._key[:16]}")

    def ensure_cache_path(self) -> None:
        """Make the folder; OSError if one cannot write there."""
        folder = Path(self.get_cache_path())
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()

    def get_source_stamp(self) -> str:
        """Return what changes with the source."""
        return self._key

    def get_disambiguator(self) -> str:
        """Return what tells functions of one name apart."""
        return str(self._line)
