"""The Ornstein-Uhlenbeck process that noises images, its clocks and time grids.

The forward process is dX = -X dt + sqrt(2) dB, so X_t = alpha(t) X_0 + sigma(t) z with z ~ N(0, I),
alpha(t) = exp(-t) and sigma(t)^2 = 1 - exp(-2t). Every variance-preserving schedule is this process
read off another clock, and here `t` always means this process' own time: 0 is data, the horizon is
noise, and `t` is also the time that remains while sampling. `u` in [0, 1] is what a clock shows.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

Real = TypeVar("Real", float, Tensor)
Times = Float[Tensor, " batch"] | Float[Tensor, ""]  # one time per example, or one for all
Grid = Float[Tensor, " points"]
Images = Float[Tensor, "batch *shape"]
Denoiser = Callable[..., Tensor]
"""`denoiser(x, t) -> eps`: x (batch, ...) noisy images, t a float64 tensor () or (batch,)."""

DELTA = 1e-3
"""Where sampling stops by default: sigma is 0.045, which `sample(denoise=True)` then removes."""


def _on_tensor(function: Callable[[Tensor], Tensor], value: Real) -> Real:
    if isinstance(value, Tensor):
        return function(value)
    return float(function(torch.tensor(value, dtype=torch.float64)))


def alpha(t: Real) -> Real:
    """Return exp(-t), what is left of the image at time t >= 0 (Benton et al. 2024, section 1)."""
    return _on_tensor(lambda s: torch.exp(-s), t)


def sigma(t: Real) -> Real:
    """Return sqrt(1 - exp(-2t)), the noise level at time t >= 0 (Benton et al. 2024, section 1)."""
    return _on_tensor(lambda s: torch.sqrt(-torch.expm1(-2 * s)), t)


def edm_sigma(t: Real) -> Real:
    """Return sigma/alpha, the noise level of Karras et al. (2022), whose images keep scale 1."""
    return _on_tensor(lambda s: torch.sqrt(torch.expm1(2 * s)), t)


def t_of_edm_sigma(ratio: Real) -> Real:
    """Return the time at which sigma/alpha is `ratio` >= 0; the inverse of `edm_sigma`."""
    return _on_tensor(lambda s: torch.log1p(s * s) / 2, ratio)


def coefficients(x: Images, t: Times) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma, computed in t's precision and only then shaped and cast to go with x.

    x is (batch, ...), t () or (batch,); the results broadcast against x.
    """
    shape = (-1,) + (1,) * (x.ndim - 1)
    return alpha(t).to(x).reshape(shape), sigma(t).to(x).reshape(shape)


def perturb(x0: Images, t: Times, noise: Images) -> Images:
    """Return alpha(t) x0 + sigma(t) noise, a draw of X_t given X_0, in x0's dtype.

    x0 and noise are (batch, ...) of one shape; t is () or (batch,).
    """
    a, s = coefficients(x0, t)
    return a * x0 + s * noise


class Clock(ABC):
    """How a noise schedule reads the process' time: an increasing map from u in [0, 1] to t.

    A schedule with cumulative product abar(u) is the clock t(u) = -log(abar(u)) / 2.
    """

    @abstractmethod
    def t_of_u(self, u: Real) -> Real:
        """Return the process' time, in [0, horizon], when the clock shows u in [0, 1]."""

    @abstractmethod
    def u_of_t(self, t: Real) -> Real:
        """Return what the clock shows at time t; the exact inverse of `t_of_u`."""

    @property
    def horizon(self) -> float:
        """The time T at which the clock shows 1."""
        return self.t_of_u(1.0)

    def timestep_of_t(self, t: Real) -> Real:
        """Return the network's conditioning 1000 u - 1: u = (i+1)/1000 is diffusers' timestep i."""
        return 1000 * self.u_of_t(t) - 1


@dataclass(frozen=True)
class LinearClock(Clock):
    """DDPM's beta from 0.1 to 20, linear in u: t is half its integral, slope u + curve u^2.

    Song et al. (2021), "Score-based generative modeling through SDEs", equation 32.
    """

    slope: float = 0.1 / 2
    curve: float = (20 - 0.1) / 4

    def t_of_u(self, u: Real) -> Real:  # noqa: D102
        return _on_tensor(lambda v: v * (self.slope + self.curve * v), u)

    def u_of_t(self, t: Real) -> Real:  # noqa: D102
        # The root of the quadratic in the form that does not cancel at small t.
        return _on_tensor(
            lambda v: 2 * v / (self.slope + torch.sqrt(self.slope**2 + 4 * self.curve * v)), t
        )


@dataclass(frozen=True)
class CosineClock(Clock):
    """Alpha is the cosine of an angle linear in u, stopped short of pi/2 so that t(1) = `stop`.

    Nichol & Dhariwal (2021), equation 17, with the singular end cut off instead of clipped betas.
    """

    stop: float = 5.0

    @property
    def _angle(self) -> float:
        return math.atan(edm_sigma(self.stop))  # the tangent of the angle is sigma/alpha

    def t_of_u(self, u: Real) -> Real:  # noqa: D102
        return _on_tensor(lambda v: t_of_edm_sigma(torch.tan(self._angle * v)), u)

    def u_of_t(self, t: Real) -> Real:  # noqa: D102
        return _on_tensor(lambda v: torch.atan(edm_sigma(v)) / self._angle, t)


CLOCKS: dict[str, Clock] = {"linear": LinearClock(), "cosine": CosineClock()}


def _grid(
    clock: Clock, delta: float, num_steps: int, scale: Callable[[float], float],
    inverse: Callable[[Tensor], Tensor],
) -> Grid:  # fmt: skip
    """The grid from the horizon to delta whose steps are equal on a decreasing `scale`."""
    if num_steps < 1 or not 0 < delta < clock.horizon:
        raise ValueError(f"need num_steps >= 1 and 0 < delta < horizon: {num_steps}, {delta:g}")
    start, stop = scale(clock.horizon), scale(delta)
    times = inverse(torch.linspace(start, stop, num_steps + 1, dtype=torch.float64))
    times[0], times[-1] = clock.horizon, delta  # free of the rounding of the way there and back
    return times


def clock_grid(clock: Clock, num_steps: int, delta: float = DELTA) -> Grid:
    """Return num_steps + 1 decreasing float64 times from the horizon to delta, uniform in u.

    Raises ValueError, like the next two, unless num_steps >= 1 and 0 < delta < horizon.
    """
    return _grid(clock, delta, num_steps, clock.u_of_t, clock.t_of_u)


def edm_grid(clock: Clock, num_steps: int, delta: float = DELTA, rho: float = 7.0) -> Grid:
    """Return such a grid uniform in (sigma/alpha)^(1/rho): Karras et al. (2022), equation 5.

    Theirs has one more point, 0: `sample(denoise=True)` takes that step.
    """
    inverse = lambda root: t_of_edm_sigma(root**rho)  # noqa: E731
    return _grid(clock, delta, num_steps, lambda t: edm_sigma(t) ** (1 / rho), inverse)


def log_snr_grid(clock: Clock, num_steps: int, delta: float = DELTA) -> Grid:
    """Return such a grid uniform in log(sigma/alpha): Lu et al. (2022), "DPM-Solver", 3.3."""
    inverse = lambda log_ratio: t_of_edm_sigma(torch.exp(log_ratio))  # noqa: E731
    return _grid(clock, delta, num_steps, lambda t: math.log(edm_sigma(t)), inverse)


def kappa_grid(horizon: float, delta: float, kappa: float) -> Grid:
    """Return decreasing float64 times whose steps are at most kappa min(1, time after the step).

    The condition is that of Benton et al. (2024), theorem 1. Down to time 1 the steps are equal,
    ceil((horizon - 1) / kappa) of them; from there ceil(log(1/delta) / log(1 + kappa)) geometric
    ones. A horizon below 1 has the geometric part only. Raises ValueError for kappa <= 0 or a
    delta outside (0, min(1, horizon)).
    """
    knee = min(1.0, horizon)
    if kappa <= 0 or not 0 < delta < knee:
        raise ValueError(f"need kappa > 0 and 0 < delta < {knee:g}, got {kappa:g}, {delta:g}")
    # The slack keeps a quotient that is whole in exact arithmetic from rounding up to one more.
    equal = math.ceil((horizon - knee) / kappa - 1e-9)
    geometric = math.ceil(math.log(knee / delta) / math.log1p(kappa) - 1e-9)
    return _equal_then_geometric(horizon, delta, equal, geometric)


def least_kappa_grid(clock: Clock, num_steps: int, delta: float = DELTA) -> Grid:
    """Return the grid of num_steps steps that meets `kappa_grid`'s condition at the least kappa.

    It has as many equal and geometric steps as makes the larger of the two parts' kappas smallest.
    Raises ValueError unless num_steps >= 1 and 0 < delta < min(1, horizon).
    """
    knee = min(1.0, clock.horizon)
    if num_steps < 1 or not 0 < delta < knee:
        raise ValueError(f"need num_steps >= 1 and 0 < delta < {knee:g}: {num_steps}, {delta:g}")

    def kappa(equal: int) -> float:
        first = (clock.horizon - knee) / equal if equal else math.inf
        return max(first, (knee / delta) ** (1 / (num_steps - equal)) - 1)

    equal = min(range(num_steps), key=kappa) if clock.horizon > knee else 0
    return _equal_then_geometric(clock.horizon, delta, equal, num_steps - equal)


def _equal_then_geometric(horizon: float, delta: float, equal: int, geometric: int) -> Grid:
    """Return a grid with equal steps down to time 1 and geometric ones from there."""
    knee = min(1.0, horizon)
    share = torch.arange(geometric + 1, dtype=torch.float64) / geometric
    head = torch.linspace(horizon, knee, equal + 1, dtype=torch.float64)[:-1]
    times = torch.cat([head, knee * (delta / knee) ** share])
    times[0], times[-1] = horizon, delta
    return times


GRIDS: dict[str, Callable[[Clock, int, float], Tensor]] = {
    "clock": clock_grid, "edm": edm_grid, "log-snr": log_snr_grid, "kappa": least_kappa_grid,
}  # fmt: skip
"""Time grids by name. For `dpmpp2m` in 10 to 20 evaluations of an exact score "log-snr" serves both
clocks; "clock" does as well on the cosine and several times worse on the linear one."""
