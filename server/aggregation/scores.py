"""The scores of weights that clients report, averaged as the weights themselves are."""

import numpy as np
from jaxtyping import Float32

from common.config import RunConfig, stretch_start
from common.submodels import Layout, Submodel
from common.wire import UNSCORED
from server.aggregation.robust import fold_for
from server.policies import needs_scores

UNIT = 2.0**-12
"""Scores are folded in this unit: the fold rounds to 2^-42, and so keeps scores of 2^-54. The
largest score is then 2^8, within what a fold takes."""


class ImportanceFold:
    """Averages the scores of one round's replies over the clients that cover a coordinate.

    Args:
        layout: The model's table.
        total_weight: The sum of the weights of all clients asked.
        config: The run's configuration, whose `aggregation` serves scores, too.
    """

    def __init__(self, layout: Layout, total_weight: float, config: RunConfig) -> None:
        self._fold = fold_for(layout, total_weight, config)

    def add(self, scores: Float32[np.ndarray, " kept"], submodel: Submodel, weight: float) -> None:
        """Fold one client's scores in, decoded; see `CoverageFold.add`."""
        self._fold.add(scores / np.float32(UNIT), submodel, weight, 0)

    def finish(self, scores: Float32[np.ndarray, "P"] | None) -> Float32[np.ndarray, "P"]:
        """Return the averages; a coordinate that nobody covered keeps its score bit for bit."""
        if scores is None:
            scores = no_scores(self._fold.layout)
        # Multiplying by a power of two is exact, there and back.
        return self._fold.finish(scores / np.float32(UNIT)).theta * np.float32(UNIT)


def asks_for_scores(config: RunConfig, round: int) -> bool:
    """Say whether clients report scores in a round: in the last before they move.

    So the scores that policies choose by stay as they are while clients stay where they are.
    """
    return needs_scores(config.policy) and stretch_start(config, round + 1) == round + 1


def no_scores(layout: Layout) -> Float32[np.ndarray, "P"]:
    """Return the scores of a model of which no client has reported anything yet."""
    return np.full(layout.size, UNSCORED, dtype=np.float32)
