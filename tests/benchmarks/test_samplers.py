"""The sampler benchmark: what its rows say, on a run that is quick to sample."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import samplers
from common.sections import EvaluationConfig
from tests.simulations.test_products import make_run


class _Judge:
    """Takes an image's value for its distance."""

    def frechet(self, images: Tensor) -> float:
        return float(images.mean())


def _close(distances: dict[int, float]) -> Any:
    def draw(steps: int) -> tuple[Tensor, int]:
        return torch.full((2, 1, 1, 1), distances[steps]), steps + 1

    *steps, last = distances
    rows = list(samplers._case("some", draw, steps, last, _Judge()))  # type: ignore[arg-type]
    assert [row["evaluations"] for row in rows[:-1]] == [step + 1 for step in distances]
    return rows[-1]["value"]


def test_a_sampler_is_close_from_where_it_stays_close_or_better() -> None:
    assert _close({5: 0.9, 10: 0.52, 20: 0.51, 500: 0.5}) == 11
    assert _close({5: 0.5, 10: 0.9, 20: 0.51, 500: 0.5}) == 21, "a lucky budget does not count"
    assert _close({5: 0.3, 10: 0.4, 500: 0.5}) == 6, "better than the long run is close enough"
    assert _close({5: 0.9, 500: 0.5}) == 501


@pytest.mark.slow
def test_every_case_is_measured_on_the_run_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diffusers")
    run = make_run(tmp_path / "run", evaluation=EvaluationConfig(samples=64, evaluations=2))
    cases = "dpmpp2m,ancestral,diffusers DDIM"
    wanted = ["--samples", "64", "--reference", "4", "--budgets", "2,3", "--cases", cases]
    samplers.main([str(run), "--json", *wanted])
    lines = capsys.readouterr().out.splitlines()
    rows = [json.loads(line) for line in lines]
    assert all({"benchmark", "case", "metric", "value"} <= set(row) for row in rows)
    assert [row["case"] for row in rows[::4]] == cases.split(",")
    assert [row["evaluations"] for row in rows if row["metric"] == "frechet"] == [
        *(2, 3, 5),
        *(2, 3, 5),
        *(2, 3, 4),
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    figure = tmp_path / "figure.png"
    samplers.main([str(run), "--rows", str(tmp_path / "rows.jsonl"), "--figure", str(figure)])
    assert figure.stat().st_size > 1000
    assert "| diffusers DDIM | " in capsys.readouterr().out
