"""What a fleet and a policy will cover, computed without training anything."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from common.config import RunConfig
from common.submodels import Layout
from server.coverage import (
    Coverage,
    by_layer,
    coordinates,
    course_summary,
    mask_changes,
    round_summary,
)
from server.fleet import eligible, fleet_of, participants, request_for
from server.policies import GlobalWeights, bitmask_of, policy_named
from server.preflight import rehearse
from server.pretrained.start import starting_weights
from server.setting import outlined
from server.state import no_masks, room_for

AT_ONCE = 1000
"""Submodels whose coverage is added up at once; more take more memory and hardly less time."""


@dataclass(frozen=True)
class Plan:
    """How a model will be trained over some rounds if every client replies.

    Attributes:
        layout: The full model's layout.
        rounds: The number of rounds.
        counts: Client updates of each coordinate over all rounds, as a coverage vector.
        rows: For each round what a run's history says of it about coverage.
        layers: For each parameter what a run's `coverage.json` says of it in the end.
        looks_at_weights: Whether the policy may choose by the weights; these stayed those before
            the first round here, while in a run they move.
    """

    layout: Layout
    rounds: int
    counts: Int64[np.ndarray, " coverage"]
    rows: list[dict[str, Any]]
    layers: dict[str, dict[str, Any]]
    looks_at_weights: bool

    @property
    def never_covered_fraction(self) -> float:
        """The fraction of coordinates that no client trains in any round."""
        return float(self.rows[-1]["never_covered_fraction"])

    @property
    def gamma_min(self) -> int:
        """The least number of clients on any coordinate in any round, the theory's Γ."""
        return min(row["gamma_min"] for row in self.rows)

    @property
    def density_mean(self) -> float:
        """The mean fraction of the model that a client holds."""
        return float(np.mean([row["density_mean"] for row in self.rows]))


def plan_coverage(config: RunConfig, rounds: int) -> Plan:
    """Play a run's assignments without training and count what they cover.

    No submodel is built, and equal ones are counted once with their number.

    Raises:
        UserError: The fleet, the policy and the model do not fit together.
    """
    setting = outlined(config)
    layout = setting.layout
    policy = policy_named(config.policy)
    rehearse(setting)
    rates = config.client_rates
    fleet = fleet_of(rates, [(0, 0)] * len(rates))
    weights = GlobalWeights(layout, lambda: starting_weights(config, setting.image_shape[0]))
    counts, last = (np.zeros(layout.coverage_size, dtype=np.int64) for _ in range(2))
    masks, changes, updates, rows = no_masks(layout, config), np.empty(0), 0, []
    for round in range(1, rounds + 1):
        # With privacy nobody knows who is drawn, and a run counts all who may be.
        clients = (
            eligible(fleet, config) if config.privacy.on else participants(fleet, config, round)
        )
        asked = [client.partition for client in clients]
        kept = [
            bitmask_of(layout, policy(request_for(layout, config, client, round, weights)))
            for client in clients
        ]
        once = _counts(layout, Counter(kept))
        now = np.frombuffer(b"".join(kept), np.uint8).reshape(len(asked), -1)
        masks = room_for(masks, asked)
        change, changes = mask_changes(layout, masks[asked], now)
        masks[asked] = now
        counts += once
        last[once > 0] = round
        updates += len(clients)
        rows.append(
            {
                "round": round,
                "density_mean": float(np.mean(coordinates(layout, now).sum(axis=1) / layout.size)),
                **round_summary(layout, once),
                **course_summary(layout, round, counts, last),
                "mask_change": change,
            }
        )
    layers = by_layer(layout, rounds, updates, counts, last, changes)
    return Plan(layout, rounds, counts, rows, layers, policy.by_weights)


def _counts(layout: Layout, masks: Counter[bytes]) -> Int64[np.ndarray, " coverage"]:
    """Return how many submodels cover each coordinate, each taken a number of times."""
    counts = np.zeros(layout.coverage_size, dtype=np.int64)
    different = list(masks.items())
    for start in range(0, len(different), AT_ONCE):
        some = different[start : start + AT_ONCE]
        numbers = np.array([[number] for _, number in some], dtype=np.float64)
        counts += Coverage(layout, [mask for mask, _ in some], numbers).vector(0)
    return counts


def report(plan: Plan, config: RunConfig) -> str:
    """Say in a few lines what will be covered, with a warning where a part never is."""
    end = plan.rows[-1]
    changes = [row["mask_change"] for row in plan.rows if not math.isnan(row["mask_change"])]
    lines = [
        f"policy {config.policy}, fleet {config.fleet}, {plan.rounds} rounds",
        f"density_mean            {plan.density_mean:.4f}   mean fraction of the model on a client",
        f"gamma_min               {plan.gamma_min}   least clients on any coordinate in any round",
        f"updates per coordinate  {end['updates_min']} least, {end['updates_median']} median, "
        f"{end['updates_max']} most",
        f"staleness               {end['staleness_mean']:.2f} rounds since last trained on average,"
        f" {end['staleness_max']} at most",
        f"mask_change             {np.mean(changes or [0.0]):.4f}   mean part of a submodel that "
        "is new to its client",
        f"never_covered_fraction  {plan.never_covered_fraction:.4f}",
    ]
    if plan.looks_at_weights and config.refresh_every:
        lines.append(
            f"note: {config.policy} may choose by the weights, which were taken to stay as they "
            "are before the first round; a run will differ once they move"
        )
    if plan.never_covered_fraction > 0:
        lines.append(
            f"warning: {plan.never_covered_fraction:.1%} of the model would never be trained "
            f"({_where(plan)}); give some client a higher rate, or choose the policy balanced"
        )
    return "\n".join(lines)


def _where(plan: Plan) -> str:
    """Name the layers that lose most."""

    def lost(name: str) -> float:
        layer = plan.layers[name]
        return float(layer["never_covered_fraction"] * layer["coordinates"])

    worst = sorted(plan.layers, key=lost, reverse=True)[:2]
    shares = [f"{plan.layers[n]['never_covered_fraction']:.0%} of {n}" for n in worst if lost(n)]
    return ", ".join(shares)


def layer_table(plan: Plan) -> str:
    """Return the report for every parameter as lines of text."""
    heads = ("density", "updates", "never", "stale", "change", "parameter")
    lines = ["{:>8} {:>17} {:>7} {:>11} {:>7}  {}".format(*heads)]
    for name, row in plan.layers.items():
        updates = f"{row['updates_min']}/{row['updates_median']}/{row['updates_max']}"
        stale = f"{row['staleness_mean']:.1f}/{row['staleness_max']}"
        lines.append(
            f"{row['density']:8.4f} {updates:>17} {row['never_covered_fraction']:7.2%} {stale:>11} "
            f"{row['mask_change']:7.2%}  {name}"
        )
    return "\n".join(lines)
