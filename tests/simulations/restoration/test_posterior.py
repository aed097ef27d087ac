"""Degradations as linear maps, and what posterior sampling asks of a denoiser."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.diffusion.process import CLOCKS, edm_grid
from simulations.restoration.degradations import Degradation, averaging, inpainting, noising
from simulations.restoration.posterior import evaluations, posterior_sample

SHAPE = (3, 4, 6)
KNOWN = torch.arange(24).reshape(4, 6) % 5 != 0
DEGRADATIONS = {
    "denoise": noising(SHAPE, 0.3),
    "lowlight": noising(SHAPE, 0.1, gain=0.25),
    "inpaint": inpainting(SHAPE, KNOWN, 0.1),
    "superres": averaging(SHAPE, 2, 0.1),
}


def _images(count: int = 5) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _clean(degradation: Degradation, images: Tensor) -> Tensor:
    return degradation.apply(images.flatten(1).double()) + degradation.offset


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_adjoint(name: str) -> None:
    degradation = DEGRADATIONS[name]
    x = _images().flatten(1).double()
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(5, len(degradation.matrix), generator=generator, dtype=torch.float64)
    ours = (degradation.apply(x) * y).sum(1)
    torch.testing.assert_close(ours, (x * degradation.adjoint(y)).sum(1))


def test_what_is_observed_without_noise() -> None:
    images = _images()
    double = images.double()
    cleans = {name: _clean(each, images) for name, each in DEGRADATIONS.items()}
    torch.testing.assert_close(cleans["denoise"], double.flatten(1))
    torch.testing.assert_close((cleans["lowlight"] + 1) * 4, (double + 1).flatten(1))
    torch.testing.assert_close(cleans["inpaint"], double[:, :, KNOWN].flatten(1))
    torch.testing.assert_close(cleans["superres"], F.avg_pool2d(double, 2).flatten(1))


def test_observations_as_images() -> None:
    images = _images()
    seen = {name: each.as_images(_clean(each, images)) for name, each in DEGRADATIONS.items()}
    torch.testing.assert_close(seen["denoise"], images)
    torch.testing.assert_close(seen["lowlight"], images / 4 - 0.75)
    torch.testing.assert_close(seen["inpaint"], images * KNOWN)
    coarse = F.avg_pool2d(images, 2)
    torch.testing.assert_close(seen["superres"], F.interpolate(coarse, scale_factor=2.0))


def test_noise_has_the_deviation_asked_for() -> None:
    degradation = averaging(SHAPE, 2, 0.7)
    images = _images(2000)
    noise = degradation.observe(images, torch.Generator().manual_seed(0)) - _clean(
        degradation, images
    )
    assert noise.shape == (2000, 18)
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(0.7, rel=0.02)


def test_norms_and_which_are_denoising() -> None:
    norms = {name: each.norm for name, each in DEGRADATIONS.items()}
    assert norms == pytest.approx({"denoise": 1, "lowlight": 0.25, "inpaint": 1, "superres": 0.5})
    assert [name for name, each in DEGRADATIONS.items() if each.is_denoising] == [
        "denoise",
        "lowlight",
    ]
    uneven = Degradation(torch.diag(torch.arange(1.0, 73.0).double()), 0.0, 0.1, SHAPE)
    assert not uneven.is_denoising


def test_averages_need_a_divisor() -> None:
    with pytest.raises(ValueError, match="factor 3 does not divide 4x6"):
        averaging(SHAPE, 3, 0.1)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_the_denoiser_is_called_as_announced_in_noise_s_dtype(name: str) -> None:
    degradation = DEGRADATIONS[name]
    calls = []

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        calls.append((x.shape, x.dtype, t.dtype))
        return torch.zeros_like(x)

    grid = edm_grid(CLOCKS["linear"], 3, 1e-3)
    noise = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0))
    observed = degradation.observe(_images(), torch.Generator().manual_seed(0))
    covariance = torch.eye(72, dtype=torch.float64)

    def restored(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return posterior_sample(
            denoiser, degradation, observed, covariance, grid, noise, generator, 3, 2
        )

    images = restored(0)
    assert (images.shape, images.dtype) == (noise.shape, torch.float32)
    assert calls == [(noise.shape, torch.float32, torch.float64)] * len(calls)
    assert (
        len(calls)
        == evaluations(degradation, grid, 3, 2)
        == (4 if degradation.is_denoising else 10)
    )
    assert torch.equal(images, restored(0))
    assert not torch.equal(images, restored(1))
