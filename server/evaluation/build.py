"""From a configuration to its evaluator."""

from common.config import RunConfig
from common.data import Splits
from common.diffusion import CLOCKS, SAMPLERS
from server.evaluation.evaluator import Evaluator
from server.evaluation.torchscript import FileFeatures


def evaluator_for(config: RunConfig, splits: Splits) -> Evaluator:
    """Return the evaluator that a configuration describes; the same one, the same numbers."""
    evaluation = config.evaluation
    ours = evaluation.features == "classifier"
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
        extractor=None if ours else FileFeatures(splits, evaluation.features),
    )
