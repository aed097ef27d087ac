"""The sampler benchmark: what its rows say, on a run that is quick to sample."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import samplers
from common.config.sections import EvaluationConfig
from tests.simulations.results.test_products import make_run


class _Judge:
    """Takes an image's value for its distance."""

    def frechet(self, images: Tensor) -> float:
        return float(images.mean())


def _close(distances: dict[int, float]) -> list[Any]:
    """Return from how many evaluations on these distances are close to the last one's."""

    def draw(steps: int) -> Tensor:
        if steps not in distances:
            raise IndexError("index out of range")
        return torch.full((2, 1, 1, 1), distances[steps])

    case = samplers.Case(draw, lambda budget: budget - 1, lambda steps: steps + 1)
    budgets = [step + 1 for step in (5, 10, 20, 500)]
    rows = list(samplers._rows("some", case, budgets, _Judge()))  # type: ignore[arg-type]
    assert [row["evaluations"] for row in rows] == [6, 11, 21, 501]
    assert [row["value"] is None for row in rows] == ["error" in row for row in rows]
    return [row["value"] for row in samplers.closeness(rows[2:] + rows[:2])]


def test_a_sampler_is_close_from_where_it_stays_close_or_better() -> None:
    assert _close({5: 0.9, 10: 0.52, 20: 0.51, 500: 0.5}) == [11, 11]
    assert _close({5: 0.5, 10: 0.9, 20: 0.51, 500: 0.5}) == [21, 21], "a lucky one does not count"
    assert _close({5: 0.3, 10: 0.4, 20: 0.48, 500: 0.5}) == [6, 21], "better is not the same"
    assert _close({5: 0.9, 10: 0.8, 20: 0.7, 500: 0.5}) == [501, 501]


def test_a_case_that_breaks_down_in_many_steps_does_not_end_the_rest() -> None:
    assert _close({5: 0.5, 10: 0.5}) == [None, None], "the long run itself is missing"
    assert _close({5: 0.9, 20: 0.5, 500: 0.5}) == [21, 21]


@pytest.mark.slow
def test_every_case_is_measured_on_the_run_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diffusers")
    run = make_run(tmp_path / "run", evaluation=EvaluationConfig(samples=64, evaluations=2))
    cases = "heun,exponential/kappa,diffusers DDIM"
    wanted = ["--samples", "64", "--reference", "5", "--budgets", "2,4", "--cases", cases]
    samplers.main([str(run), "--json", *wanted])
    lines = capsys.readouterr().out.splitlines()
    rows = [json.loads(line) for line in lines]
    assert all({"benchmark", "case", "metric", "value"} <= set(row) for row in rows)
    assert [row["case"] for row in rows[:9:3]] == cases.split(",")
    assert [row["case"] for row in rows[9::2]] == cases.split(",")
    assert [row["evaluations"] for row in rows if row["metric"] == "frechet"] == [
        *(3, 3, 5),
        *(2, 4, 5),
        *(2, 4, 5),
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    figure = tmp_path / "figure.png"
    samplers.main([str(run), "--rows", str(tmp_path / "rows.jsonl"), "--figure", str(figure)])
    assert figure.stat().st_size > 1000
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == ("| evaluations, at most | 2 | 4 | 5 | at most 5 % above | within 5 % |")
    assert [line.split(" | ")[0] for line in shown[2:]] == [
        f"| {case}" for case in cases.split(",")
    ]
    unclipped = [*wanted[:-1], "heun", "--no-clip", "--json"]
    samplers.main([str(run), *unclipped])
    assert json.loads(capsys.readouterr().out.splitlines()[0])["value"] != rows[0]["value"]
