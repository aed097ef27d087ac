"""What the server carries from round to round, and how one round moves it on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from common.config import RunConfig, ServerConfig
from common.submodels import Layout
from server.aggregation import CLIENTS, IMAGES, Aggregate, Norms, norms_after
from server.fleet import Seats, anchor_after
from server.loops import factors_of
from server.state.ema import averaged, pull_of
from server.state.optimizers import OPTIMIZERS, plain
from server.state.reference import Reference
from server.state.round import Round


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """Everything that the next round depends on besides the configuration.

    Attributes:
        round: Complete rounds, 0 before training.
        theta: The global weights.
        moments: What the server optimizer remembers of every coordinate: M models' memory.
        emas: Exponential moving averages of the weights, one for each half-life: E models' memory.
        counts: Client updates that each coordinate has had, as a coverage vector.
        images: Images that have trained each coordinate, as a coverage vector.
        last: The round that last trained each coordinate, 0 where none has; a coverage vector.
        replies: Client updates that all rounds have taken in.
        masks: What each client held when its update was last taken in (`Submodel.bitmask`), zeros
            if never.
        anchor: The weights by which policies choose while clients stay where they are; None if
            these are `theta`, or the policy does not look.
        norms: Of the updates of the last rounds, by which the next ones are judged.
        limits: By partition the largest rate of everybody whose memory has run out; 0 is none.
        seats: Where clients stay within a stretch; none where the next round begins one.
        reference: What clients have said of their images, where they judge.
    """

    round: int
    theta: Float32[np.ndarray, "P"]
    moments: Float32[np.ndarray, "M P"]
    emas: Float32[np.ndarray, "E P"]
    counts: Int64[np.ndarray, "coverage"]
    images: Int64[np.ndarray, "coverage"]
    last: Int64[np.ndarray, "coverage"]
    replies: int
    masks: UInt8[np.ndarray, "clients bytes"]
    anchor: Float32[np.ndarray, "P"] | None = None
    norms: tuple[Norms, ...] = ()
    limits: Mapping[int, Fraction] = field(default_factory=dict)
    seats: Seats = field(default_factory=dict)
    reference: Reference = field(default_factory=Reference)

    @property
    def ema(self) -> Float32[np.ndarray, "P"]:
        """The first average, which every round reports."""
        return self.emas[0]

    @property
    def looked_at(self) -> Float32[np.ndarray, "P"]:
        """The weights by which policies choose in the next round."""
        return self.theta if self.anchor is None else self.anchor


def initial_state(
    layout: Layout, theta: Float32[np.ndarray, "P"], config: RunConfig
) -> ServerState:
    """Return the state before the first round."""
    count, _ = OPTIMIZERS[config.server.optimizer]
    moments = np.zeros((count, layout.size), dtype=np.float32)
    emas = np.tile(theta, (len(config.ema.half_life), 1))
    nothing = np.zeros(layout.coverage_size, dtype=np.int64)
    return ServerState(
        round=0,
        theta=theta,
        moments=moments,
        emas=emas,
        counts=nothing,
        images=nothing,
        last=nothing,
        replies=0,
        masks=no_masks(layout, config),
    )


def no_masks(layout: Layout, config: RunConfig) -> UInt8[np.ndarray, "clients bytes"]:
    """Return the masks of a fleet that has not taken part yet; of `fleet` "auto" there are none."""
    clients = 0 if config.auto else len(config.client_rates)
    return np.zeros((clients, -(-layout.mask_bits // 8)), dtype=np.uint8)


def room_for(
    masks: UInt8[np.ndarray, "clients bytes"], partitions: Iterable[int]
) -> UInt8[np.ndarray, "more bytes"]:
    """Return masks with a row for everybody: zeros for those who have not taken part yet."""
    missing = max(partitions, default=-1) + 1 - len(masks)
    return np.pad(masks, ((0, missing), (0, 0))) if missing > 0 else masks


def advance(state: ServerState, round: Round, layout: Layout, config: RunConfig) -> ServerState:
    """Move all of the state on by one complete round.

    The optimizer steps, the averages follow, and everything else is brought up to date.

    Args:
        state: The state after the round before; it is left as it is.
        round: The round.
        layout: The full model's layout.
        config: The run's configuration; `server`, `ema`, `policy` and `refresh_every` are read.
    """
    number, aggregate = state.round + 1, round.aggregate
    theta, moments = _stepped(state, aggregate, layout, config.server)
    counts, images, last = (np.empty(layout.coverage_size, np.int64) for _ in range(3))
    pulls: list[list[Float64[np.ndarray, _]]] = [[] for _ in config.ema.half_life]
    vectors = (state.counts, state.images, state.last, counts, images, last)
    for views in zip(*map(layout.coverage_views, vectors), strict=True):
        sums = aggregate.coverage.sums(views[0][0]).astype(np.int64)
        clients, trained = sums[CLIENTS].ravel(), sums[IMAGES].ravel()
        old_count, old_seen, old_when, count, seen, when = (
            view.reshape(-1, clients.size) for _, view in views
        )
        np.add(old_count, clients, out=count)
        np.add(old_seen, trained, out=seen)
        when[...] = np.where(clients > 0, number, old_when)
        # Mostly all atoms are trained alike, and there are a few dozen of them.
        seen = seen[:1] if (seen == seen[0]).all() else seen
        for half_life, parts in zip(config.ema.half_life, pulls, strict=True):
            parts.append(pull_of(trained, seen, half_life, config.ema.ramp).ravel())
    masks = room_for(state.masks, round.masks).copy()
    for partition, mask in round.masks.items():
        masks[partition] = np.frombuffer(mask, np.uint8)
    return ServerState(
        round=number,
        theta=theta,
        moments=moments,
        emas=averaged(state.emas, theta, [factors_of(layout, parts) for parts in pulls]),
        counts=counts,
        images=images,
        last=last,
        replies=state.replies + len(round.masks),
        masks=masks,
        anchor=anchor_after(config, number, state.theta, state.anchor),
        norms=norms_after(state.norms, round.norms),
        limits=round.limits,
        seats=round.seats,
        reference=state.reference,
    )


def _stepped(
    state: ServerState, aggregate: Aggregate, layout: Layout, config: ServerConfig
) -> tuple[Float32[np.ndarray, "P"], Float32[np.ndarray, "M P"]]:
    """Return the weights after the server's step, and its moments.

    A coordinate that nobody covered keeps its weight and its moments bit for bit.
    """
    count, rule = OPTIMIZERS[config.optimizer]
    if rule is plain and config.learning_rate == 1:
        return aggregate.theta, state.moments
    theta, moments = state.theta.copy(), state.moments.copy()
    for parameter, clients in layout.coverage_views(aggregate.counts):
        old, new = (layout.view(vector, parameter) for vector in (theta, aggregate.theta))
        kept = moments[:, parameter.span].reshape(count, *parameter.shape)
        moved, step = rule(kept, new - old, config)
        covered = clients > 0
        np.copyto(kept, moved, where=covered)
        np.add(old, config.learning_rate * step, out=old, where=covered)
    return theta, moments
