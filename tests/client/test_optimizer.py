import torch

from client.optimizer import AdamW


def test_a_step_is_torchs_fused_adamw_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(1000, generator=generator)
    theirs = torch.nn.Parameter(theta.clone())
    theirs.grad = gradient = torch.zeros(1000)
    reference = torch.optim.AdamW([theirs], lr=3e-3, weight_decay=0.1, fused=True)
    ours = AdamW(theta, gradient, 3e-3, 0.1)
    before = theta.clone()
    for _ in range(3):
        gradient.copy_(torch.randn(1000, generator=generator))
        reference.step()
        ours.step()
    assert torch.equal(theta, theirs)
    assert not torch.isclose(theta, before).any()
