"""Keys and choices that earlier versions had: read where they changed nothing, else refused.

A run directory holds every key of the version that wrote it, so a key that is taken out still
stands in older files at the value that switched it off. There it is passed over.
"""

from collections.abc import Mapping
from typing import Any

from common.errors import UserError

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


def without_removed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's tables without removed keys at their neutral values.

    Raises:
        UserError: A removed key has another value, or a key a removed choice.
    """
    left = {key: dict(part) if isinstance(part, Mapping) else part for key, part in tree.items()}
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
