"""A sweep's summary holds the right numbers of the right runs."""

import csv
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from simulations.archive.record import RunRecord, read_run
from simulations.sweep.plan import Plan, read_plan
from simulations.sweep.table import as_csv, as_markdown, lines_of
from tests.simulations.results.test_products import make_run

MIB = 2**20
COLUMNS = '["frechet_ema", "frechet_by_width.1/2", "bytes", "summary.widths.1/2.frechet_ema"]'


def _rows(shift: float) -> list[dict[str, Any]]:
    """Return a history that samples best in round 1."""
    scores = [50.0, 10.0, 20.0]
    return [
        {
            "round": round,
            "frechet_ema": score + shift,
            "frechet_by_width": {"1": score + shift}
            | ({"1/2": 100 + score + 2 * shift} if round else {}),
            "bytes_up": round * MIB,
            "bytes_down": round * MIB,
        }
        for round, score in enumerate(scores)
    ]


def _run(folder: Path, shift: float) -> RunRecord:
    run = make_run(folder, {"rounds": 2, "widths": {"1/2": {"frechet_ema": 7.0 + shift}}})
    (run / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _rows(shift)))
    return read_run(run)


@pytest.fixture
def study(tmp_path: Path) -> tuple[Plan, dict[str, RunRecord]]:
    file = tmp_path / "study.toml"
    grid = '[grid]\nseed = [0, 1, 2]\npolicy = ["static", "balanced"]'
    file.write_text(f"columns = {COLUMNS}\n{grid}\n")
    plan = read_plan(file)
    shifts = {"policy-static_seed-0": 0.0, "policy-static_seed-1": 1.0, "policy-static_seed-2": 5.0}
    shifts["policy-balanced_seed-1"] = 3.0
    return plan, {name: _run(tmp_path / name, shift) for name, shift in shifts.items()}


def test_mean_and_spread_over_the_seeds_that_are_finished(
    study: tuple[Plan, dict[str, RunRecord]],
) -> None:
    rows = list(csv.DictReader(as_csv(lines_of(*study)).splitlines()))
    assert [row["policy"] for row in rows] == ["static", "balanced"]
    assert [row["runs"] for row in rows] == ["3", "1"]
    static = {key: float(value) for key, value in rows[0].items() if key != "policy"}
    spread = statistics.stdev([0.0, 1.0, 5.0])
    assert static == {
        "runs": 3,
        "frechet_ema last mean": 22,
        "frechet_ema last spread": pytest.approx(spread),
        "frechet_ema best mean": 12,
        "frechet_ema best spread": pytest.approx(spread),
        "frechet_by_width.1/2 last mean": 124,
        "frechet_by_width.1/2 last spread": pytest.approx(2 * spread),
        "frechet_by_width.1/2 best mean": 114,
        "frechet_by_width.1/2 best spread": pytest.approx(2 * spread),
        "bytes last mean": 6,
        "bytes last spread": 0,
        "bytes best mean": 2,
        "bytes best spread": 0,
        "summary.widths.1/2.frechet_ema mean": 9,
        "summary.widths.1/2.frechet_ema spread": pytest.approx(spread),
    }
    assert rows[1]["frechet_ema last mean"] == "23"
    assert rows[1]["frechet_ema last spread"] == ""


def test_the_table_for_people(study: tuple[Plan, dict[str, RunRecord]]) -> None:
    head, dashes, static, balanced = as_markdown(lines_of(*study)).splitlines()
    cells = [cell.strip() for cell in static.strip("|").split("|")]
    assert len(head.split("|")) == len(dashes.split("|")) == len(static.split("|"))
    assert cells[:3] == ["static", "22.0 ± 2.6", "12.0 ± 2.6"]
    assert cells[-1] == "3"
    assert balanced.endswith("| 1 of 3 |")
    assert balanced.startswith("| balanced | 23 |")


def test_a_sweep_of_which_nothing_is_finished_has_an_empty_table(
    study: tuple[Plan, dict[str, RunRecord]],
) -> None:
    rows = list(csv.DictReader(as_csv(lines_of(study[0], {})).splitlines()))
    assert {row["frechet_ema last mean"] for row in rows} == {""}
    assert as_markdown(lines_of(study[0], {})).endswith("| 0 of 3 |\n")
