"""What a run's configuration stands for: its images, and its model over them."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from jaxtyping import Float32

from common.config import RunConfig
from common.data import Splits, load_dataset
from common.diffusion import Denoiser
from common.network import layout_of, submodel_denoiser
from common.submodels import Layout, submodel_of_rate
from server.policies import policy_named


@dataclass(frozen=True, eq=False)
class Setting:
    """A configuration with its data and its model's table: prepared once and passed on.

    Attributes:
        config: The run's configuration.
        splits: Its data set.
    """

    config: RunConfig
    splits: Splits

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        return self.splits.train.image_shape

    @cached_property
    def layout(self) -> Layout:
        """The full model's layout, in which the policy's coverage is counted."""
        plain = layout_of(self.config.model, self.image_shape[0])
        return policy_named(self.config.policy).coverage_layout(plain)

    def denoiser(self, theta: Float32[np.ndarray, "P"], rate: Fraction = Fraction(1)) -> Denoiser:
        """Return the network of a width of some global weights: how every width is judged and used.

        Args:
            theta: Global weights.
            rate: The width's model rate.

        Raises:
            UserError: The rate does not fit the model's atoms.
        """
        submodel = submodel_of_rate(self.layout, rate)
        return submodel_denoiser(self.config, theta, submodel, self.image_shape[0])


def prepare(config: RunConfig) -> Setting:
    """Load what a configuration speaks of.

    Raises:
        UserError: The data set does not exist or cannot be read.
    """
    return Setting(config, load_dataset(config.data, config.shape, config.pictures))
