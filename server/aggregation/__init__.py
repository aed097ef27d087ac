"""From replies to one average; its definition comes first."""

from server.aggregation.fold import CLIENTS, IMAGES, Aggregate, Fold
from server.aggregation.mean import CoverageFold
from server.aggregation.norms import NormCheck, Norms, norms_after
from server.aggregation.robust import RobustFold, fold_for

__all__ = [
    "CLIENTS",
    "IMAGES",
    "Aggregate",
    "CoverageFold",
    "Fold",
    "NormCheck",
    "Norms",
    "RobustFold",
    "fold_for",
    "norms_after",
]
