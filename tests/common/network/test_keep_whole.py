"""The time embedding kept whole: nothing but how the model is cut is different."""

from pathlib import Path

import numpy as np
import pytest

from common.config.run import RunConfig
from common.config.sections import ModelConfig
from common.network.unet import initial_weights, layout_of
from common.submodels.masked import by_coordinate
from common.submodels.submodel import extract
from server.app import federate
from server.policies.choose import elementwise, submodel_for
from server.policies.registry import POLICIES
from server.policies.request import GlobalWeights, Request
from server.pretrained.folder import export_pipeline
from tests.federations import TINY, final_state
from tests.local_grid import LocalGrid

CUT, WHOLE = ModelConfig(), ModelConfig(keep_whole="time")
EMBEDDING = (32 + 1 + 128) * 128
"""Weights and biases of the default model's two time layers."""

JOINT = 128 * (32 + 64 + 64 + 64 + 64 + 64 + 32 + 32)
"""Weights from the embedding to the default model's eight resnet blocks."""


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_a_submodel_holds_all_of_the_time_embedding_and_what_it_held_before(k: int) -> None:
    sizes = {}
    for model in (CUT, WHOLE):
        layout = layout_of(model, 1)
        request = Request(layout, k, 0, 1, 1, np.random.default_rng(0))
        sizes[model] = submodel_for("static", request).size
    r = k / 4
    # Weights cut on both sides shrink by r squared, biases and what is cut on one side by r.
    cut = r * (32 * 128 + 128) + r * r * 128 * 128 + r * 128 + r * r * JOINT
    assert sizes[WHOLE] - sizes[CUT] == EMBEDDING + 128 + r * JOINT - cut


@pytest.mark.parametrize("policy", [p for p in POLICIES if not p.startswith("quarters")])
def test_every_policy_keeps_it_whole(policy: str) -> None:
    layout = layout_of(WHOLE, 1)
    layout = by_coordinate(layout) if elementwise(policy) else layout
    theta = initial_weights(WHOLE, 1, 0)
    rng = np.random.default_rng(0)
    request = Request(
        layout, 1, 0, 1, 1, rng, widths=(1,), weights=GlobalWeights(layout, lambda: theta)
    )
    submodel = submodel_for(policy, request)
    values = extract(theta, submodel)
    for parameter in layout.parameters:
        if parameter.name.startswith("time_embedding"):
            kept = values[submodel.spans[parameter.name]]
            np.testing.assert_array_equal(kept, theta[parameter.span])


def test_the_model_itself_is_the_same_and_its_layout_another(tmp_path: Path) -> None:
    layouts = [layout_of(model, 1) for model in (CUT, WHOLE)]
    assert layouts[0].digest != layouts[1].digest
    assert set(layouts[0].axes) - set(layouts[1].axes) == {"time.hidden", "time.out"}
    exports = []
    for model in (CUT, WHOLE):
        theta = initial_weights(model, 1, seed=0)
        export_pipeline(tmp_path / "model", RunConfig(model=model), theta, 1, 8)
        files = sorted(path for path in (tmp_path / "model").rglob("*") if path.is_file())
        exports.append({path.name: path.read_bytes() for path in files})
    assert exports[0] == exports[1]


def test_all_clients_of_a_run_train_it(tmp_path: Path) -> None:
    model = TINY.model.model_copy(update={"keep_whole": "time"})
    changes = {"model": model, "fleet": "1x1 1/2x2", "rounds": 1, "policy": "static"}
    config = TINY.model_copy(update=changes)
    federate(LocalGrid(config), config, tmp_path)
    layout, state = layout_of(model, 1), final_state(config, tmp_path)
    before = initial_weights(model, 1, config.seed)
    for parameter, counts in layout.coverage_views(state.counts):
        whole = parameter.name.startswith("time_embedding")
        assert counts.min() == (3 if whole or parameter.name == "conv_out.bias" else 1)
        if whole:
            moved = layout.view(state.theta, parameter) != layout.view(before, parameter)
            assert moved.mean() > 0.9
