"""Networks whose features images are compared by, and damages that these have to notice."""

from common.features.damage import blurred, damaged
from common.features.named import network_named
from common.features.network import (
    Classifier,
    FeatureNetwork,
    OurFeatures,
    digest_of,
    read_features,
    untrained,
    write_features,
)
from common.features.torchscript import TorchscriptFeatures

__all__ = [
    "Classifier",
    "FeatureNetwork",
    "OurFeatures",
    "TorchscriptFeatures",
    "blurred",
    "damaged",
    "digest_of",
    "network_named",
    "read_features",
    "untrained",
    "write_features",
]
