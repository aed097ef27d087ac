"""Folders go to diffusers and come back without a bit changed; what cannot is refused by name."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.numpy import load_file, save_file

from common.config.run import RunConfig
from common.errors import UserError
from common.network.unet import initial_weights, layout_of, load_weights
from common.submodels import extract, submodel_of_rate
from server.pretrained.folder import WEIGHTS, export_pipeline, import_pipeline
from server.pretrained.stretched import stretched
from tests.architectures import DIGITS, TINY, UNEQUAL, Architecture

CONFIG = RunConfig(model=TINY.model)


def _export(folder: Path, a: Architecture = TINY, seed: int = 0) -> np.ndarray:
    theta = initial_weights(a.model, a.channels, seed)
    export_pipeline(folder, RunConfig(model=a.model), theta, a.channels, a.size)
    return theta


@pytest.mark.parametrize("a", [DIGITS, UNEQUAL, TINY], ids=["digits", "unequal", "tiny"])
@torch.no_grad()
def test_an_export_computes_the_same_in_diffusers_and_comes_back_bit_for_bit(
    a: Architecture, tmp_path: Path
) -> None:
    theta = _export(tmp_path / "model", a)
    theirs = DDPMPipeline.from_pretrained(tmp_path / "model").unet
    ours = load_weights(a.model, a.channels, torch.from_numpy(theta)).eval()
    x, t = torch.randn(2, a.channels, a.size, a.size), torch.tensor([0.0, 731.0])
    labels = torch.tensor([0, 3]) if a.model.num_classes else None
    expected = ours(x, t, labels)
    torch.testing.assert_close(
        theirs(x, t, class_labels=labels).sample, expected, atol=1e-5, rtol=0
    )

    back = import_pipeline(tmp_path / "model")
    assert back.theta.tobytes() == theta.tobytes()
    assert (back.model, back.image_channels, back.sample_size) == (a.model, a.channels, a.size)


@torch.no_grad()
def test_the_null_class_is_one_more_class_to_diffusers(tmp_path: Path) -> None:
    model = TINY.model.model_copy(update={"num_classes": 3, "label_dropout": 0.1})
    _export(tmp_path, Architecture(model, 1, 8))
    theirs = DDPMPipeline.from_pretrained(tmp_path).unet
    assert theirs.config.num_class_embeds == 4
    ours = load_weights(model, 1, torch.from_numpy(import_pipeline(tmp_path).theta)).eval()
    x, t, labels = torch.randn(2, 1, 8, 8), torch.tensor([0.0, 731.0]), torch.tensor([0, 3])
    expected = ours(x, t, labels)
    torch.testing.assert_close(
        theirs(x, t, class_labels=labels).sample, expected, atol=1e-5, rtol=0
    )


def test_the_pipeline_samples(tmp_path: Path) -> None:
    _export(tmp_path / "model")
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=3, output_type="np").images
    assert images.shape == (2, 8, 8, 1)
    assert np.isfinite(images).all()
    assert isinstance(pipeline.scheduler, DDPMScheduler)


@pytest.mark.parametrize("whole", [True, False], ids=["pipeline", "unet"])
def test_reads_what_diffusers_wrote(whole: bool, tmp_path: Path) -> None:
    theirs = UNEQUAL.diffusers()
    (DDPMPipeline(theirs, DDPMScheduler()) if whole else theirs).save_pretrained(tmp_path)
    read = import_pipeline(tmp_path)
    assert (read.model, read.image_channels, read.sample_size) == (UNEQUAL.model, 3, 16)
    ours = load_weights(read.model, 3, torch.from_numpy(read.theta))
    state = theirs.state_dict()
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, state[name]), name


def _edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _edit_weights(folder: Path, edit: Any) -> None:
    path = folder / "unet" / WEIGHTS
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def test_reads_attention_under_its_names_of_2022(tmp_path: Path) -> None:
    theta = _export(tmp_path)

    def rename(tensors: dict[str, np.ndarray]) -> None:
        old = {
            ".to_q.": ".query.",
            ".to_k.": ".key.",
            ".to_v.": ".value.",
            ".to_out.0.": ".proj_attn.",
        }
        for name in list(tensors):
            new = name
            for ours, theirs in old.items():
                new = new.replace(ours, theirs)
            tensors[new] = tensors.pop(name)
        assert any(".proj_attn." in name for name in tensors)

    _edit_weights(tmp_path, rename)
    assert import_pipeline(tmp_path).theta.tobytes() == theta.tobytes()
    assert DDPMPipeline.from_pretrained(tmp_path).unet.dtype == torch.float32


def test_reads_half_precision(tmp_path: Path) -> None:
    theta = _export(tmp_path)
    _edit_weights(tmp_path, lambda all: all.update({k: v.astype("f2") for k, v in all.items()}))
    np.testing.assert_array_equal(import_pipeline(tmp_path).theta, theta.astype("f2"))


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda all: all.pop("conv_in.bias"), "conv_in.bias is missing"),
        (lambda all: all.update(extra=np.ones(1)), "extra is not a parameter"),
        (
            lambda all: all.update({"conv_in.bias": np.ones(9, "f4")}),
            r"conv_in.bias is F32 of shape \(9,\), not F32 of \(8,\)",
        ),
        (lambda all: all.update({"conv_in.bias": np.ones(8, "i4")}), "conv_in.bias is I32"),
    ],
    ids=["missing", "extra", "shape", "type"],
)
def test_refuses_weights_that_do_not_fit(edit: Any, complaint: str, tmp_path: Path) -> None:
    _export(tmp_path)
    _edit_weights(tmp_path, edit)
    with pytest.raises(UserError, match=complaint):
        import_pipeline(tmp_path)


def test_refuses_an_unsupported_option_naming_file_and_option(tmp_path: Path) -> None:
    _export(tmp_path)
    _edit_config(tmp_path, act_fn="relu")
    with pytest.raises(UserError, match=r"unet/config\.json: act_fn: 'relu' is not supported"):
        import_pipeline(tmp_path)


def test_refuses_options_that_do_not_fit_together(tmp_path: Path) -> None:
    _export(tmp_path)
    _edit_config(tmp_path, norm_num_groups=3)
    with pytest.raises(UserError, match=r"config\.json: model\.groups: 3 groups do not divide"):
        import_pipeline(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("config.json", None, "config.json: not the configuration"),
        ("config.json", b"{", "config.json: not the configuration"),
        ("config.json", b"[]", "not a table"),
        (WEIGHTS, None, "no such file; save the model with safe_serialization=True"),
        (WEIGHTS, b"\x10" + b"\0" * 20, "not a readable safetensors file"),
    ],
)
def test_refuses_missing_and_damaged_files(
    name: str, content: bytes | None, complaint: str, tmp_path: Path
) -> None:
    _export(tmp_path)
    if content is None:
        (tmp_path / "unet" / name).unlink()
    else:
        (tmp_path / "unet" / name).write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        import_pipeline(tmp_path)


def test_an_export_replaces_an_earlier_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    _export(tmp_path / "new" / "model", DIGITS)
    (tmp_path / "new" / "model" / "unet" / "stale").touch()
    theta = _export(tmp_path / "new" / "model", TINY, seed=1)
    assert import_pipeline(tmp_path / "new" / "model").theta.tobytes() == theta.tobytes()
    assert not (tmp_path / "new" / "model" / "unet" / "stale").exists()
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["model"]


def test_an_export_never_replaces_other_things(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"holds thesis\.tex"):
        _export(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match=r"cannot write .*thesis\.tex"):
        _export(tmp_path / "thesis.tex")


@pytest.mark.parametrize("step", ["write", "swap"])
def test_a_failed_export_leaves_the_earlier_one(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theta = _export(tmp_path / "model")
    rename = Path.rename

    def refuse(source: Path, target: Path) -> Path:
        if source.name.endswith(".part") and ".old." not in source.name:
            raise OSError(5, "Input/output error")
        return rename(source, target)

    if step == "write":
        monkeypatch.setattr("server.pretrained.folder.write_tensors", lambda *_: 1 / 0)
    else:
        monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ZeroDivisionError if step == "write" else UserError):
        _export(tmp_path / "model", seed=1)
    assert import_pipeline(tmp_path / "model").theta.tobytes() == theta.tobytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_weights_of_another_network_are_a_bug_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weights for a network"):
        export_pipeline(tmp_path / "model", CONFIG, np.zeros(3, np.float32), 1, 8)
    assert not any(tmp_path.iterdir())


def test_images_need_not_be_square(tmp_path: Path) -> None:
    export_pipeline(tmp_path, CONFIG, initial_weights(TINY.model, 1, 0), 1, (8, 16))
    assert UNet2DModel.from_pretrained(tmp_path / "unet").config.sample_size == [8, 16]
    assert import_pipeline(tmp_path / "unet").sample_size == (8, 16)


@pytest.mark.parametrize("a", [DIGITS, UNEQUAL, TINY], ids=["digits", "unequal", "tiny"])
@torch.no_grad()
def test_a_width_computes_the_same_at_full_size(a: Architecture) -> None:
    """In exact arithmetic; what is left is rounding."""
    layout = layout_of(a.model, a.channels)
    theta = initial_weights(a.model, a.channels, 0)
    x, t = torch.randn(2, a.channels, a.size, a.size), torch.tensor([0.0, 731.0])
    labels = torch.tensor([0, 3]) if a.model.num_classes else None
    for k in (k for k in range(1, layout.atom + 1) if layout.atom % k == 0):
        rate = Fraction(k, layout.atom)
        width = submodel_of_rate(layout, rate)
        narrow = load_weights(
            a.model, a.channels, torch.from_numpy(extract(theta, width)), width.widths
        )
        full = load_weights(a.model, a.channels, torch.from_numpy(stretched(layout, theta, rate)))
        expected = narrow.eval()(x, t, labels)
        torch.testing.assert_close(full.eval()(x, t, labels), expected, atol=2e-5, rtol=1e-4)
    np.testing.assert_array_equal(stretched(layout, theta, Fraction(1)), theta)


def test_channels_that_cannot_stand_in_alike_are_refused() -> None:
    layout = layout_of(DIGITS.model, 1)
    with pytest.raises(UserError, match=r"^rate 3/4: 3 channels cannot stand in for 4 alike"):
        stretched(layout, initial_weights(DIGITS.model, 1, 0), Fraction(3, 4))
