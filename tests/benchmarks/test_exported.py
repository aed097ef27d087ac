"""An export opened by diffusers in a process of its own: the same model, to every measure."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import exported
from common.config.sections import EvaluationConfig
from common.diffusion import samplers
from tests.simulations.results.test_products import make_run


@pytest.mark.slow
def test_diffusers_draws_the_same_images_from_the_exported_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", evaluation=EvaluationConfig(samples=64, evaluations=2))

    def single(x: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(x.shape, generator=generator).to(x)

    # Noise in diffusers' precision is diffusers' noise, step by step and batch by batch.
    monkeypatch.setattr(samplers, "_normal_like", single)
    exported.main([str(run), "--json", "--samples", "260", "--evaluations", "5"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    values = {(row["case"], row["metric"]): row["value"] for row in rows}
    assert values["weights", "come back bit for bit"] == 1
    for pipeline in exported.PIPELINES:
        assert values[pipeline, "largest_pixel_difference"] < 1e-4
        assert values[pipeline, "ratio"] == pytest.approx(1, abs=1e-4)
    assert values["DDPMPipeline", "frechet_ours"] != values["DDIMPipeline", "frechet_ours"]


def test_steps_of_unequal_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="16 evaluations do not divide 1000 timesteps"):
        next(exported.measure(tmp_path, 64, 16))
