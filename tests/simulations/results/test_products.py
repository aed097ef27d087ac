"""Pictures and exports of a run: from which weights they come, and what is refused."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image
from typer.testing import CliRunner

from common.config.run import RunConfig
from common.config.sections import EmaConfig, EvaluationConfig, ModelConfig
from common.diffusion.denoising import eps_denoiser
from common.diffusion.process import CLOCKS, DELTA, GRIDS
from common.diffusion.samplers import sample
from common.errors import UserError
from common.network.unet import initial_weights, layout_of, load_weights
from common.seeding import SERVER, rng_for, torch_generator
from common.submodels import extract, submodel_of_rate
from server.policies.choose import submodel_for
from server.policies.request import Request
from server.pretrained.folder import import_pipeline
from server.record.about import write_about
from server.record.pictures import save_grid
from server.record.resolved import write_config
from server.state.advance import initial_state
from server.state.checkpoint import checkpoints, save_checkpoint
from simulations import cli
from simulations.archive.record import read_run
from simulations.results.export import export_run
from simulations.results.sample import sample_run

MODEL = ModelConfig(widths=(8, 16), groups=2, attention=(1,))  # atoms of 4 channels
SUMMARY = {
    "best_rate": "1/2",
    "widths": {"1": {"frechet_ema": 12.5}, "1/2": {"frechet_ema": 11.25}},
}


def make_run(
    folder: Path, summary: dict[str, Any] | None = None, model: ModelConfig = MODEL, **keys: Any
) -> Path:
    """Write the run directory of a run after three rounds, its averaged weights unlike the raw."""
    # Untrained, a network that predicts images gives half-tones, one that predicts noise extremes.
    config = RunConfig(model=model, prediction="x0", **keys)
    folder.mkdir()
    write_config(config, folder)
    layout = layout_of(config.model, 1)
    averages = len(config.ema.half_life)
    state = replace(
        initial_state(layout, initial_weights(config.model, 1, 0), config),
        round=3,
        emas=np.stack([initial_weights(config.model, 1, 1 - i) for i in range(averages)]),
    )
    config = config.model_copy(update={"run_dir": str(folder)})
    before = replace(state, round=2, emas=np.stack([state.theta] * averages))
    for each in (before, state):
        save_checkpoint(folder / "checkpoints", each, config, layout)
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", SUMMARY)


def _drawn(run: Path, **choices: Any) -> bytes:
    out = run / "test.png"
    sample_run(run, 4, out=out, evaluations=3, **choices)
    return out.read_bytes()


def test_samples_are_those_of_the_run_s_clock_grid_prediction_width_and_averaged_weights(
    tmp_path: Path,
) -> None:
    run = make_run(
        tmp_path / "run",
        SUMMARY,
        clock="linear",
        evaluation=EvaluationConfig(grid="clock", clip=False),
    )
    read = read_run(run)
    policy_rng = rng_for(0, 0, SERVER, "unused")
    layout = read.setting.layout
    half = submodel_for(
        "static", Request(layout=layout, k=2, index=0, count=1, stretch=1, rng=policy_rng)
    )
    network = load_weights(MODEL, 1, torch.from_numpy(extract(read.state().ema, half)), half.widths)
    denoiser = eps_denoiser(network, CLOCKS["linear"], "x0")
    noise = torch.randn(
        4, 1, 8, 8, generator=torch_generator(rng_for(7, 0, SERVER, "sample-noise"))
    )
    images = sample("heun", denoiser, GRIDS["clock"](CLOCKS["linear"], 2, DELTA), noise)
    save_grid(images, run / "expected.png")

    line = sample_run(run, 4, "heun", 6, seed=7, out=run / "drawn.png")
    assert (run / "drawn.png").read_bytes() == (run / "expected.png").read_bytes()
    assert line == (
        f"{run}/drawn.png: 4 images from the averaged weights of round 3 at rate 1/2, "
        "heun in 5 evaluations"
    )


def test_the_picture_is_a_square_of_images_in_the_run(run: Path) -> None:
    line = sample_run(run, 9, evaluations=2)
    path = run / "samples" / "drawn.png"
    assert line.startswith(f"{path}: 9 images")
    with Image.open(path) as picture:
        assert picture.size == ((3 * 8 + 2) * 8, (3 * 8 + 2) * 8)


def test_what_a_call_leaves_out_is_the_run_s(run: Path, tmp_path: Path) -> None:
    drawn = _drawn(run)
    assert drawn == _drawn(run)
    assert drawn == _drawn(run, rate="1/2") == _drawn(run, rate=Fraction(1, 2))
    assert drawn == _drawn(run, sampler="dpmpp2m")
    unlike = [
        _drawn(run, rate="1"),
        _drawn(run, seed=1),
        _drawn(run, raw=True),
        _drawn(run, sampler="ddim"),
    ]
    assert len({drawn, *unlike}) == 5
    unfinished = make_run(tmp_path / "unfinished")
    assert _drawn(unfinished) == _drawn(run, rate="1")


def test_of_several_averages_the_one_that_the_summary_found_best_is_used(tmp_path: Path) -> None:
    ema = EmaConfig(half_life=(100_000, 100))
    summary = {
        "rounds": 3,
        "widths": {"1": {"half_life": "100"}, "1/2": {"half_life": "100000"}},
    }
    run = make_run(tmp_path / "run", summary, ema=ema)
    alone = make_run(tmp_path / "alone")
    assert _drawn(run, rate="1") == _drawn(run, rate="1", raw=True), "the second is the raw weights"
    assert _drawn(run, rate="1/2") == _drawn(alone, rate="1/2") != _drawn(run, rate="1/2", raw=True)
    assert "from the averaged (half-life 100) weights" in sample_run(run, 1, evaluations=1)
    assert "the averaged (half-life 100) weights" in export_run(run)
    exported = import_pipeline(run / "model").theta
    assert exported.tobytes() == initial_weights(MODEL, 1, 0).tobytes()
    (run / "summary.json").unlink()
    assert _drawn(run) == _drawn(alone), "without a summary the first"


def test_a_stochastic_sampler_repeats_itself(run: Path) -> None:
    assert _drawn(run, sampler="ancestral") == _drawn(run, sampler="ancestral")


def test_conditional_models_draw_the_class_asked_for(tmp_path: Path) -> None:
    model = MODEL.model_copy(update={"num_classes": 10})
    run = make_run(tmp_path / "run", model=model)
    drawn = {_drawn(run, class_label=label) for label in (None, 0, 9)}
    assert len(drawn) == 3
    for label in (-1, 10):
        with pytest.raises(UserError, match=rf"class: there is no {label}; .* the numbers 0 … 9$"):
            _drawn(run, class_label=label)
    assert "call its unet with class_labels" in export_run(run)
    names = (*(f"kind {label}" for label in range(9)), "0")
    write_about(run, replace(read_run(run).setting.about, classes=names))
    assert _drawn(run, class_label="kind 3") == _drawn(run, class_label=3)
    assert _drawn(run, class_label="0") == _drawn(run, class_label=9), "a name before a number"
    with pytest.raises(UserError, match=r"class: there is no 'kin'; .* are kind 0, kind 1, .* 9$"):
        _drawn(run, class_label="kin")
    assert "class labels: 0 kind 0, 1 kind 1" in export_run(run)


def test_guidance_is_the_run_s_unless_the_call_has_its_own(tmp_path: Path) -> None:
    model = MODEL.model_copy(update={"num_classes": 10, "label_dropout": 0.1})
    plain = make_run(tmp_path / "plain", model=model)
    run = make_run(tmp_path / "run", model=model, evaluation=EvaluationConfig(guidance=3.0))
    drawn = _drawn(run)
    assert drawn == _drawn(plain, guidance=3.0) != _drawn(plain)
    assert _drawn(run, guidance=0.0) == _drawn(plain)
    assert sample_run(run, 4, evaluations=2).endswith("dpmpp2m in 2 evaluations guided by 3")


def test_steps_may_be_said_in_place_of_evaluations(run: Path) -> None:
    by_steps = sample_run(run, 2, "heun", steps=2, out=run / "a.png")
    assert by_steps == sample_run(run, 2, "heun", 5, out=run / "a.png")
    assert by_steps.endswith("heun in 5 evaluations")
    command = ["sample", str(run), "-n", "2", "--sampler", "heun", "--steps", "2"]
    line = CliRunner().invoke(cli.app, [*command, "--out", str(run / "a.png")]).stdout
    assert line == by_steps + "\n"


def test_calls_are_counted(run: Path) -> None:
    calls: list[tuple[int, int]] = []
    sample_run(run, 2, "ddim", 4, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 4) for i in range(1, 5)]


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ({"sampler": "hein"}, "sampler: 'hein' is not one of .*heun"),
        ({"steps": 0}, "steps: must be at least 1, not 0"),
        ({"steps": 3, "evaluations": 3}, "steps: say these or evaluations, not both"),
        ({"evaluations": 0}, "evaluations: must be at least 1, not 0"),
        ({"seed": -1}, "seed: must be at least 0, not -1"),
        ({"count": 0}, "count: must be at least 1, not 0"),
        ({"rate": "1/3"}, "rate 1/3: this model's atoms of 4 channels allow 1/4, 1/2, 3/4, 1"),
        ({"rate": "5/4"}, "rate 5/4: "),
        ({"rate": "half"}, "rate: 'half' is not a fraction such as 1/2"),
        ({"rate": "1/0"}, "rate: '1/0' is not a fraction such as 1/2"),
        ({"class_label": 3}, "class: 3 is given to a model without classes"),
        ({"class_label": -1}, "class: -1 is given to a model without classes"),
        ({"guidance": -1.0}, "guidance: must be at least 0, not -1.0"),
        ({"guidance": float("nan")}, "guidance: must be at least 0, not nan"),
        ({"guidance": 2.0}, "guidance: the run's network has not learned without labels"),
    ],
)
def test_refuses_what_does_not_go_with_the_run(
    run: Path, choices: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        sample_run(run, choices.pop("count", 4), out=run / "never.png", **choices)
    assert not (run / "never.png").exists()


def _scored(run: Path, *scores: float | None) -> None:
    rows = [json.dumps({"round": i, "frechet_ema": score}) for i, score in enumerate(scores)]
    (run / "history.jsonl").write_text("\n".join(rows) + "\n")


def test_a_round_is_chosen_by_its_number_or_as_the_best(run: Path, tmp_path: Path) -> None:
    _scored(run, 9.0, 8.0, 3.0, 7.0)
    out = tmp_path / "model"
    for chosen in ("best", "2"):
        assert export_run(run, out, chosen, "1").startswith(
            f"{out}: the averaged weights of round 2 "
        )
        # Before the last round, `make_run` averages nothing.
        assert import_pipeline(out).theta.tobytes() == initial_weights(MODEL, 1, 0).tobytes()
    assert _drawn(run, round="best") == _drawn(run, round="2") != _drawn(run)
    assert _drawn(run, round="3") == _drawn(run)
    exported = CliRunner().invoke(
        cli.app, ["export", str(run), "--out", str(out), "--round", "best"]
    )
    assert "of round 2 " in exported.stdout
    drawn = CliRunner().invoke(cli.app, ["sample", str(run), "-n", "4", "--round", "2"])
    assert "of round 2 " in drawn.stdout


@pytest.mark.parametrize(
    ("round", "complaint"),
    [
        ("1", "no checkpoint of round 1 but of 2, 3$"),
        ("least", "no checkpoint of round least but of 2, 3$"),
        ("best", "no checkpoint of round best, which is 0, but of 2, 3$"),
    ],
)
def test_a_round_that_is_not_kept_is_refused(round: str, complaint: str, run: Path) -> None:
    _scored(run, 1.0, 8.0, 3.0, 7.0)
    with pytest.raises(UserError, match=complaint):
        sample_run(run, 4, round=round)


@pytest.mark.parametrize("use", [lambda run: sample_run(run, 4), export_run])
def test_refuses_what_is_not_a_run_yet(use: Any, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        use(tmp_path)
    (run / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary\.json: cannot be read"):
        use(run)
    for path in checkpoints(run / "checkpoints"):
        path.unlink()
    with pytest.raises(UserError, match="no checkpoint yet"):
        use(run)


@torch.no_grad()
def test_exports_what_sampled_best_and_any_other_width(run: Path) -> None:
    message = export_run(run)
    assert message == (
        f"{run}/model: the averaged weights of round 3 at rate 1/2, as a network of the full size"
    )
    read = read_run(run)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.0, 731.0])
    for rate in ("1/2", "1", "1/4"):
        export_run(run, run / "model", rate=rate)
        theirs = UNet2DModel.from_pretrained(run / "model" / "unet")
        width = submodel_of_rate(read.setting.layout, Fraction(rate))
        weights = torch.from_numpy(extract(initial_weights(MODEL, 1, 1), width))
        ours = load_weights(MODEL, 1, weights, width.widths)
        torch.testing.assert_close(theirs(x, t).sample, ours(x, t), atol=1e-5, rtol=1e-4)
    exported = CliRunner().invoke(cli.app, ["export", str(run), "--rate", "1"])
    assert exported.stdout == f"{run}/model: the averaged weights of round 3 at full width\n"
    assert import_pipeline(run / "model").theta.tobytes() == initial_weights(MODEL, 1, 1).tobytes()


def test_a_width_is_no_start_for_training(run: Path) -> None:
    export_run(run)
    with pytest.raises(UserError, match=r"rate 1/2, .* export --rate 1$"):
        import_pipeline(run / "model")


@pytest.mark.parametrize(
    ("summary", "keys"),
    [
        ({"best_rate": "3/4"}, {}),  # three channels for four
        ({"best_rate": "1/2"}, {"scaler": False}),
    ],
)
def test_what_diffusers_cannot_run_is_exported_at_full_width_and_said(
    summary: dict[str, Any], keys: dict[str, Any], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", summary, **keys)
    first, second = export_run(run).splitlines()
    assert first == f"{run}/model: the averaged weights of round 3 at full width"
    assert second.startswith("that is not what sampled best, for diffusers cannot run it (rate ")
    with pytest.raises(UserError, match=f"^rate {summary['best_rate']}: "):
        export_run(run, rate=summary["best_rate"])


@pytest.mark.parametrize("summary", [None, {"best_rate": "1"}, {"best_rate": None}])
def test_where_nothing_is_known_to_be_better_it_is_the_full_width(
    summary: dict[str, Any] | None, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", summary)
    out = tmp_path / "elsewhere"
    assert export_run(run, out) == f"{out}: the averaged weights of round 3 at full width"
    assert (out / "model_index.json").is_file()
    assert not (run / "model").exists()


def test_the_command_line_passes_every_option_on(tmp_path: Path) -> None:
    model = MODEL.model_copy(update={"num_classes": 10, "label_dropout": 0.1})
    run = make_run(tmp_path / "run", model=model)
    line = sample_run(run, 4, "heun", 6, "1/4", 3, 1.5, 5, run / "a.png", raw=True)
    options = "-n 4 --sampler heun --evaluations 6 --rate 1/4 --class 3 --guidance 1.5 --seed 5"
    drawn = CliRunner().invoke(
        cli.app, ["sample", str(run), *options.split(), "--raw", "--out", str(run / "b.png")]
    )
    assert drawn.stdout == line.replace("a.png", "b.png") + "\n"
    assert drawn.stderr == ""
    assert (run / "a.png").read_bytes() == (run / "b.png").read_bytes()

    exported = CliRunner().invoke(cli.app, ["export", str(run), "--out", str(tmp_path / "model")])
    assert exported.stdout.startswith(f"{tmp_path / 'model'}: ")
    assert import_pipeline(tmp_path / "model").model.num_classes == 11  # one for none


def test_the_command_line_refuses_in_one_line(run: Path) -> None:
    refused = CliRunner().invoke(cli.app, ["sample", str(run), "--rate", "1/3"])
    assert refused.exit_code == 2
    assert refused.stderr.startswith("scorequilt: rate 1/3: ")
    assert len(refused.stderr.splitlines()) == 1
