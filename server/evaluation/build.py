"""From a configuration to its evaluator."""

from common.config import RunConfig
from common.data import Splits
from common.diffusion import CLOCKS
from common.features import network_named
from server.evaluation.classifier import FeatureExtractor
from server.evaluation.evaluator import Evaluator
from server.evaluation.sampling import sampling_options


def evaluator_for(config: RunConfig, splits: Splits) -> Evaluator:
    """Return the evaluator that a configuration describes; the same one, the same numbers."""
    network = network_named(config.evaluation.features, splits.train.image_shape)
    return Evaluator(
        splits,
        CLOCKS[config.clock],
        extractor=FeatureExtractor(splits, network),
        **sampling_options(config),
    )
