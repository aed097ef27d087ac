"""What a run's configuration stands for: its images, and its model over them."""

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float32

from common.config import CLIENTS, RunConfig
from common.data import Splits, load_dataset
from common.data.named import NAMED
from common.diffusion import Denoiser
from common.errors import UserError
from common.network import device_of, layout_of, submodel_denoiser
from common.submodels import Layout, submodel_of_rate
from server.about import About, about, about_clients, about_named
from server.policies import policy_named


@dataclass(frozen=True, eq=False)
class Setting:
    """A configuration with its data and its model's table: prepared once and passed on.

    Attributes:
        config: The run's configuration.
        about: What kind of images it learns.
        loaded: Its data set, None where that is loaded when it is asked for.
    """

    config: RunConfig
    about: About
    loaded: Splits | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        return self.about.image_shape

    @cached_property
    def splits(self) -> Splits:
        """The run's data set.

        Raises:
            UserError: It is not there, or cannot be read, or the images are the clients' own.
        """
        if self.config.data == CLIENTS:
            raise UserError(
                f"data: this needs images, and those of a run with data={CLIENTS} are on its "
                "clients alone"
            )
        config = self.config
        return self.loaded or load_dataset(config.data, config.shape, config.pictures)

    @cached_property
    def layout(self) -> Layout:
        """The full model's layout, in which the policy's coverage is counted."""
        plain = layout_of(self.config.model, self.image_shape[0])
        return policy_named(self.config.policy).coverage_layout(plain)

    @cached_property
    def device(self) -> torch.device:
        """Where the server's networks are computed.

        Raises:
            UserError: There is no such device here.
        """
        return device_of(self.config.evaluation.device, "evaluation.device")

    def agreed(self, classes: tuple[str, ...]) -> "Setting":
        """Return the same with the names of classes that clients have agreed on."""
        return replace(self, about=replace(self.about, classes=classes))

    def denoiser(self, theta: Float32[np.ndarray, "P"], rate: Fraction = Fraction(1)) -> Denoiser:
        """Return the network of a width of some global weights: how every width is judged and used.

        Args:
            theta: Global weights.
            rate: The width's model rate.

        Raises:
            UserError: The rate does not fit the model's atoms.
        """
        submodel = submodel_of_rate(self.layout, rate)
        return submodel_denoiser(self.config, theta, submodel, self.image_shape[0], self.device)


def outlined(config: RunConfig) -> Setting:
    """Return what a configuration speaks of, without its images if these are known beforehand.

    Raises:
        UserError: As `prepare`, of other data sets.
    """
    return Setting(config, about_named(config)) if config.data in NAMED else prepare(config)


def prepare(config: RunConfig) -> Setting:
    """Load what a configuration speaks of.

    Raises:
        UserError: The data set does not exist or cannot be read.
    """
    if config.data == CLIENTS:
        return Setting(config, about_clients(config))
    splits = load_dataset(config.data, config.shape, config.pictures)
    return Setting(config, about(splits), splits)
