"""Local training against plain PyTorch, and what the several-widths options add to it."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import clip_grad_norm_, parameters_to_vector

from client.batches import draw_batch
from client.flat import FlatModel
from client.training import backward, learning_rate, sandwiched, shortest_time, train_locally
from common.config.run import RunConfig
from common.config.sections import RatesConfig
from common.data.images import ImageData
from common.diffusion.denoising import TRAINING_DELTA, denoising_loss, eps_denoiser, sample_times
from common.diffusion.process import CLOCKS
from common.network.layers import Conv2d, Linear
from common.network.unet import initial_weights, layout_of, load_weights
from common.seeding import rng_for, torch_generator
from common.submodels import (
    MaskedSubmodel,
    Submodel,
    extract,
    full_submodel,
    narrowed,
    nested_coordinates,
)

CONFIG = RunConfig.from_flat(
    {
        "fleet": "1x1 1/2x1 1/4x1",
        "rounds": 4,
        "local-steps": 4,
        "batch-size": 8,
        "local-widths": "own",
        "weight-decay": 0.1,
        "model.widths": "8,16",
        "model.groups": 2,
    }
)
LAYOUT = layout_of(CONFIG.model, 1)
THETA = initial_weights(CONFIG.model, 1, 0)
DATA = ImageData(
    np.random.default_rng(0).uniform(-1, 1, (20, 1, 8, 8)).astype(np.float32),
    np.zeros(20, np.int64),
    10,
    "made up",
)


def _with(**changes: Any) -> RunConfig:
    return CONFIG.model_copy(update=changes)


def _train(config: RunConfig, submodel: Submodel, round: int = 1) -> np.ndarray:
    rng = rng_for(0, round, 0, "training")
    return train_locally(extract(THETA, submodel), submodel, DATA, config, round, rng).values


def _plainly(config: RunConfig, submodel: Submodel) -> np.ndarray:
    """The same training written with an ordinary module, optimizer and clipping."""
    rng = rng_for(0, 1, 0, "training")
    generator = torch_generator(rng)
    weights = torch.from_numpy(extract(THETA, submodel))
    model = load_weights(config.model, 1, weights, submodel.widths, config.scaler).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    denoiser = eps_denoiser(model, CLOCKS[config.clock])
    for _ in range(config.local_steps):
        chosen = rng.integers(len(DATA), size=config.batch_size)
        x0 = torch.from_numpy(DATA.images[chosen])
        noise = torch.randn(x0.shape, generator=generator)
        t = sample_times(CLOCKS[config.clock], config.batch_size, generator)
        optimizer.zero_grad()
        denoising_loss(denoiser, x0, t, noise).mean().backward()
        clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
    return parameters_to_vector(model.parameters()).detach().numpy()


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("grad_clip", [0.05, 100.0])
def test_flat_training_is_ordinary_training(k: int, grad_clip: float) -> None:
    config = _with(grad_clip=grad_clip)
    submodel = narrowed(full_submodel(LAYOUT), k)
    ours, plain = _train(config, submodel), _plainly(config, submodel)
    moved = np.abs(plain - extract(THETA, submodel))
    assert np.median(moved) > 1e-3
    # A key's bias has no gradient but rounding errors, which Adam blows up to whole steps.
    assert np.mean(np.abs(ours - plain) < 1e-4) > 0.97


def test_the_clients_vector_is_not_written_to() -> None:
    submodel = full_submodel(LAYOUT)
    before = THETA.copy()
    _train(CONFIG, submodel)
    np.testing.assert_array_equal(THETA, before)


def test_a_narrow_client_builds_the_narrow_network_only() -> None:
    submodel = narrowed(full_submodel(LAYOUT), 1)
    values = torch.from_numpy(extract(THETA, submodel))
    model = FlatModel(values, submodel.widths, CONFIG, 1)
    assert sum(p.numel() for p in model.network.parameters()) == submodel.size < LAYOUT.size / 10


@pytest.mark.parametrize("k", [2, 4])
def test_a_networks_own_order_is_undone_and_its_weights_are_scaled_once(k: int) -> None:
    submodel = narrowed(full_submodel(LAYOUT), k)
    values = torch.from_numpy(extract(THETA, submodel))
    model = FlatModel(values, submodel.widths, CONFIG, 1)
    assert not torch.equal(model.theta, values)
    assert torch.equal(model.in_layout(model.theta), values)
    plain = load_weights(CONFIG.model, 1, values, submodel.widths).train()
    for ours, theirs in zip(model.network.modules(), plain.modules(), strict=True):
        if isinstance(theirs, Conv2d | Linear):
            assert torch.equal(ours.get_parameter("weight"), theirs.weight * theirs.input_scale)
    model.theta.mul_(2)
    model.prepare()
    weight = model.network.get_submodule("mid_block.resnets.0.conv2").get_parameter("weight")
    conv = plain.get_submodule("mid_block.resnets.0.conv2")
    assert isinstance(conv, Conv2d)
    assert torch.equal(weight, 2 * conv.weight * conv.input_scale)
    assert (conv.input_scale == 1) == (k == 4)


def test_training_reports_the_mean_loss_and_the_images_it_saw() -> None:
    submodel = full_submodel(LAYOUT)
    rng = rng_for(0, 1, 0, "training")
    result = train_locally(extract(THETA, submodel), submodel, DATA, CONFIG, 1, rng)
    assert result.images == 4 * 8
    assert 0.1 < result.loss < 10
    assert result.seconds > 0


def test_the_learning_rate_falls_by_a_cosine_or_stays() -> None:
    rates = [learning_rate(CONFIG, round) for round in (1, 2, 3, 4)]
    expected = [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    np.testing.assert_allclose(rates, CONFIG.learning_rate * np.array(expected))
    assert learning_rate(_with(lr_schedule="constant"), 4) == CONFIG.learning_rate


def test_a_nested_widths_gradient_is_that_of_the_sliced_weights() -> None:
    """What `sandwich` adds up equals differentiating through the cut itself."""
    outer = full_submodel(LAYOUT)
    inner = narrowed(outer, 2)
    place = torch.from_numpy(nested_coordinates(inner, outer))
    theta = torch.from_numpy(THETA.copy()).requires_grad_()
    x, t, noise = torch.randn(4, 1, 8, 8), torch.full((4,), 0.5).double(), torch.randn(4, 1, 8, 8)

    narrow = FlatModel(torch.from_numpy(extract(THETA, inner)), inner.widths, CONFIG, 1)
    denoising_loss(narrow.denoiser, x, t, noise).mean().backward()
    narrow.finish()
    gradient = narrow.in_layout(narrow.gradient)
    added = torch.zeros(LAYOUT.size).index_add_(0, place, gradient)

    network_of_cut = load_weights(CONFIG.model, 1, theta.detach()[place], inner.widths)
    parts, start = {}, 0
    cut = theta[place]
    for name, parameter in network_of_cut.named_parameters():
        stop = start + parameter.numel()
        parts[name] = cut[start:stop].view_as(parameter)
        start = stop

    def network(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(network_of_cut, parts, (x, timestep))

    denoising_loss(eps_denoiser(network, CLOCKS[CONFIG.clock]), x, t, noise).mean().backward()
    assert theta.grad is not None
    torch.testing.assert_close(added, theta.grad, atol=1e-6, rtol=1e-4)
    assert (theta.grad != 0).sum() > inner.size / 2


def test_the_sandwich_rule_takes_the_narrowest_and_one_between_beside_the_own_width() -> None:
    rng = np.random.default_rng(0)
    steps = [sandwiched([3, 2, 0], rng) for _ in range(40)]
    assert {tuple(step) for step in steps} == {(3, 0), (2, 0)}
    assert sandwiched([2, 0], rng) == [2, 0]
    assert sandwiched([0], rng) == [0]
    assert sandwiched([], rng) == []


def test_several_widths_train_a_wide_client_otherwise_and_the_narrowest_alike() -> None:
    several = _with(local_widths="sandwich", rates=RatesConfig(several_widths=0.0))
    wide, narrow = full_submodel(LAYOUT), narrowed(full_submodel(LAYOUT), 1)
    assert not np.allclose(_train(CONFIG, wide), _train(several, wide), atol=1e-5)
    np.testing.assert_array_equal(_train(CONFIG, narrow), _train(several, narrow))
    half = narrowed(full_submodel(LAYOUT), 2)
    assert not np.allclose(_train(CONFIG, half), _train(several, half), atol=1e-5)
    strong_alone = _with(local_widths="sandwich", rates=RatesConfig(several_widths=1.0))
    np.testing.assert_array_equal(_train(several, wide), _train(strong_alone, wide))
    np.testing.assert_array_equal(_train(CONFIG, half), _train(strong_alone, half))


def test_the_widths_of_a_step_share_its_batch_and_its_gradient_evenly() -> None:
    outer = full_submodel(LAYOUT)
    inner = narrowed(outer, 2)
    batch = draw_batch(DATA, CONFIG, np.random.default_rng(0), torch.manual_seed(0))
    wide, narrow = (
        FlatModel(torch.from_numpy(extract(THETA, each)), each.widths, CONFIG, 1)
        for each in (outer, inner)
    )
    loss = backward([(wide, batch), (narrow, batch)], CONFIG)
    own = denoising_loss(wide.denoiser, batch.x0, batch.t, batch.noise).mean()
    assert loss.item() == pytest.approx(own.item())
    for model, submodel in ((wide, outer), (narrow, inner)):
        alone = FlatModel(torch.from_numpy(extract(THETA, submodel)), submodel.widths, CONFIG, 1)
        backward([(alone, batch)], CONFIG)
        torch.testing.assert_close(model.gradient, alone.gradient / 2, atol=1e-6, rtol=1e-4)


def test_a_narrow_client_is_spared_low_noise() -> None:
    spared = _with(rates=RatesConfig(noise_floor=0.8))
    clock = CLOCKS[CONFIG.clock]
    assert clock.u_of_t(shortest_time(spared, 0.5)) == pytest.approx(0.4)
    assert shortest_time(spared, 1.0) == shortest_time(CONFIG, 0.25) == TRAINING_DELTA
    times = [
        draw_batch(
            DATA, spared, np.random.default_rng(0), torch.manual_seed(0), shortest_time(spared, r)
        ).t.min()
        for r in (1.0, 0.5)
    ]
    assert times[0] < shortest_time(spared, 0.5) <= times[1]
    narrow = narrowed(full_submodel(LAYOUT), 1)
    assert not np.array_equal(_train(spared, narrow), _train(CONFIG, narrow))


def test_a_client_of_single_weights_has_no_narrower_width_to_train() -> None:
    submodel = MaskedSubmodel(LAYOUT, np.random.default_rng(5).random(LAYOUT.size) < 0.5)
    several = _with(local_widths="sandwich", rates=RatesConfig(several_widths=0.0))
    np.testing.assert_array_equal(_train(several, submodel), _train(CONFIG, submodel))
