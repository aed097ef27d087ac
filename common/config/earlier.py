"""Keys and choices of earlier versions: read if a run is the same today, else refused.

A run directory holds every key of the version that wrote it. So a key that was taken out still
stands in older files at the value that switched it off, where it is passed over, and a key that was
renamed under its old name.
"""

from collections.abc import Mapping
from typing import Any

from common.errors import UserError

RENAMED = {"density": "training-times"}
"""Names of today's keys by older ones."""

KEYS: dict[str, float | str] = {
    "model.keep-whole": "",
    "rates.weight": 0.0,
    "rates.learning-rate": 0.0,
}
"""Each removed key with its neutral value, at which a run is what it is without the key."""

CHOICES: dict[tuple[str, str], str] = {
    ("local-widths", "alternate"): "choose sandwich or own",
    ("local-widths", "distill"): "choose sandwich or own",
    ("policy", "element-importance"): "choose element-magnitude or another policy",
}
"""What to choose instead of a key's removed value."""


def read_earlier(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of an earlier version's configuration, or of today's, with today's keys.

    Raises:
        UserError: A removed key has another value, or a key a removed choice.
    """
    left = {key: dict(part) if isinstance(part, Mapping) else part for key, part in tree.items()}
    for older, key in RENAMED.items():
        if older in left:
            left[key] = left.pop(older)
    for key, neutral in KEYS.items():
        table, _, leaf = key.rpartition(".")
        node = left.get(table)
        if isinstance(node, dict) and leaf in node and not _equal(node.pop(leaf), neutral):
            raise UserError(
                f"{key}: this key was taken out, as it did not help (docs/results.md); leave it out"
            )
    for (key, choice), instead in CHOICES.items():
        if left.get(key) == choice:
            raise UserError(
                f"{key}: '{choice}' was taken out, as it did not help (docs/results.md); {instead}"
            )
    return left


def _equal(value: object, neutral: float | str) -> bool:
    """Return whether a value, which may be written as text, is the neutral one."""
    try:
        return type(neutral)(value) == neutral  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
