"""What a model rate costs a client, and the largest rate that it can afford."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from common.errors import UserError

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Cost:
    """One rate's cost to a client.

    Attributes:
        rate: The model rate.
        parameters: Coordinates of the submodel.
        flops: Floating-point operations of a local step, a multiply-add counted as two.
        peak_bytes: Peak memory of a round of training beyond the libraries' and the images'.
        bytes_down: Payload of a task.
        bytes_up: Payload of a reply.
        step_seconds: Processor time of a local step on one thread.
    """

    rate: Fraction
    parameters: int
    flops: int
    peak_bytes: int
    bytes_down: int
    bytes_up: int
    step_seconds: float


def fit_rate(
    costs: Iterable[Cost], memory: int | float = math.inf, seconds: int | float = math.inf
) -> Fraction | None:
    """Return the largest rate whose cost is within both budgets; None if none is.

    Args:
        costs: Of the candidates, measured on one machine.
        memory: Bytes for `Cost.peak_bytes`.
        seconds: Time for `Cost.step_seconds`; for a device that is slower than the machine that
            measured by some factor, its own budget divided by that factor.
    """
    fitting = [c.rate for c in costs if c.peak_bytes <= memory and c.step_seconds <= seconds]
    return max(fitting, default=None)


def parse_bytes(key: str, text: str) -> int:
    """Return a number of bytes written such as ``200MiB``, ``1.5G`` or ``500000``; K is 1024.

    Raises:
        UserError: It is no positive number of bytes; the line names the key.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise UserError(f"{key}: '{text}' is no amount of memory; write for example 200MiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])
