"""A network is asked for no more images at once than a GiB is enough for."""

import sys

import pytest
import torch

from common.config import ModelConfig, RunConfig
from common.diffusion import CLOCKS, losses_by_level
from common.network import images_at_once, initial_weights, load_weights
from simulations.planning.measure import PeakMemory, in_fresh_process

LARGE = ModelConfig(widths=(32, 64), layers=2, attention=(1,))


@pytest.mark.parametrize(
    ("model", "shape", "images"),
    [
        (RunConfig().model, (1, 8, 8), 256),
        (ModelConfig(widths=(128, 256, 256)), (3, 32, 32), 102),
        (LARGE, (3, 128, 128), 25),
        (ModelConfig(widths=(256, 256)), (3, 1024, 1024), 1),
    ],
)
def test_they_follow_from_the_network_and_the_size_of_an_image(
    model: ModelConfig, shape: tuple[int, int, int], images: int
) -> None:
    assert images_at_once(model, shape) == images


def peak_bytes(side: int) -> int:
    """Return what a batch of that size takes at its peak."""
    torch.set_num_threads(1)
    weights = torch.from_numpy(initial_weights(LARGE, 3, 0))
    network = load_weights(LARGE, 3, weights).eval()
    count = images_at_once(LARGE, (3, side, side))
    with torch.no_grad():
        network(torch.zeros(1, 3, side, side), torch.zeros(1))
        memory = PeakMemory()
        network(torch.zeros(count, 3, side, side), torch.zeros(count))
        return memory.peak()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_a_batch_takes_a_gib_at_most() -> None:
    assert 2**28 < in_fresh_process(peak_bytes, 64) < 2**30


def test_losses_are_the_same_in_any_batches() -> None:
    model = ModelConfig(widths=(8, 16), groups=2, attention=(), num_classes=3)
    network = load_weights(model, 1, torch.from_numpy(initial_weights(model, 1, 0))).eval()
    x0, noise = torch.randn(7, 1, 8, 8), torch.randn(2, 7, 1, 8, 8)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    clock = CLOCKS["cosine"]

    def denoiser(x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = network(x, t.float().expand(len(x)), class_labels)
        return found

    whole = losses_by_level(denoiser, clock, x0, noise, class_labels=labels)
    parts = losses_by_level(denoiser, clock, x0, noise, 3, class_labels=labels)
    assert parts == pytest.approx(whole, rel=1e-5)
