"""What a width is taught with: images that a narrower one draws, anew every round."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from common.diffusion import CLOCKS, DELTA, GRIDS, SAMPLERS, for_sampling, sample
from common.network import images_at_once
from common.replay import Replay
from common.seeding import SERVER, rng_for, torch_generator
from server.fleet import Client, weight_of
from server.replay.plan import Measured, plan
from server.setting import Setting
from server.state import ServerState


class Replayer:
    """Draws the images of each round.

    Args:
        setting: The run's.
        measured: Returns what a round's tasks may depend on of what was measured.
    """

    def __init__(self, setting: Setting, measured: Callable[[int], Measured]) -> None:
        self._setting = setting
        self._measured = measured

    def draw(self, state: ServerState, fleet: Iterable[Client]) -> dict[Fraction, Replay]:
        """Return by width what its clients are sent in the round after a state.

        The same for the same state, fleet and measurements.
        """
        held: defaultdict[Fraction, float] = defaultdict(float)
        for client in fleet:
            held[client.rate] += weight_of(client, self._setting.config)
        measured = self._measured(state.round + 1)
        lessons = plan(measured, held, self._setting.config.batch_size)
        drawn = {
            teacher: self._images(state, teacher)
            for teacher in {lesson.teacher for lesson in lessons.values()}
        }
        return {
            width: Replay(
                images=images,
                labels=self._labels,
                teacher=self._setting.layout.kept_per_atom(lesson.teacher),
                share=lesson.share,
            )
            for width, lesson in lessons.items()
            if (images := drawn[lesson.teacher]) is not None
        }

    @property
    def _labels(self) -> Int64[np.ndarray, " N"]:
        """Classes in turn, so that all are drawn alike; zeros of an unconditional model."""
        config = self._setting.config
        return np.arange(config.replay.images) % max(1, config.model.num_classes)

    def _images(self, state: ServerState, teacher: Fraction) -> UInt8[np.ndarray, "N C H W"] | None:
        """Sample a width of the averaged weights as evaluation does, but from noise of the round.

        None if a value is not finite: a network that has diverged teaches nothing.
        """
        config, evaluation = self._setting.config, self._setting.config.evaluation
        classes, labels = config.model.num_classes, torch.from_numpy(self._labels)
        generator = torch_generator(rng_for(config.seed, state.round + 1, SERVER, "replay"))
        noise = torch.randn(len(labels), *self._setting.image_shape, generator=generator)
        steps = SAMPLERS[evaluation.sampler].steps_for(evaluation.evaluations)
        given: dict[str, Any] = {"class_labels": labels} if classes else {}
        images = sample(
            evaluation.sampler,
            for_sampling(
                self._setting.denoiser(state.ema, teacher),
                clip=evaluation.clip,
                guidance=evaluation.guidance,
                null_class=classes,
            ),
            GRIDS[evaluation.grid](CLOCKS[config.clock], steps, DELTA),
            noise,
            generator,
            images_at_once(config.model, self._setting.image_shape),
            **given,
        )
        if not images.isfinite().all():
            return None
        return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
