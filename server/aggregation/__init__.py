"""From replies to one average; its definition comes first."""

from server.aggregation.fold import CLIENTS, IMAGES, Aggregate, Fold
from server.aggregation.mean import CoverageFold
from server.aggregation.norms import NormCheck
from server.aggregation.robust import RobustFold, fold_for
from server.aggregation.scores import ImportanceFold, asks_for_scores, no_scores

__all__ = [
    "CLIENTS",
    "IMAGES",
    "Aggregate",
    "CoverageFold",
    "Fold",
    "ImportanceFold",
    "NormCheck",
    "RobustFold",
    "asks_for_scores",
    "fold_for",
    "no_scores",
]
