"""Where networks are computed: on the processor, or on a graphics card."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.errors import UserError


def device_of(name: str, key: str) -> torch.device:
    """Return the device of a name: "auto" is the first graphics card, the processor if none.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        key: Where the name was configured, for the error.

    Raises:
        UserError: It is no such name, or there is no such card here.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise UserError(f"{key}: {name!r} is not auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= count:
        there = f"has {count} cards, cuda:0 to cuda:{count - 1}" if count else "has no CUDA card"
        raise UserError(f"{key}: {name}, but this machine {there}; set {key}=auto")
    return torch.device(name)


def computed_on(network: nn.Module, device: torch.device) -> Callable[..., Tensor]:
    """Return the network on a device, for callers that stay on the processor.

    Samplers step in float64 and draw their noise on the processor, wherever the network is: so the
    same noise leads to the same images on every device, up to the network's rounding.
    """
    if device.type == "cpu":
        return network
    network = network.to(device)

    def forward(x: Tensor, timestep: Tensor, **labels: Tensor) -> Tensor:
        given = {key: value.to(device) for key, value in labels.items()}
        result: Tensor = network(x.to(device), timestep.to(device), **given)
        return result.to(x.device)

    return forward
