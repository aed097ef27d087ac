"""Learning to remove noise: training times, what the network predicts, and the loss.

The process and its clocks are those of `common.diffusion.process`, whose shapes and names are used
here too.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from common.diffusion.process import (
    Clock,
    Denoiser,
    Images,
    Times,
    coefficients,
    edm_sigma,
    perturb,
    sigma,
    t_of_edm_sigma,
)

TRAINING_DELTA = 1e-5
"""Where training starts by default, so that diffusers' first timesteps are trained as well."""


def sample_times(
    clock: Clock,
    batch: int,
    generator: torch.Generator,
    distribution: str = "clock",
    delta: float = TRAINING_DELTA,
) -> Float[Tensor, " batch"]:
    """Draw a float64 training time in [delta, horizon] for each example.

    "clock" is uniform in u. "log-normal" is Karras et al. (2022), section 5: log(sigma/alpha) is
    N(-1.2, 1.2^2), clamped to the interval.

    Raises:
        ValueError: There is no such distribution.
    """
    if distribution == "clock":
        u = torch.rand(batch, generator=generator, dtype=torch.float64, device=generator.device)
        low = clock.u_of_t(delta)
        return clock.t_of_u(low + (1 - low) * u)
    if distribution == "log-normal":
        z = torch.randn(batch, generator=generator, dtype=torch.float64, device=generator.device)
        return t_of_edm_sigma(torch.exp(1.2 * z - 1.2)).clamp(delta, clock.horizon)
    raise ValueError(f"distribution must be 'clock' or 'log-normal', got {distribution!r}")


LOSS_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": torch.ones_like,
    "min-snr": lambda t: (5 * edm_sigma(t) ** 2).clamp(max=1.0),
    "score": lambda t: sigma(t) ** -2,
}
"""Weights lambda(t) of the squared error in eps. "uniform" is DDPM's simple loss. "min-snr" is
min(SNR, 5)/SNR of Hang et al. (2023). "score" makes it the squared error of the score; times the
step gamma_k and summed over a sampler's grid it is the score error in Benton et al.'s bound."""

PREDICTIONS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor | float, Tensor | float]]] = {
    "eps": lambda a, s: (0.0, 1.0),
    "x0": lambda a, s: (1 / s, -a / s),
    "v": lambda a, s: (s, a),
}
"""What a network may predict, as (p, q) with eps = p x + q output, from alpha and sigma: the noise,
the image, or v = alpha eps - sigma x0 (Salimans & Ho 2022, section 4)."""


def to_eps(prediction: str, output: Images, x: Images, t: Times) -> Images:
    """Convert what a network predicts at noisy images x and times t > 0 to the noise eps.

    Raises KeyError for a prediction that PREDICTIONS lacks.
    """
    p, q = PREDICTIONS[prediction](*coefficients(x, t))
    return p * x + q * output


def from_eps(prediction: str, eps: Images, x: Images, t: Times) -> Images:
    """Convert the noise eps to what a network would predict; the inverse of `to_eps`."""
    p, q = PREDICTIONS[prediction](*coefficients(x, t))
    return (eps - p * x) / q


def eps_denoiser(network: Callable[..., Tensor], clock: Clock, prediction: str = "eps") -> Denoiser:
    """Wrap `network(x, timestep, **labels)`, timestep (batch,) in x's dtype, as a denoiser."""

    def denoiser(x: Tensor, t: Tensor, **labels: Tensor) -> Tensor:
        timestep = clock.timestep_of_t(t).to(x).expand(len(x))
        return to_eps(prediction, network(x, timestep, **labels), x, t)

    return denoiser


def clipped(denoiser: Denoiser) -> Denoiser:
    """Return the denoiser whose predicted image is clipped to [-1, 1] at every time.

    A predicted image is a mean of images, so one outside their range is an error, and a sampler
    carries it on (the `clip_denoised` of Ho et al. 2020's code).
    """

    def within(x: Tensor, t: Tensor, **labels: Tensor) -> Tensor:
        image = from_eps("x0", denoiser(x, t, **labels), x, t).clamp(-1, 1)
        return to_eps("x0", image, x, t)

    return within


def guided(denoiser: Denoiser, null_class: int, weight: float) -> Denoiser:
    """Return classifier-free guidance: the noise moved away from what no label predicts.

    Ho and Salimans (2022), equation 6: (1 + w) eps(x, c) - w eps(x), so that the score is that of
    p(x | c)^(1 + w) / p(x)^w. Both are asked for in one call on a batch of twice the size.

    Args:
        denoiser: Takes `class_labels` (batch,).
        null_class: The label that stands for none.
        weight: w >= 0; 0 changes nothing and doubles the cost.
    """

    def denoise(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        labels = torch.cat([class_labels, torch.full_like(class_labels, null_class)])
        times = torch.cat([t, t]) if t.ndim else t
        given, without = denoiser(torch.cat([x, x]), times, class_labels=labels).chunk(2)
        return (1 + weight) * given - weight * without

    return denoise


def for_sampling(
    denoiser: Denoiser, *, clip: bool, guidance: float = 0.0, null_class: int = 0
) -> Denoiser:
    """Return a denoiser as samplers ask it: `guided` if `guidance` is not 0, then `clipped`."""
    if guidance:
        denoiser = guided(denoiser, null_class, guidance)
    return clipped(denoiser) if clip else denoiser


def denoising_loss(
    denoiser: Denoiser,
    x0: Images,
    t: Times,
    noise: Images,
    weight: str = "uniform",
    **labels: Tensor,
) -> Float[Tensor, " batch"]:
    """Return lambda(t) times the mean squared error of the predicted noise, for each example.

    The mean is over an example's values; times their number it is the F_n of denoising score
    matching (Vincent 2011; DDPM, Ho et al. 2020, equation 14, at weight "uniform"). `labels` go to
    the denoiser. Raises KeyError for a weight that LOSS_WEIGHTS lacks.
    """
    return weighted_error(denoiser(perturb(x0, t, noise), t, **labels), noise, t, weight)


def weighted_error(
    predicted: Images, target: Images, t: Times, weight: str = "uniform"
) -> Float[Tensor, " batch"]:
    """Return lambda(t) times the mean squared difference of two noises, for each example."""
    error = (predicted - target).square().flatten(1).mean(1)
    return LOSS_WEIGHTS[weight](t).to(error) * error
