"""What a fleet and a policy will cover, computed without training anything."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from common.config import RunConfig, parse_fleet
from common.data import load_dataset
from common.extraction import GlobalWeights, choose
from common.submodel import Layout, Submodel
from common.unet import layout_of
from server.fleet import muster, participants, request_for
from server.preflight import rehearse
from server.starting import starting_weights


@dataclass(frozen=True)
class Coverage:
    """How often the coordinates of a model are trained over some rounds.

    Attributes:
        layout: The full model's layout.
        rounds: The number of rounds.
        counts: Client updates of each coordinate over all rounds, as a coverage vector.
        gamma_min: The least number of clients on any coordinate in any round, the theory's Γ.
        density_mean: Mean fraction of the model that a client holds.
    """

    layout: Layout
    rounds: int
    counts: Int64[np.ndarray, " coverage"]
    gamma_min: int
    density_mean: float

    @property
    def never_covered_fraction(self) -> float:
        """The fraction of coordinates that no client trains in any round."""
        never = self.layout.coverage_sizes[self.counts == 0].sum()
        return float(never / self.layout.size)

    def quantile(self, share: float) -> int:
        """Return the count that `share` of all coordinates do not exceed."""
        order = np.argsort(self.counts, kind="stable")
        reached = np.cumsum(self.layout.coverage_sizes[order]) >= share * self.layout.size
        return int(self.counts[order][reached][0])


def plan_coverage(config: RunConfig, rounds: int) -> Coverage:
    """Play a run's assignments without training and count what they cover.

    Every client is taken to reply. Equal submodels are counted once with their number, so a fleet
    of thousands costs no more than its different submodels do.

    Raises:
        UserError: The configuration does not fit together.
    """
    rates = parse_fleet(config.fleet)
    fleet = muster(rates, [(0, 0)] * len(rates))
    channels = load_dataset(config.data).train.image_shape[0]
    layout = layout_of(config.model, channels)
    rehearse(config, layout, channels)
    weights = GlobalWeights(layout, lambda: starting_weights(config, channels))
    counts = np.zeros(layout.coverage_size, dtype=np.int64)
    known: dict[bytes, Submodel] = {}
    gamma_min, kept, updates = len(fleet), 0, 0
    for round in range(1, rounds + 1):
        numbers: Counter[bytes] = Counter()
        for client in participants(fleet, config, round):
            k, positions = choose(
                config.policy, request_for(layout, config, client, round, weights)
            )
            key = b"".join([bytes([k]), *(each.tobytes() for each in positions.values())])
            numbers[key] += 1
            if key not in known:
                known[key] = Submodel.from_positions(layout, k, positions)
        once = np.zeros_like(counts)
        for key, number in numbers.items():
            for parameter, view in layout.coverage_views(once):
                view[known[key].coverage_index(parameter)] += number
            kept += number * known[key].size
            updates += number
        gamma_min = min(gamma_min, int(once.min()))
        counts += once
    return Coverage(layout, rounds, counts, gamma_min, kept / (updates * layout.size))


def report(plan: Coverage, config: RunConfig) -> str:
    """Say in a few lines what will be covered, with a warning where a part never is."""
    lines = [
        f"policy {config.policy}, fleet {config.fleet}, {plan.rounds} rounds",
        f"density_mean            {plan.density_mean:.4f}   mean fraction of the model on a client",
        f"gamma_min               {plan.gamma_min}   least clients on any coordinate in any round",
        f"updates per coordinate  {plan.quantile(0)} least, {plan.quantile(0.5)} median, "
        f"{plan.quantile(1)} most",
        f"never_covered_fraction  {plan.never_covered_fraction:.4f}",
    ]
    if plan.never_covered_fraction > 0:
        lines.append(
            f"warning: {plan.never_covered_fraction:.1%} of the model would never be trained; give "
            "some client a higher rate, or choose the policy balanced"
        )
    return "\n".join(lines)
