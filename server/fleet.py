"""The fleet: who its clients are, who takes part in a round, and what each of them gets.

All of it is a function of the configuration and the round, so it can be computed before a run,
during it and after it, and is the same each time.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from common.config import RunConfig, fleet_codes, parse_fleet
from common.extraction import GlobalWeights, Request
from common.seeding import SERVER, rng_for
from common.submodel import Layout


@dataclass(frozen=True)
class Client:
    """One member of the fleet.

    Attributes:
        node: Flower's node id, good for this run only.
        partition: The client's own number, from 0.
        rate: Its model rate.
        examples: Images it holds.
        index: Its place among the clients of its rate, from 0.
        count: The number of clients of its rate.
    """

    node: int
    partition: int
    rate: Fraction
    examples: int
    index: int
    count: int


def muster(rates: Sequence[Fraction], answers: Sequence[tuple[int, int]]) -> list[Client]:
    """Return the fleet in the order of partitions.

    Args:
        rates: Each client's model rate.
        answers: Each client's node id and number of images.
    """
    sizes, seen = Counter(rates), Counter[Fraction]()
    fleet = []
    for partition, (rate, (node, examples)) in enumerate(zip(rates, answers, strict=True)):
        fleet.append(Client(node, partition, rate, examples, seen[rate], sizes[rate]))
        seen[rate] += 1
    return fleet


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
    stretch = 1 + (stretch_start(config, round) - 1) // max(1, config.refresh_every)
    codes = _codes(config.fleet)
    return Request(
        layout,
        layout.kept_per_atom(client.rate),
        client.index,
        client.count,
        stretch,
        rng_for(config.seed, stretch, client.partition, "extraction"),
        config.seed,
        tuple(layout.kept_per_atom(rate) for rate in _rates(config.fleet)),
        codes[client.partition] if codes else 0,
        weights,
    )


def stretch_start(config: RunConfig, round: int) -> int:
    """Return the round in which clients last moved, at or before a round."""
    every = config.refresh_every or round
    return round - (round - 1) % every


def participants(fleet: list[Client], config: RunConfig, round: int) -> list[Client]:
    """Return the clients of a round: all, or `clients_per_round` drawn without replacement."""
    if config.participants == "full":
        fleet = [client for client in fleet if client.rate == 1]
    if not 0 < config.clients_per_round < len(fleet):
        return fleet
    rng = rng_for(config.seed, round, SERVER, "participants")
    chosen = rng.choice(len(fleet), config.clients_per_round, replace=False)
    return [fleet[i] for i in sorted(chosen)]


@cache
def _rates(fleet: str) -> tuple[Fraction, ...]:
    return tuple(sorted(set(parse_fleet(fleet))))


_codes = cache(fleet_codes)
