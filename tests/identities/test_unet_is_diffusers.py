"""The UNet computes what diffusers' UNet2DModel computes, on the same weights, both ways."""

import pytest
import torch

from common.network.unet import ScoreUNet
from tests.architectures import ALL, CIFAR10_DDPM, Architecture


def _inputs(a: Architecture) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    torch.manual_seed(1)
    labels = torch.tensor([0, 3]) if a.model.num_classes else None
    return torch.randn(2, a.channels, a.size, a.size), torch.tensor([0.0, 731.0]), labels


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_same_output_on_the_same_weights_both_ways(name: str) -> None:
    a = ALL[name]
    torch.manual_seed(0)
    theirs, ours = a.diffusers().eval(), ScoreUNet(a.model, a.channels).eval()
    x, t, labels = _inputs(a)

    ours.load_state_dict(theirs.state_dict())
    expected = theirs(x, t, class_labels=labels).sample
    torch.testing.assert_close(ours(x, t, labels), expected, atol=1e-5, rtol=0)

    fresh = ScoreUNet(a.model, a.channels).eval()
    assert not torch.allclose(fresh(x, t, labels), expected, atol=1e-3)
    theirs.load_state_dict(fresh.state_dict())
    back = theirs(x, t, class_labels=labels).sample
    torch.testing.assert_close(fresh(x, t, labels), back, atol=1e-5, rtol=0)


def test_the_cifar10_architecture_has_ddpms_number_of_parameters() -> None:
    with torch.device("meta"):
        model = ScoreUNet(CIFAR10_DDPM.model, 3)
    assert sum(p.numel() for p in model.parameters()) == 35_746_307
