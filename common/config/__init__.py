"""Everything that determines a run, as one frozen tree."""

from common.config.fleet import fleet_codes, fleet_widths, parse_fleet
from common.config.run import CLIENTS, RunConfig, Scalar
from common.config.sections import (
    LOSS_LEVELS,
    EmaConfig,
    EvaluationConfig,
    ModelConfig,
    PicturesConfig,
    PrivacyConfig,
    ServerConfig,
    TrainConfig,
)

__all__ = [
    "CLIENTS",
    "LOSS_LEVELS",
    "EmaConfig",
    "EvaluationConfig",
    "ModelConfig",
    "PicturesConfig",
    "PrivacyConfig",
    "RunConfig",
    "Scalar",
    "ServerConfig",
    "TrainConfig",
    "fleet_codes",
    "fleet_widths",
    "parse_fleet",
]
