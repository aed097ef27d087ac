"""From a configuration to its evaluator."""

from common.config import RunConfig
from common.data import Splits
from common.diffusion import CLOCKS, SAMPLERS
from common.features import network_named
from server.evaluation.classifier import FeatureExtractor
from server.evaluation.evaluator import Evaluator


def evaluator_for(config: RunConfig, splits: Splits) -> Evaluator:
    """Return the evaluator that a configuration describes; the same one, the same numbers."""
    evaluation = config.evaluation
    network = network_named(evaluation.features, splits.train.image_shape)
    return Evaluator(
        splits,
        CLOCKS[config.clock],
        samples=evaluation.samples,
        sampler=evaluation.sampler,
        num_steps=SAMPLERS[evaluation.sampler].steps_for(evaluation.evaluations),
        seed=config.seed,
        grid=evaluation.grid,
        clip=evaluation.clip,
        conditional=config.model.num_classes > 0,
        guidance=evaluation.guidance,
        extractor=FeatureExtractor(splits, network),
    )
