"""From a configuration to its evaluator."""

from typing import Any

from common.config import RunConfig
from common.data import Splits
from common.diffusion import CLOCKS, SAMPLERS
from server.evaluation.evaluator import Evaluator
from server.evaluation.torchscript import FileFeatures


def evaluator_for(config: RunConfig, splits: Splits) -> Evaluator:
    """Return the evaluator that a configuration describes; the same one, the same numbers."""
    ours = config.evaluation.features == "classifier"
    return Evaluator(
        splits,
        CLOCKS[config.clock],
        extractor=None if ours else FileFeatures(splits, config.evaluation.features),
        **drawing_options(config),
    )


def drawing_options(config: RunConfig) -> dict[str, Any]:
    """Return what a configuration says of how samples are drawn, as `Drawing` takes it."""
    evaluation = config.evaluation
    return {
        "samples": evaluation.samples,
        "sampler": evaluation.sampler,
        "num_steps": SAMPLERS[evaluation.sampler].steps_for(evaluation.evaluations),
        "seed": config.seed,
        "grid": evaluation.grid,
        "clip": evaluation.clip,
        "conditional": config.model.num_classes > 0,
        "guidance": evaluation.guidance,
    }
