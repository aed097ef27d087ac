"""From a configuration to its evaluator."""

from common.config import RunConfig
from common.data import Splits
from common.diffusion import CLOCKS
from common.features import network_named
from server.evaluation.classifier import FeatureExtractor
from server.evaluation.evaluator import Evaluator
from server.evaluation.pooled import PooledEvaluator
from server.evaluation.sampling import sampling_options
from server.setting import Setting
from server.state import Reference

AnyEvaluator = Evaluator | PooledEvaluator
"""By the server's own images, or by what clients have said of theirs."""


def evaluator_of(setting: Setting, reference: Reference) -> AnyEvaluator:
    """Return the evaluator of a run, which where clients judge knows what these have given."""
    if setting.config.by_clients:
        return PooledEvaluator(setting.config, setting.image_shape, reference)
    return evaluator_for(setting.config, setting.splits)


def evaluator_for(config: RunConfig, splits: Splits) -> Evaluator:
    """Return the evaluator that a configuration describes; the same one, the same numbers."""
    network = network_named(config.evaluation.features, splits.train.image_shape)
    return Evaluator(
        splits,
        CLOCKS[config.clock],
        extractor=FeatureExtractor(splits, network),
        **sampling_options(config, splits.train.image_shape),
    )
