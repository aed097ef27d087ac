"""From replies to one average; its definition comes first."""

from server.aggregation.fold import CLIENTS, IMAGES, Aggregate
from server.aggregation.mean import CoverageFold
from server.aggregation.norms import NormCheck
from server.aggregation.robust import RobustFold, fold_for

__all__ = [
    "CLIENTS",
    "IMAGES",
    "Aggregate",
    "CoverageFold",
    "NormCheck",
    "RobustFold",
    "fold_for",
]
