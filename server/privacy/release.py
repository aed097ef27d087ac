"""What a round tells besides its weights: with privacy nothing that depends on a client."""

import math
from collections.abc import Mapping
from typing import Any

TOLD = {"retries", "mask_change", "replay"}
"""Of what a round's report says, the columns that follow from the configuration and the weights.

A column that is not named here is not told: losses, norms and times are clients' own, and who was
asked, who failed and how many bytes came say who took part.
"""


def released(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report's part of a history row with nothing in the columns that are not told."""
    return {key: value if key in TOLD else _nothing(value) for key, value in row.items()}


def _nothing(value: Any) -> Any:
    return {} if isinstance(value, Mapping) else math.nan
