"""Which coordinates a client holds; no torch."""

from common.submodels.layout import Axis, Channels, Layout, Parameter
from common.submodels.masked import (
    MaskedSubmodel,
    by_coordinate,
    dense,
    kept,
    masked_submodel,
    submodel_from_bitmask,
)
from common.submodels.submodel import (
    Submodel,
    extract,
    full_submodel,
    narrowed,
    nested_coordinates,
    pruning_error,
    scatter,
    submodel_of_rate,
)

__all__ = [
    "Axis",
    "Channels",
    "Layout",
    "MaskedSubmodel",
    "Parameter",
    "Submodel",
    "by_coordinate",
    "dense",
    "extract",
    "full_submodel",
    "kept",
    "masked_submodel",
    "narrowed",
    "nested_coordinates",
    "pruning_error",
    "scatter",
    "submodel_from_bitmask",
    "submodel_of_rate",
]
