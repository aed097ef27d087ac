"""What each policy keeps, by round: ``python -m simulations.pictures.policies OUT.png``."""

import sys
from pathlib import Path

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from common.config import RunConfig
from common.network import initial_weights, layout_of
from common.submodels import CompactSubmodel
from server.fleet import Client, fleet_of, request_for
from server.policies import POLICIES, GlobalWeights, policy_named, submodel_for
from simulations.pictures.style import save_figure, styled

FLEET = "1/4x2 1/2x2 1x1"
CODE = "1234556677"
ROUNDS, SHOWN, COLUMNS = 12, 8, 4
AXES = ("conv_in", "down0.0.hidden")
LAYERS = ("conv_in.weight", "conv_out.weight")


@styled
def policies_figure() -> Figure:
    """Draw a client of rate 1/2 under every policy: rounds across, channels or weights down.

    Above are the first two atoms of one axis, below those of another that meets it in a weight;
    for policies of single weights, the first of two layers.
    """
    names = [*POLICIES, "core+rolling"]
    figure = Figure(figsize=(10.4, 2.1 * -(-len(names) // COLUMNS)), layout="constrained")
    places = figure.subplots(-(-len(names) // COLUMNS), COLUMNS, squeeze=False).ravel()
    for axes in places[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(places, names, strict=False):
        axes.imshow(_kept(name), cmap=ListedColormap(["#e8e8e8", "C0", "white"]), vmin=0, vmax=2)
        axes.set_title(name, fontsize=9)
        axes.set(xticks=range(0, ROUNDS, 2), xticklabels=range(1, ROUNDS + 1, 2), yticks=[])
        axes.tick_params(labelsize=7)
        axes.grid(visible=False)
    figure.supxlabel("round", fontsize=9)
    figure.supylabel("two atoms each of two axes (element-…: weights of two layers)", fontsize=9)
    return figure


def _kept(policy: str) -> np.ndarray:
    """Return 1 where the client keeps something and 0 where not, with a gap of 2 between."""
    config = RunConfig(policy=policy, fleet=CODE if policy_named(policy).by_type else FLEET)
    layout = layout_of(config.model, 1)
    rates = config.client_rates
    client: Client = next(
        c for c in fleet_of(rates, [(0, 0)] * len(rates)) if c.rate == max(rates) / 2
    )
    rng = np.random.default_rng(0)
    theta, columns = initial_weights(config.model, 1, 0), []
    for round in range(1, ROUNDS + 1):
        weights = GlobalWeights(layout, lambda theta=theta: theta)  # type: ignore[misc]
        submodel = submodel_for(policy, request_for(layout, config, client, round, weights))
        if isinstance(submodel, CompactSubmodel):
            first, second = (np.isin(range(SHOWN), submodel.kept[name]) for name in AXES)
        else:
            bits = np.unpackbits(np.frombuffer(submodel.bitmask(), np.uint8)).astype(bool)
            first, second = (
                bits[p.offset : p.offset + SHOWN] for p in layout.parameters if p.name in LAYERS
            )
        columns.append([*first, 2, *second])
        # Steps at random stand for training, so that policies that look at weights have to follow.
        theta = theta + 0.02 * rng.normal(size=theta.size).astype(np.float32)
    return np.array(columns).T


if __name__ == "__main__":
    print(save_figure(policies_figure(), Path(sys.argv[1])))
