"""What the choices of `model`, `train` and the loss change, on images bright and dark."""

import functools
from typing import Any

import numpy as np
import pytest
import torch

from client.batches import draw_batch
from client.flat import FlatModel
from client.training import LocalResult, backward, train_locally
from common.config.run import RunConfig
from common.data.images import ImageData
from common.diffusion.denoising import LOSS_WEIGHTS, PREDICTIONS, from_eps, guided
from common.network.denoiser import submodel_denoiser
from common.network.unet import initial_weights, layout_of
from common.seeding import rng_for
from common.submodels import Layout, full_submodel
from simulations.planning.measure import in_fresh_process

FLAT: dict[str, Any] = {
    "local-steps": 2,
    "batch-size": 12,
    "learning-rate": 3e-3,
    "fleet": "1x1",
    "model.widths": "8,16",
    "model.groups": 2,
    "model.attention": "",
}


def _config(**keys: Any) -> RunConfig:
    return RunConfig.from_flat(FLAT | {key.replace("_", "-"): v for key, v in keys.items()})


def two_kinds(count: int = 32) -> ImageData:
    """Bright images of class 0 and dark ones of class 1, each with a little texture."""
    labels = np.arange(count) % 2
    texture = np.random.default_rng(0).normal(scale=0.1, size=(count, 1, 8, 8))
    images = (np.where(labels == 0, 0.6, -0.6)[:, None, None, None] + texture).astype(np.float32)
    return ImageData(images, labels.astype(np.int64), 2, "two-kinds")


def _train(
    config: RunConfig, data: ImageData | None = None, start: np.ndarray | None = None
) -> tuple[LocalResult, np.ndarray, Layout]:
    data = two_kinds() if data is None else data
    layout = layout_of(config.model, 1)
    theta = initial_weights(config.model, 1, 0) if start is None else start
    rng = rng_for(0, 1, 0, "training")
    return train_locally(theta, full_submodel(layout), data, config, 1, rng), theta, layout


def _embeddings(theta: np.ndarray, layout: Layout) -> np.ndarray:
    table = next(p for p in layout.parameters if p.name == "class_embedding.weight")
    return layout.view(theta, table)


def test_labels_are_dropped_into_the_null_row_at_the_rate_asked_for() -> None:
    keys: dict[str, Any] = {"model.num-classes": 2, "local-steps": 1}
    for dropout, moved in ((0.0, [True, True]), (0.5, [True] * 3), (0.9999, [False, False, True])):
        result, before, layout = _train(_config(**keys, **{"model.label-dropout": dropout}))
        rows = _embeddings(result.values, layout) != _embeddings(before, layout)
        assert rows.any(axis=1).tolist() == moved, dropout


def test_a_conditional_model_learns_what_its_labels_mean_and_guidance_says_it_louder() -> None:
    config = _config(
        prediction="x0",
        loss_weight="min-snr",
        **{"model.num-classes": 2, "model.label-dropout": 0.2, "local-steps": 60},
    )
    result, _, layout = _train(config)
    denoiser = submodel_denoiser(config, result.values, full_submodel(layout), 1)
    noise = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(2.0, dtype=torch.float64)  # where almost only the label can tell

    @torch.no_grad()
    def brightness(label: int, weight: float = 0.0) -> float:
        steered = guided(denoiser, 2, weight) if weight else denoiser
        eps = steered(noise, t, class_labels=torch.full((64,), label))
        return float(from_eps("x0", eps, noise, t).mean())

    assert brightness(0) > 0.2
    assert brightness(1) < -0.2
    assert abs(brightness(2)) < 0.15, "without a label, of both kinds"
    assert brightness(0, 1.0) > 1.2 * brightness(0)
    assert brightness(1, 1.0) < 1.2 * brightness(1)


@pytest.mark.parametrize(
    ("choices", "tolerance"),
    [
        ({"train.accumulate": 3}, 1e-6),
        ({"train.accumulate": 5}, 1e-6),  # 12 = 3 + 3 + 3 + 3
        ({"train.gradient-checkpointing": True}, 0.0),
        ({"train.channels-last": True}, 1e-6),
        ({"train.precision": "bfloat16"}, 2e-2),
    ],
    ids=lambda value: str(value),
)
def test_gradients_are_those_of_the_plain_step(choices: dict[str, Any], tolerance: float) -> None:
    base = {"model.attention": "1", "train.channels-last": False}
    plain, loss = _gradient(_config(**base))
    other, other_loss = _gradient(_config(**base | choices))
    assert plain.norm() > 0.1
    assert float((other - plain).norm() / plain.norm()) <= tolerance
    assert other_loss == pytest.approx(loss, rel=max(tolerance, 1e-6))


def _gradient(config: RunConfig) -> tuple[torch.Tensor, float]:
    layout = layout_of(config.model, 1)
    theta = torch.from_numpy(initial_weights(config.model, 1, 0))
    model = FlatModel(theta, full_submodel(layout).widths, config, 1)
    rng = rng_for(0, 1, 0, "training")
    batch = draw_batch(two_kinds(), config, rng, torch.Generator().manual_seed(0))
    loss = backward([(model, batch)], config)
    return model.in_layout(model.gradient), float(loss)


def test_checkpointing_computes_activations_twice_and_keeps_fewer() -> None:
    kept: dict[bool, int] = {}
    for on in (False, True):
        sizes: list[int] = []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            config = _config(**{"train.gradient-checkpointing": on})
            model = FlatModel(
                torch.from_numpy(initial_weights(config.model, 1, 0)),
                full_submodel(layout_of(config.model, 1)).widths,
                config,
                1,
            )
            model.denoiser(torch.ones(4, 1, 8, 8), torch.tensor(0.5, dtype=torch.float64))
        kept[on] = sum(sizes)
    assert kept[True] < 0.7 * kept[False]


def test_channels_last_reaches_activations_and_weights_which_stay_one_vector() -> None:
    for on in (True, False):
        config = _config(**{"train.channels-last": on})
        theta = torch.from_numpy(initial_weights(config.model, 1, 0))
        model = FlatModel(theta, full_submodel(layout_of(config.model, 1)).widths, config, 1)
        seen: list[bool] = []
        conv = model.network.up_blocks[0].get_submodule("resnets.0.conv2")
        conv.register_forward_hook(
            lambda *call, seen=seen: seen.append(
                call[2].is_contiguous(memory_format=torch.channels_last)
            )
        )
        model.denoiser(torch.ones(4, 1, 8, 8), torch.tensor(0.5, dtype=torch.float64))
        assert seen == [on]
        first = next(model.network.parameters())
        assert first.data_ptr() == model.theta.data_ptr()
        weight = conv.get_parameter("weight")
        assert weight.is_contiguous(memory_format=torch.channels_last) == on
        assert weight.is_contiguous() != on


def test_bfloat16_is_for_the_network_alone() -> None:
    config = _config(**{"train.precision": "bfloat16"})
    network = FlatModel(
        torch.from_numpy(initial_weights(config.model, 1, 0)),
        full_submodel(layout_of(config.model, 1)).widths,
        config,
        1,
    )
    seen = []
    network.network.conv_out.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    eps = network.denoiser(torch.ones(4, 1, 8, 8), torch.tensor(0.5, dtype=torch.float64))
    assert (seen, eps.dtype) == ([torch.bfloat16], torch.float32)
    assert network.theta.dtype == network.gradient.dtype == torch.float32


def test_flips_mirror_every_other_image_and_touch_nothing_else() -> None:
    data = two_kinds()
    plain, flipped = (
        draw_batch(
            data,
            _config(batch_size=400, **{"train.flip": flip}),
            rng_for(0, 1, 0, "training"),
            torch.Generator().manual_seed(0),
        )
        for flip in (False, True)
    )
    assert torch.equal(plain.noise, flipped.noise)
    assert torch.equal(plain.t, flipped.t)
    same = (plain.x0 == flipped.x0).all(3).all(2).all(1)
    assert 0.4 < same.float().mean() < 0.6
    assert torch.equal(plain.x0[~same].flip(3), flipped.x0[~same])


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("weight", LOSS_WEIGHTS)
def test_the_loss_falls_for_every_prediction_and_weight(prediction: str, weight: str) -> None:
    config = _config(prediction=prediction, loss_weight=weight, **{"local-steps": 30})
    first, *_ = _train(config)
    again, *_ = _train(config, start=first.values)  # on the very same draws
    # Weighted by 1/sigma^2, most of the loss is noise at small t that nothing can predict.
    assert again.loss < (0.99 if weight == "score" else 0.85) * first.loss


def test_dropout_is_the_same_in_every_run_and_leaves_torch_s_own_generator_alone() -> None:
    config = _config(**{"model.dropout": 0.3})
    torch.manual_seed(1)
    first, *_ = _train(config)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    again, *_ = _train(config)
    assert first.values.tobytes() == again.values.tobytes()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.values.tobytes() != _train(_config())[0].values.tobytes()


@pytest.mark.slow
def test_a_compiled_network_trains_to_the_same_loss_and_weights() -> None:
    # In a process whose annotations are not checked, which torch cannot trace.
    plain, compiled = in_fresh_process(_both)
    assert compiled.loss == pytest.approx(plain.loss, rel=1e-6)
    np.testing.assert_allclose(compiled.values, plain.values, atol=1e-5)


def _both() -> list[LocalResult]:
    """Train plainly and traced; differentiated as for C++, but without the minute that takes."""
    torch.compile = functools.partial(torch.compile, backend="aot_eager")
    return [_train(_config(**{"train.compile": each}))[0] for each in (False, True)]


def test_compile_is_called_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.nn.Module] = []

    def note(network: torch.nn.Module) -> torch.nn.Module:
        calls.append(network)
        return network

    monkeypatch.setattr(torch, "compile", note)
    plain, _ = _gradient(_config())
    assert calls == []
    compiled, _ = _gradient(_config(**{"train.compile": True}))
    assert len(calls) == 1
    assert torch.equal(plain, compiled)
