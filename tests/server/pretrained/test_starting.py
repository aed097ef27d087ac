"""Where a federation starts: at the weights of a model folder, if that fits."""

import json
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler

from common.config.run import RunConfig
from common.config.sections import ModelConfig
from common.errors import UserError
from common.network.unet import initial_weights, layout_of
from server.app import federate
from server.preflight import preflight
from server.pretrained.folder import export_pipeline
from server.pretrained.start import starting_weights
from server.record.history import read_rows
from server.state.checkpoint import load_checkpoint
from simulations.archive.configs import load_config
from tests.architectures import TINY as ARCHITECTURE
from tests.local_grid import LocalGrid

MODEL = ModelConfig(widths=(8, 16), groups=2)
TINY = RunConfig.from_flat(
    {
        "rounds": 1,
        "local-steps": 2,
        "batch-size": 8,
        "fleet": "1x1",
        "model.widths": "8,16",
        "model.groups": 2,
        "evaluation.samples": 64,
        "evaluation.evaluations": 2,
    }
)


def _from(folder: Path, **changes: Any) -> RunConfig:
    return TINY.model_copy(update={"init": f"diffusers:{folder}", **changes})


def _export(folder: Path, config: RunConfig = TINY, channels: int = 1) -> Path:
    export_pipeline(folder, config, initial_weights(config.model, channels, 7), channels, 8)
    return folder


def test_a_federation_goes_on_from_another_ones_export(tmp_path: Path) -> None:
    layout = layout_of(TINY.model, 1)
    federate(LocalGrid(TINY), TINY, tmp_path / "first")
    last = load_checkpoint(tmp_path / "first/checkpoints/round-0001.safetensors", TINY, layout)
    export_pipeline(tmp_path / "model", TINY, last.ema, 1, 8)

    config = _from(tmp_path / "model")
    federate(LocalGrid(config), config, tmp_path / "second")
    start = load_checkpoint(tmp_path / "second/checkpoints/round-0000.safetensors", config, layout)
    assert start.theta.tobytes() == start.ema.tobytes() == last.ema.tobytes()
    before = read_rows(tmp_path / "first/history.jsonl")[-1]
    after = read_rows(tmp_path / "second/history.jsonl")[0]
    for score in ("frechet_ema", "held_out_loss", "held_out_score_loss"):
        assert after[score] == before[score], score
    assert after["frechet"] == before["frechet_ema"]


def test_a_run_that_goes_on_needs_the_folder_no_longer(tmp_path: Path) -> None:
    config = _from(tmp_path / "gone")
    with pytest.raises(UserError, match=r"init: .*gone/config\.json: not the configuration"):
        preflight(config)
    assert preflight(config, resumed=True).layout.size == layout_of(TINY.model, 1).size


def test_models_that_diffusers_wrote_are_taken_with_and_without_their_pipeline(
    tmp_path: Path,
) -> None:
    theirs = ARCHITECTURE.diffusers()
    DDPMPipeline(theirs, DDIMScheduler()).save_pretrained(tmp_path)
    pipeline = starting_weights(_from(tmp_path, clock="linear"), 1)  # DDPM's betas
    network = starting_weights(_from(tmp_path / "unet", clock="cosine", prediction="v"), 1)
    layout = layout_of(TINY.model, 1)
    state = theirs.state_dict()
    for theta in (pipeline, network):
        for parameter in layout.parameters:
            assert (layout.view(theta, parameter) == state[parameter.name].numpy()).all()


@pytest.mark.parametrize(
    ("scheduler", "changes", "complaint"),
    [
        (DDPMScheduler(), {}, "add --set clock=linear$"),
        (
            DDPMScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2"),
            {},
            "add --set prediction=v$",
        ),
        (DDPMScheduler(), {"model": ModelConfig(widths=(8, 16))}, "model.groups=2 --set clock="),
        (
            DDPMScheduler(),
            {"model": MODEL.model_copy(update={"attention": (), "widths": (8, 32)})},
            "holds another model .* --set model.widths=8,16 --set model.attention=1 --set clock",
        ),
    ],
)
def test_another_model_is_refused_with_what_to_set(
    scheduler: Any, changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    DDPMPipeline(ARCHITECTURE.diffusers(), scheduler).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=complaint) as caught:
        preflight(_from(tmp_path, **changes))
    assert str(caught.value).startswith(f"init: {tmp_path}")
    assert "\n" not in str(caught.value)


def test_dropout_and_the_null_class_are_no_other_architecture(tmp_path: Path) -> None:
    guided = MODEL.model_copy(update={"num_classes": 10, "label_dropout": 0.1})
    _export(tmp_path, TINY.model_copy(update={"model": guided}))
    again = guided.model_copy(update={"dropout": 0.2, "label_dropout": 0.3})
    assert preflight(_from(tmp_path, model=again)).layout.size == layout_of(guided, 1).size
    plain = guided.model_copy(update={"label_dropout": 0.0})
    with pytest.raises(UserError, match=r"--set model\.label-dropout=0\.1$"):
        preflight(_from(tmp_path, model=plain))


def test_images_of_another_kind_and_a_pipeline_without_scheduler_are_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match="for images of 3 channels, but digits has 1"):
        preflight(_from(_export(tmp_path / "colour", channels=3)))
    path = _export(tmp_path / "model") / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"prediction_type": "flow"}))
    with pytest.raises(UserError, match="prediction_type: 'flow' is not supported"):
        preflight(_from(tmp_path / "model"))
    path.unlink()
    with pytest.raises(UserError, match=r"init: .*scheduler_config\.json: not the config"):
        preflight(_from(tmp_path / "model"))


def test_a_relative_folder_is_made_absolute_before_flower_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("digits", ["init=diffusers:a/b"]).init == f"diffusers:{tmp_path}/a/b"
    assert load_config("digits").init == ""
    with pytest.raises(UserError, match="init: "):
        load_config("digits", ["init=a/b"])
