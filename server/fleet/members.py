"""The fleet: who its clients are, who takes part in a round, and how many must answer."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from common.config import RunConfig
from common.seeding import SERVER, rng_for
from common.submodels import Layout


@dataclass(frozen=True, kw_only=True)
class Client:
    """One member of the fleet.

    Attributes:
        node: Flower's node id, good for this run only; 0 while nobody answers for it.
        partition: The client's own number, from 0.
        rate: Its model rate.
        examples: Images it holds.
        index: Its place among the clients of its rate, from 0.
        count: The number of clients of its rate; of a fixed fleet absent ones are included.
        present: Whether it can be asked.
        accepts: The largest rate that it said it can hold.
    """

    node: int
    partition: int
    rate: Fraction
    examples: int
    index: int
    count: int
    present: bool = True
    accepts: Fraction = Fraction(1)


def fleet_of(
    rates: Sequence[Fraction],
    answers: Sequence[tuple[int, int] | None],
    numbers: Sequence[int] | None = None,
) -> list[Client]:
    """Return the fleet in the order of partitions.

    Args:
        rates: Each client's model rate.
        answers: Each client's node id and number of images, None where it is absent.
        numbers: Each client's number where whoever comes takes part; absent ones are then not
            counted among those of their rate, since they may never come back.
    """
    counted = [numbers is None or answer is not None for answer in answers]
    sizes = Counter(rate for rate, counts in zip(rates, counted, strict=True) if counts)
    seen = Counter[Fraction]()
    fleet = []
    for partition, rate, answer, counts in zip(
        range(len(rates)) if numbers is None else numbers, rates, answers, counted, strict=True
    ):
        node, examples = answer or (0, 0)
        fleet.append(
            Client(
                node=node,
                partition=partition,
                rate=rate,
                examples=examples,
                index=seen[rate],
                count=max(1, sizes[rate]),
                present=answer is not None,
            )
        )
        seen[rate] += counts
    return fleet


def highest_rate(
    layout: Layout,
    limit: Fraction,
    config: RunConfig,
    step_seconds: Sequence[tuple[Fraction, float]] = (),
) -> Fraction:
    """Return the highest rate of this model within a limit and the configured `round_budget`.

    Where whoever comes takes part it is one of the fleet's widths.

    Between two measured rates the time of a local step is taken to be a constant and a part that
    grows with the number of parameters, so with the square of the rate. A client that is too slow
    even for the smallest rate gets that one.

    Args:
        layout: The full model's layout.
        limit: What the client is configured for and says it can hold.
        config: The run's configuration.
        step_seconds: Measured seconds of a step by rate; none is no limit in time.

    Returns:
        A multiple of ``1 / layout.atom``, 0 if even the smallest is above the limit.
    """
    atom = layout.atom
    allowed = config.widths(atom) if config.auto else [Fraction(k + 1, atom) for k in range(atom)]
    rates = [rate for rate in allowed if rate <= limit]
    if not rates or not step_seconds or not config.round_budget:
        return rates[-1] if rates else Fraction(0)
    (low, fast), (high, slow) = min(step_seconds), max(step_seconds)
    slope = max(0.0, slow - fast) / float(high**2 - low**2) if high > low else 0.0

    def fits(rate: Fraction) -> bool:
        return config.local_steps * (fast + slope * float(rate**2 - low**2)) <= config.round_budget

    return max((rate for rate in rates if fits(rate)), default=rates[0])


def required(config: RunConfig, asked: int) -> int:
    """Return how many usable replies a round needs: at least one, and all can be had.

    With privacy it needs none: to try again where a client is missing would tell that it is.
    """
    if config.privacy.on:
        return 0
    wanted = config.min_replies if config.min_replies >= 1 else config.min_replies * asked
    return max(1, min(math.ceil(wanted), asked))


def eligible(fleet: list[Client], config: RunConfig) -> list[Client]:
    """Return those who may take part at all, present or not."""
    return [client for client in fleet if config.participants == "all" or client.rate == 1]


def sampling_rate(config: RunConfig) -> float:
    """Return the part of the configured fleet that takes part in a round, on average."""
    rates = config.client_rates
    several = len(rates) if config.participants == "all" else rates.count(Fraction(1))
    return min(1.0, config.clients_per_round / several) if config.clients_per_round else 1.0


def participants(
    fleet: list[Client],
    config: RunConfig,
    round: int,
    lot: Callable[[int], float] | None = None,
) -> list[Client]:
    """Return the clients of a round: all present, or `clients_per_round` drawn from these.

    With privacy it is so many on average: everybody draws a lot, whoever else is there, and takes
    part with probability `sampling_rate` (Poisson sampling, as McMahan et al. 2018, algorithm 1).

    Args:
        fleet: Everybody.
        config: The run's configuration.
        round: The round.
        lot: By partition, with privacy: secret, uniform on [0, 1).
    """
    present = [client for client in eligible(fleet, config) if client.present]
    if config.privacy.on:
        assert lot is not None, "with privacy nobody may know who is drawn"
        return [each for each in present if lot(each.partition) < sampling_rate(config)]
    if not 0 < config.clients_per_round < len(present):
        return present
    rng = rng_for(config.seed, round, SERVER, "participants")
    chosen = rng.choice(len(present), config.clients_per_round, replace=False)
    return [present[i] for i in sorted(chosen)]
