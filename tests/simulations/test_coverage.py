from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from common.config import RunConfig
from common.extraction import POLICIES
from server.app import federate
from server.checkpoint import checkpoints, load_checkpoint
from server.history import read_rows
from simulations import cli
from simulations.coverage import plan_coverage
from tests.local_grid import LocalGrid
from tests.server.test_federation import TINY

POLICIES_THAT_SEE_ALL = [
    p for p in POLICIES if p not in ("magnitude", "quarters", "quarters-ranked")
]


@pytest.mark.parametrize("policy", [*POLICIES_THAT_SEE_ALL, "core+covering"])
def test_the_plan_agrees_exactly_with_what_a_run_records(policy: str, tmp_path: Path) -> None:
    config = TINY.model_copy(
        update={"policy": policy, "fleet": "1/2x2 1/4x3", "clients_per_round": 3, "local_steps": 1}
    )
    plan = plan_coverage(config, config.rounds)
    federate(LocalGrid(config), config, tmp_path)
    saved = checkpoints(tmp_path / "checkpoints")[-1]
    state = load_checkpoint(saved, config, plan.layout)
    np.testing.assert_array_equal(plan.counts, state.counts)
    rows = read_rows(tmp_path / "history.jsonl")[1:]
    assert plan.never_covered_fraction == rows[-1]["never_covered_fraction"]
    assert plan.gamma_min == min(row["gamma_min"] for row in rows)
    assert plan.density_mean == pytest.approx(np.mean([row["density_mean"] for row in rows]))


def test_quantiles_are_weighted_by_coordinates() -> None:
    plan = plan_coverage(RunConfig(fleet="1x1 1/4x1"), 10)
    # The narrow client holds a sixteenth of most layers, so the median sees the full one only.
    assert (plan.quantile(0), plan.quantile(0.5), plan.quantile(1)) == (10, 10, 20)


def test_the_command_warns_of_parts_that_are_never_trained() -> None:
    run = CliRunner().invoke
    words = ["coverage", "--rounds", "40", "--set", "fleet=1/4x8", "--set"]
    rolling = run(cli.app, [*words, "policy=rolling"])
    assert rolling.exit_code == 0, rolling.stderr
    assert "warning" in rolling.stdout
    assert "would never be trained" in rolling.stdout
    balanced = run(cli.app, [*words, "policy=balanced"])
    assert "warning" not in balanced.stdout
    assert "never_covered_fraction  0.0000" in balanced.stdout
