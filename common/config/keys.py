"""Keys as people write them, and what is said of a key that is wrong."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from common.errors import UserError

MEANT = {
    "lr": "learning-rate",
    "batch": "batch-size",
    "clients": "fleet",
    "num-clients": "fleet",
    "epochs": "local-steps",
    "local-epochs": "local-steps",
    "steps": "local-steps",
    "num-rounds": "rounds",
    "dataset": "data",
    "alpha": "partition-alpha",
    "classes": "model.num-classes",
}
"""Our keys by names that others give them."""


def hyphened(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return tables with ``-`` for each ``_`` in their keys.

    Raises:
        UserError: A key then stands there twice.
    """
    tidy: dict[str, Any] = {}
    for key, value in tree.items():
        name = key.replace("_", "-")
        if name in tidy:
            raise UserError(f"{name}: stands there twice, once with _ for -")
        tidy[name] = hyphened(value) if isinstance(value, Mapping) else value
    return tidy


def one_line(error: ValidationError, keys: Iterable[str]) -> str:
    """Say the first thing that pydantic found wrong in one line, naming the key."""
    first = error.errors()[0]
    key = ".".join(str(part).replace("_", "-") for part in first["loc"] if isinstance(part, str))
    if first["type"] == "extra_forbidden":
        near = [MEANT[key]] if key in MEANT else get_close_matches(key, keys, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "see docs/configuration.md"
        return f"unknown key '{key}'; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    if not key:  # of several together, which it names
        return message
    return f"{key}: {message[0].lower()}{message[1:]} (got {first['input']!r})"
