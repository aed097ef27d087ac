"""Everything that determines a run, as one frozen tree."""

from common.config.fleet import fleet_codes, fleet_widths, parse_fleet
from common.config.run import RunConfig, Scalar
from common.config.sections import (
    EmaConfig,
    EvaluationConfig,
    ModelConfig,
    ServerConfig,
    TrainConfig,
)

__all__ = [
    "EmaConfig",
    "EvaluationConfig",
    "ModelConfig",
    "RunConfig",
    "Scalar",
    "ServerConfig",
    "TrainConfig",
    "fleet_codes",
    "fleet_widths",
    "parse_fleet",
]
