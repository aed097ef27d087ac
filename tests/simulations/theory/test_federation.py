"""The federation without Flower trains what the app trains."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.training import train_locally
from common.config.run import RunConfig
from common.config.sections import EmaConfig, ServerConfig
from common.data.datasets import load_dataset
from common.network.unet import layout_of
from server.app import federate
from server.policies.choose import policy_named
from server.record.recorder import Recorder
from server.state.checkpoint import checkpoints, load_checkpoint
from simulations.theory.federation import federation
from tests.federations import TINY
from tests.local_grid import LocalGrid

DIGITS = load_dataset("digits").train


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"aggregation": "trimmed", "trim": 0.3, "weighting": "uniform"},
        {"aggregation": "median", "fleet": "1/2x3"},
        {"policy": "magnitude", "refresh_every": 2, "rounds": 5},
        {"policy": "core+magnitude", "refresh_every": 0},
        {"policy": "element-magnitude", "refresh_every": 2, "rounds": 4},
        {"clients_per_round": 2, "partition": "dirichlet"},
        {"server": ServerConfig(optimizer="adam", learning_rate=0.01)},
        {"ema": EmaConfig(half_life=(1000, 0))},
        # Weights of some clients go far astray from the third round on, and all know it from there.
        {"update_check": "clip", "fleet": "1/2x5", "partition": "classes", "rounds": 4},
        {"update_check": "reject", "fleet": "1/2x5", "partition": "classes", "rounds": 4},
    ],
)
def test_it_trains_bit_for_bit_what_the_app_trains(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recorder, "_evaluate", lambda self, state: {})
    monkeypatch.setattr(Recorder, "summarise", lambda self, state, ask: {})
    if "update_check" in changes:
        _lead_astray(monkeypatch)
    config = TINY.model_copy(update=changes)
    federate(LocalGrid(config), config, tmp_path)
    layout = policy_named(config.policy).coverage_layout(layout_of(config.model, 1))
    app = load_checkpoint(checkpoints(tmp_path / "checkpoints")[-1], config, layout)
    *_, last = federation(config, DIGITS)
    for name, theirs in vars(app).items():
        ours = getattr(last.state, name)
        if isinstance(theirs, np.ndarray):
            assert ours.tobytes() == theirs.tobytes(), name
        else:
            assert ours == theirs, name
    if config.update_check == "reject":
        assert app.replies == 5 * 4 - 2, "nobody was refused, so nothing is shown"
    if config.update_check == "clip":
        *_, free = federation(config.model_copy(update={"update_check": "off"}), DIGITS)
        assert free.state.theta.tobytes() != app.theta.tobytes(), "nothing was shortened"


def _lead_astray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one client of five come back from far away in the last two of four rounds."""
    train = train_locally

    def strayed(values: Any, submodel: Any, data: Any, config: Any, round: int, *rest: Any) -> Any:
        result = train(values, submodel, data, config, round, *rest)
        if round < 3 or data.labels[0] != DIGITS.labels.min():
            return result
        return replace(result, values=values + np.float32(50) * (result.values - values))

    monkeypatch.setattr("client.training.train_locally", strayed)
    monkeypatch.setattr("simulations.theory.federation.train_locally", strayed)


@pytest.mark.parametrize("changes", [{"codec": "int8"}, {"round_budget": 5.0}])
def test_what_it_cannot_train_alike_is_refused(changes: dict[str, Any]) -> None:
    config = RunConfig().model_copy(update=changes)
    with pytest.raises(ValueError, match="codec is float32 and round-budget 0"):
        next(federation(config, DIGITS))
