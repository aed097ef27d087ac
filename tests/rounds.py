"""Rounds and states for tests that care for a part of them only."""

from typing import Any

import numpy as np

from server.aggregation.fold import Aggregate
from server.state.advance import ServerState
from server.state.round import Round


def round_of(aggregate: Aggregate, **parts: Any) -> Round:
    """Return a round of this aggregate; whose updates are in it is said by `masks` alone."""
    return Round(**{"aggregate": aggregate, "masks": {}, "norms": {}, "limits": {}, **parts})


def state_of(**parts: Any) -> ServerState:
    """Return a state that is all nothing but for some parts."""
    counts, weights = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.float32)
    nothing: dict[str, Any] = {
        "round": 0,
        "theta": weights,
        "moments": weights[None],
        "emas": weights[None],
        "counts": counts,
        "images": counts,
        "last": counts,
        "replies": 0,
        "masks": np.zeros((1, 1), dtype=np.uint8),
    }
    return ServerState(**nothing | parts)
