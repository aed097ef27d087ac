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
    ReplayConfig,
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
    "ReplayConfig",
    "RunConfig",
    "Scalar",
    "ServerConfig",
    "TrainConfig",
    "fleet_codes",
    "fleet_widths",
    "parse_fleet",
]
