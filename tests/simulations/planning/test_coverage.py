import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from common.config.run import RunConfig
from common.config.sections import ModelConfig
from common.files import plain_json
from server.app import federate
from server.policies.registry import POLICIES
from server.record.history import read_rows
from server.record.recorder import Recorder
from server.state.checkpoint import checkpoints, load_checkpoint
from simulations import cli
from simulations.planning.coverage import layer_table, plan_coverage
from tests.federations import TINY
from tests.local_grid import LocalGrid


@pytest.mark.parametrize("policy", [*POLICIES, "core+covering"])
def test_the_plan_agrees_exactly_with_what_a_run_records(
    policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Samples and scores are beside the point here, and take most of the time.
    monkeypatch.setattr(Recorder, "_evaluate", lambda self, state: {})
    monkeypatch.setattr(Recorder, "summarise", lambda self, state, ask: {})
    by_weights = "magnitude" in policy or policy == "quarters-ranked"
    config = TINY.model_copy(
        update={
            "policy": policy,
            "fleet": "1234556677" if policy.startswith("quarters") else "1/2x2 1/4x3",
            "clients_per_round": 3,
            "local_steps": 1,
            # What the weights will be cannot be planned, but where they start is known.
            "refresh_every": 0 if by_weights else 1,
        }
    )
    plan = plan_coverage(config, config.rounds)
    assert plan.looks_at_weights == by_weights
    federate(LocalGrid(config), config, tmp_path)
    saved = checkpoints(tmp_path / "checkpoints")[-1]
    state = load_checkpoint(saved, config, plan.layout)
    np.testing.assert_array_equal(plan.counts, state.counts)
    rows = read_rows(tmp_path / "history.jsonl")[1:]
    assert plain_json(plan.rows) == [{key: row[key] for key in plan.rows[0]} for row in rows]
    assert plain_json(plan.layers) == json.loads((tmp_path / "coverage.json").read_text())


def test_medians_are_weighted_by_coordinates() -> None:
    (*_, end) = plan_coverage(RunConfig(fleet="1x1 1/4x1"), 10).rows
    # The narrow client holds a sixteenth of most layers, so the median sees the full one only.
    assert [end[f"updates_{name}"] for name in ("min", "median", "max")] == [10, 10, 20]


def test_the_command_warns_of_parts_that_are_never_trained(tmp_path: Path) -> None:
    run = CliRunner().invoke
    words = ["coverage", "--rounds", "40", "--set", "fleet=1/4x8", "--set"]
    rolling = run(cli.app, [*words, "policy=rolling", "--out", str(tmp_path / "picture.png")])
    assert rolling.exit_code == 0, rolling.stderr
    assert "warning: 7" in rolling.stdout
    assert "of the model would never be trained (75% of " in rolling.stdout
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    balanced = run(cli.app, [*words, "policy=balanced", "--layers"])
    assert "warning" not in balanced.stdout
    assert "never_covered_fraction  0.0000" in balanced.stdout
    assert len(balanced.stdout.splitlines()) > 60
    magnitude = run(cli.app, [*words, "policy=magnitude"])
    assert "note: magnitude may choose by the weights" in magnitude.stdout
    assert (
        "note" not in run(cli.app, [*words, "policy=magnitude", "--set", "refresh-every=0"]).stdout
    )


def test_a_fleet_of_more_clients_than_images_is_planned_too() -> None:
    config = RunConfig(
        fleet="1x1000 1/2x4000 1/4x5000",
        clients_per_round=200,
        policy="random",
        model=ModelConfig(widths=(8, 16), groups=2),
    )
    plan = plan_coverage(config, 5)
    assert plan.rows[-1]["updates_max"] == 1000
    assert "conv_in.weight" in layer_table(plan)
