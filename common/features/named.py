"""The feature network that a configuration names."""

from pathlib import Path

from common.errors import UserError
from common.features.network import FeatureNetwork, read_features, untrained
from common.features.torchscript import TorchscriptFeatures

KEY = "evaluation.features"
CLASSIFIER, UNTRAINED, WEIGHTS = "classifier", "untrained", "weights:"


def network_named(features: str, image_shape: tuple[int, int, int]) -> FeatureNetwork | None:
    """Return a network, None for the classifier of the run's own data, which these have to train.

    Args:
        features: "classifier", "untrained", ``weights:FILE`` or ``torchscript:FILE``.
        image_shape: (C, H, W) of the images.

    Raises:
        UserError: There is no such network, or it is not for such images.
    """
    if features == CLASSIFIER:
        return None
    if features == UNTRAINED:
        return untrained(image_shape)
    if features.startswith(WEIGHTS):
        return read_features(Path(features.removeprefix(WEIGHTS)), image_shape, KEY)
    if not features.startswith("torchscript:"):
        raise UserError(
            f"{KEY}: write 'classifier', 'untrained', 'weights:FILE' or 'torchscript:FILE', not "
            f"{features!r}"
        )
    return TorchscriptFeatures(features, image_shape)
