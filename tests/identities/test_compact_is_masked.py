"""A submodel's compact network equals the full network with everything else masked.

The reference is diffusers' network, not ours: dropped channels are zeroed in every weight, and
every GroupNorm computes its statistics over kept channels alone.
"""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.network.layers import Conv2d, Plan
from common.network.unet import initial_weights, layout_of, load_weights
from common.submodels import Axis, CompactSubmodel, extract
from server.policies.choose import submodel_for
from server.policies.request import Request
from tests.architectures import ALL, Architecture


class MaskedGroupNorm(nn.Module):
    """GroupNorm over the kept channels, zero on the others."""

    def __init__(self, norm: nn.GroupNorm, keep_C: Tensor) -> None:
        super().__init__()
        self.norm, self.keep_C = norm, keep_C

    def forward(self, x: Tensor) -> Tensor:
        keep = self.keep_C.view(1, self.norm.num_groups, -1, 1)
        grouped = x.flatten(2).unflatten(1, (self.norm.num_groups, -1))
        count = keep.sum(2, keepdim=True) * grouped.shape[-1]
        mean = (grouped * keep).sum((2, 3), keepdim=True) / count
        variance = ((grouped - mean).square() * keep).sum((2, 3), keepdim=True) / count
        normal = ((grouped - mean) / (variance + self.norm.eps).sqrt()).flatten(1, 2)
        scaled = normal * self.norm.weight[:, None] + self.norm.bias[:, None]
        return (scaled * self.keep_C[:, None]).view_as(x)


def _masked_full(a: Architecture, theta: np.ndarray, submodel: CompactSubmodel) -> nn.Module:
    model = a.diffusers().eval()
    layout = submodel.layout
    state = {}
    for parameter in layout.parameters:
        masked = np.zeros(parameter.shape, np.float32)
        index = submodel.index(parameter)
        masked[index] = layout.view(theta, parameter)[index]
        state[parameter.name] = torch.from_numpy(masked)
    model.load_state_dict(state)
    by_name = {parameter.name: parameter for parameter in layout.parameters}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.GroupNorm):
            parameter = by_name[f"{name}.weight"]
            keep = torch.zeros(parameter.shape)
            keep[torch.from_numpy(submodel.index(parameter)[0])] = 1.0
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, MaskedGroupNorm(module, keep))
    return model


@pytest.mark.parametrize("policy", ["static", "random"])
@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_compact_equals_masked_full(name: str, policy: str) -> None:
    a = ALL[name]
    layout = layout_of(a.model, a.channels)
    theta = initial_weights(a.model, a.channels, seed=3)
    rng = np.random.default_rng(4)
    theta += 0.02 * rng.standard_normal(layout.size, dtype=np.float32)  # biases and gains too
    torch.manual_seed(5)
    x, t = torch.randn(2, a.channels, a.size, a.size), torch.tensor([10.0, 600.0])
    labels = torch.tensor([1, 4]) if a.model.num_classes else None
    for k in {1, layout.atom - 1}:
        submodel = submodel_for(
            policy, Request(layout=layout, k=k, index=0, count=1, stretch=1, rng=rng)
        )
        assert isinstance(submodel, CompactSubmodel)
        compact = load_weights(
            a.model,
            a.channels,
            torch.from_numpy(extract(theta, submodel)),
            submodel.widths,
            scaler=False,
        ).eval()
        expected = _masked_full(a, theta, submodel)(x, t, class_labels=labels).sample
        torch.testing.assert_close(compact(x, t, labels), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_scaler_keeps_expected_activations_and_is_the_identity_at_rate_one() -> None:
    a = ALL["digits"]
    theta = torch.from_numpy(initial_weights(a.model, a.channels, seed=0))
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([10.0, 600.0])
    on, off = (load_weights(a.model, 1, theta, scaler=s).eval() for s in (True, False))
    assert torch.equal(on(x, t), off(x, t))

    # Summed over two halves of the inputs, a scaled convolution gives twice the full one.
    channels = (Axis("in", 64),)
    full = Conv2d(Plan(), channels, 5)
    total = torch.zeros(1, 5, 2, 2)
    h = torch.randn(1, 64, 4, 4)
    for kept in (torch.arange(0, 32), torch.arange(32, 64)):
        inner = Conv2d(Plan({"in": 32}), channels, 5)
        inner.weight.copy_(full.weight[:, kept])
        total += inner(h[:, kept]) - _bias(inner)
    expected = 2 * (full(h) - _bias(full))
    torch.testing.assert_close(total, expected, atol=1e-5, rtol=1e-5)
    assert Conv2d(Plan({"in": 32}, scaler=False), channels, 5).input_scale == 1.0


def _bias(layer: Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias[:, None, None]
