"""A feature network for runs whose server holds no image: the classifier of another data set."""

from pathlib import Path

from common.config import RunConfig
from common.errors import UserError
from common.features import write_features
from server.evaluation.classifier import FeatureExtractor
from server.setting import prepare

SUFFIX = ".safetensors"


def write_classifier(config: RunConfig, out: Path) -> str:
    """Train the classifier of a configuration's data set and write its weights.

    Args:
        config: `data` and `image_shape` are read.
        out: Where to, ending in ".safetensors".

    Returns:
        A line that says how to use it.

    Raises:
        UserError: The data set cannot be read, or the name ends otherwise.
    """
    if out.suffix != SUFFIX:
        raise UserError(f"--out: {out} does not end in {SUFFIX}")
    extractor = FeatureExtractor(prepare(config).splits)
    write_features(out, extractor.weights)
    return (
        f"{out}: features {extractor.digest}, {extractor.accuracy:.1%} of held-out images told "
        f"apart; use it as evaluation.features=weights:{out.absolute()}"
    )
