"""Everything that determines a run, as one frozen tree."""

from common.config.fleet import fleet_codes, parse_fleet
from common.config.run import RunConfig, Scalar
from common.config.sections import (
    EmaConfig,
    EvaluationConfig,
    ModelConfig,
    PicturesConfig,
    ServerConfig,
    TrainConfig,
)

__all__ = [
    "EmaConfig",
    "EvaluationConfig",
    "ModelConfig",
    "PicturesConfig",
    "RunConfig",
    "Scalar",
    "ServerConfig",
    "TrainConfig",
    "fleet_codes",
    "parse_fleet",
]
