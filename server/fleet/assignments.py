"""Assignments: which submodel each client of a round trains, and what its update weighs.

All of it is a function of the configuration, the round and the weights, so it can be computed
before a run, during it and after it, and is the same each time.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
from jaxtyping import Float32

from common.config import RunConfig, fleet_codes
from common.seeding import rng_for
from common.submodels import Layout, Submodel
from server.fleet.members import Client
from server.fleet.stretches import stretch_of
from server.policies import GlobalWeights, Request, submodel_for


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a client trains in a round.

    Attributes:
        client: Who.
        submodel: What.
        weight: The update's weight in the average, 0 or greater.
    """

    client: Client
    submodel: Submodel
    weight: float

    @property
    def fits(self) -> bool:
        """Whether the client accepts a submodel so large."""
        return self.submodel.rate <= self.client.accepts


def assignments(
    layout: Layout,
    config: RunConfig,
    clients: Iterable[Client],
    round: int,
    theta: Float32[np.ndarray, "P"],
) -> list[Assignment]:
    """Return what each of a round's clients trains, in the order of the clients.

    Args:
        layout: The full model's layout.
        config: The run's configuration.
        clients: Who takes part.
        round: The round, 1 or later.
        theta: The weights that policies look at: those before the round's stretch.

    Raises:
        UserError: The policy cannot serve the layout.
    """
    weights = GlobalWeights(layout, lambda: theta)
    return [
        Assignment(
            client=client,
            submodel=submodel_for(
                config.policy, request_for(layout, config, client, round, weights)
            ),
            weight=weight_of(client, config),
        )
        for client in clients
    ]


def weight_of(client: Client, config: RunConfig) -> float:
    """Return a client's weight in the average."""
    return float(client.examples) if config.weighting == "examples" else 1.0


def request_for(
    layout: Layout,
    config: RunConfig,
    client: Client,
    round: int,
    weights: GlobalWeights | None = None,
) -> Request:
    """Return what the policy is asked for a client in a round, 1 or later.

    Args:
        layout: The full model's layout.
        config: The run's configuration.
        client: Who asks.
        round: The round; all of a stretch of `refresh_every` rounds ask the same.
        weights: The global weights before the first round of the stretch.
    """
    stretch = stretch_of(config, round)
    codes = _codes(config.fleet)
    return Request(
        layout=layout,
        k=layout.kept_per_atom(client.rate),
        index=client.index,
        count=client.count,
        stretch=stretch,
        rng=rng_for(config.seed, stretch, client.partition, "extraction"),
        seed=config.seed,
        widths=tuple(layout.kept_per_atom(rate) for rate in config.widths(layout.atom)),
        code=codes[client.partition] if codes else 0,
        weights=weights,
    )


def widths_within(layout: Layout, config: RunConfig, rate: Fraction) -> tuple[Fraction, ...]:
    """Return a width, and the fleet's narrower ones from wide to narrow."""
    fleet = reversed(config.widths(layout.atom))
    return (rate, *(each for each in fleet if each < rate))


_codes = cache(fleet_codes)
