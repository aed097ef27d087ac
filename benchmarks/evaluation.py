"""Sampling for evaluation: images per second, ours and diffusers' pipeline on the same weights.

The default job's sampler at its number of evaluations against `DDIMPipeline` with as many steps,
both on one thread and by turns. `evaluation_images` is what scoring a round samples, in all.
"""

import time
from collections.abc import Iterator

import torch
from diffusers import DDIMPipeline, DDIMScheduler
from torch.nn.utils import vector_to_parameters

from benchmarks.harness import Result
from common.config import RunConfig
from common.diffusion import SAMPLERS
from common.network import initial_weights
from server.evaluation.build import evaluator_for
from server.pretrained.options import scheduler_options
from server.setting import prepare
from simulations.planning.measure import interleaved
from tests.architectures import Architecture

REPEATS = 3
TRAINING_ONLY = ("variance_type", "_class_name")


def run() -> Iterator[Result]:
    """Measure the default job's sampling."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = RunConfig()
    setting = prepare(config)
    channels, side, _ = setting.image_shape
    theta = initial_weights(config.model, channels, 0)
    evaluator = evaluator_for(config, setting.splits)
    denoiser = setting.denoiser(theta)
    sampler = SAMPLERS[config.evaluation.sampler]
    evaluations = sampler.evaluations(sampler.steps_for(config.evaluation.evaluations))
    network = Architecture(config.model, channels, side).diffusers()
    vector_to_parameters(torch.from_numpy(theta.copy()), network.parameters())
    known = {k: v for k, v in scheduler_options(config).items() if k not in TRAINING_ONLY}
    pipeline = DDIMPipeline(network.eval(), DDIMScheduler(**known))
    pipeline.set_progress_bar_config(disable=True)
    samples = config.evaluation.samples
    seconds = interleaved(
        {
            "scorequilt": lambda: evaluator.sample(denoiser),
            "diffusers": lambda: pipeline(
                batch_size=samples, num_inference_steps=evaluations, output_type="np"
            ),
        },
        REPEATS,
        time.process_time,
    )
    for name, value in seconds.items():
        yield Result("evaluation", "digits", f"{name}_images_per_s", samples / value, "1/s")
    yield Result(
        "evaluation", "digits", "speed_vs_diffusers", seconds["diffusers"] / seconds["scorequilt"]
    )
    yield Result("evaluation", "digits", "evaluations_per_image", evaluations)
    torch.set_num_threads(threads)
