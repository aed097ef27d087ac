"""Stretches: the `refresh-every` rounds in which every client keeps the same channels."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from jaxtyping import Float32

from common.config import RunConfig
from server.fleet.members import Client
from server.policies import policy_named


@dataclass(frozen=True)
class Seat:
    """A client's rate, and its place among how many of that rate, as in `Client`."""

    rate: Fraction
    index: int
    count: int


Seats = Mapping[int, Seat]
"""By partition where everybody sits who has been there since the stretch began."""


def stretch_of(config: RunConfig, round: int) -> int:
    """Return the number of the stretch that a round is in, both counted from 1."""
    return 1 + (round - 1) // _length(config, round)


def begins_stretch(config: RunConfig, round: int) -> bool:
    """Say whether clients move in a round, 1 or later."""
    return (round - 1) % _length(config, round) == 0


def anchor_after(
    config: RunConfig,
    round: int,
    theta: Float32[np.ndarray, "P"],
    anchor: Float32[np.ndarray, "P"] | None,
) -> Float32[np.ndarray, "P"] | None:
    """Return the weights by which clients stay where they are, None if they need not be kept.

    Those are the weights before the first round of the stretch. Nothing is kept if the next round
    begins another one, or the policy does not look at weights.

    Args:
        config: The run's configuration.
        round: The round that is complete.
        theta: The weights before it.
        anchor: What was kept before it.
    """
    if begins_stretch(config, round + 1) or not policy_named(config.policy).by_weights:
        return None
    return theta if anchor is None else anchor


def seated(fleet: Sequence[Client], seats: Seats) -> list[Client]:
    """Return the fleet with everybody in the seat that it has.

    Whoever has come since the stretch began, or has another rate now, sits behind those of its
    rate, so that nobody else moves.

    Args:
        fleet: Everybody, as if a stretch began now.
        seats: Of the stretch so far; none where it begins.
    """
    if not seats:
        return list(fleet)
    behind = Counter(seat.rate for seat in seats.values())
    counts = {seat.rate: seat.count for seat in seats.values()}
    placed = []
    for client in fleet:
        seat = seats.get(client.partition)
        if seat is None or seat.rate != client.rate:
            count = counts.get(client.rate, client.count)
            seat = Seat(client.rate, behind[client.rate], count)
            behind[client.rate] += client.present
        placed.append(replace(client, index=seat.index, count=seat.count))
    return placed


def seats_after(config: RunConfig, round: int, fleet: Iterable[Client], seats: Seats) -> Seats:
    """Return the seats that the next round begins with: none where it begins a stretch.

    Args:
        config: The run's configuration.
        round: The round that is complete.
        fleet: Everybody, `seated` for that round.
        seats: What it began with.
    """
    if begins_stretch(config, round + 1):
        return {}
    # Of whoever comes, those who are away may never come back, and keep no seat free.
    here = {
        client.partition: Seat(client.rate, client.index, client.count)
        for client in fleet
        if client.present or not config.auto
    }
    return {**seats, **here}


def _length(config: RunConfig, round: int) -> int:
    # 0 is the whole run: then every round is in the first stretch, however many there are.
    return config.refresh_every or round
