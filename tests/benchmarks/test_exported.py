"""An export opened by diffusers in a process of its own: the same model, to every measure."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import exported
from common.sections import EvaluationConfig
from simulations.products import BATCH
from tests.simulations.test_products import make_run


@pytest.mark.slow
def test_diffusers_draws_the_same_images_from_the_exported_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", evaluation=EvaluationConfig(samples=64, evaluations=2))
    exported.main([str(run), "--json", "--samples", "300", "--evaluations", "5"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    values = {(row["case"], row["metric"]): row["value"] for row in rows}
    assert values["weights", "come back bit for bit"] == 1
    # DDIM from the same noise: the images themselves agree.
    assert values["DDIMPipeline", "largest_pixel_difference"] < 1e-4
    assert values["DDIMPipeline", "ratio"] == pytest.approx(1, abs=1e-4)
    # DDPM with other noise at every step: only the laws do.
    assert values["DDPMPipeline", "largest_pixel_difference"] > 1e-3
    assert values["DDPMPipeline", "ratio"] == pytest.approx(1, abs=0.05)


def test_noise_is_drawn_batch_by_batch() -> None:
    noise = exported._noise((BATCH + 3, 1, 2, 2))
    rest = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(exported.SEED + 1))
    assert torch.equal(noise[-3:], rest)


def test_steps_of_unequal_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="16 evaluations do not divide 1000 timesteps"):
        next(exported.measure(tmp_path, 64, 16))
