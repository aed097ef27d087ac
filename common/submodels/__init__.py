"""Which coordinates a client holds; no torch."""

from common.submodels.compact import (
    CompactSubmodel,
    full_submodel,
    narrowed,
    nested_coordinates,
    submodel_of_rate,
)
from common.submodels.layout import Axis, Channels, Layout, Parameter
from common.submodels.masked import MaskedSubmodel, by_coordinate, submodel_from_bitmask
from common.submodels.submodel import Submodel, extract, pruning_error, scatter

__all__ = [
    "Axis",
    "Channels",
    "CompactSubmodel",
    "Layout",
    "MaskedSubmodel",
    "Parameter",
    "Submodel",
    "by_coordinate",
    "extract",
    "full_submodel",
    "narrowed",
    "nested_coordinates",
    "pruning_error",
    "scatter",
    "submodel_from_bitmask",
    "submodel_of_rate",
]
