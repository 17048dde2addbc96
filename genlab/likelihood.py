"""Pixels and probability: dequantisation, the logit map, bits per dimension. The only place.

A pixel is one of 256 levels. A continuous model is made for it by uniform dequantisation: noise
``u ~ U[0, 1)`` is added to the level and the sum divided by 256 (not 255, which would leave the unit
interval). The log-density of the dequantised image, in units of one level, is in expectation a lower bound
on the log-probability of the image itself (Theis et al. 2016, "A note on the evaluation of generative
models", eq. 6), and every ``log_prob`` in genlab is on that scale: nats per image of 256 levels.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from annotated_types import Gt, Lt
from torch import Generator, Tensor

LEVELS = 256

Alpha = Annotated[float, Gt(0), Lt(0.5)]
"""How far the logit map stays away from 0 and 1: above 0, below 0.5."""


def to_unit(x: Tensor) -> Tensor:
    """Uint8 -> float32 on a grid from 0 (black) to 1 (white), for models that see no noise.

    >>> to_unit(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([0.0000, 0.2000, 1.0000])
    """
    return x.float() / (LEVELS - 1)


def to_nearest_level(x: Tensor) -> Tensor:
    """Float -> uint8: undoes :func:`to_unit`, and takes what lies between to the nearest level.

    >>> to_nearest_level(torch.tensor([-1.0, 0.2, 0.2019, 7.0]))
    tensor([  0,  51,  51, 255], dtype=torch.uint8)
    """
    return (x.float() * (LEVELS - 1)).round().clamp(0, LEVELS - 1).to(torch.uint8)


def dequantise(x: Tensor, generator: Generator | None = None) -> Tensor:
    """Uint8 ``(B, ...)`` -> float32 in [0, 1): ``(x + u) / 256`` with fresh uniform ``u``.

    >>> noisy = dequantise(torch.tensor([128, 128], dtype=torch.uint8))
    >>> ((noisy >= 0.5) & (noisy < 129 / 256)).all().item()
    True
    """
    noise = torch.rand(x.shape, device=x.device, generator=generator)
    return (x + noise) / LEVELS


def centre(x: Tensor) -> Tensor:
    """Uint8 -> float32, the middle of each pixel's level: :func:`dequantise` without chance.

    >>> centre(torch.tensor([0, 128], dtype=torch.uint8)) * 256
    tensor([  0.5000, 128.5000])
    """
    return (x + 0.5) / LEVELS


def quantise(x: Tensor) -> Tensor:
    """Float in [0, 1] -> uint8, undoes :func:`dequantise`; values outside are clamped.

    >>> x = torch.arange(256, dtype=torch.uint8)
    >>> torch.equal(quantise(dequantise(x)), x)
    True
    """
    return (x * LEVELS).floor().clamp(0, LEVELS - 1).to(torch.uint8)


def signed(x: Tensor, generator: Generator | None = None, *, noisy: bool = False) -> Tensor:
    """Uint8 -> float32 on (-1, 1): the middle of each level, or, ``noisy``, uniformly dequantised.

    The axis of diffusion models: a level is 2/256 wide, and :func:`quantise` of ``(x + 1) / 2`` undoes it.

    >>> signed(torch.tensor([0, 255], dtype=torch.uint8)) * 256
    tensor([-255.,  255.])
    """
    return 2 * (dequantise(x, generator) if noisy else centre(x)) - 1


def level_log_prob(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The log-mass of ``N(mean, std^2)`` on the level of each uint8 pixel, on the axis of :func:`signed`.

    Nats per pixel; the first and the last level take the tails, so that the 256 make up 1.

    References:
        Ho et al. 2020, "Denoising diffusion probabilistic models", eq. 13.

    >>> levels, normal = torch.arange(256, dtype=torch.uint8), torch.ones(256, dtype=torch.float64)
    >>> level_log_prob(levels, 0.1 * normal, 0.3 * normal).exp().sum().item()
    1.0000...
    """
    centred = signed(x).to(mean) - mean
    low, high = (centred - 1 / LEVELS) / std, (centred + 1 / LEVELS) / std
    low, high = low.masked_fill(x == 0, -math.inf), high.masked_fill(x == LEVELS - 1, math.inf)
    above = centred > 0  # the lower tail has digits where the upper has none
    log_high = _log_ndtr(torch.where(above, -low, high))
    log_low = _log_ndtr(torch.where(above, -high, low))
    log_mass: Tensor = log_high + torch.log(-torch.expm1(log_low - log_high))
    return log_mass


def _log_ndtr(x: Tensor) -> Tensor:
    """The logarithm of the standard normal distribution function.

    As that of torch, whose gradient in float32 is off by per cents at -500 and NaN at a few hundred thousand.
    """
    lower, upper = x.clamp(max=0), x.clamp(min=0)
    of_lower = torch.log(0.5 * torch.special.erfcx(-lower / math.sqrt(2))) - 0.5 * lower.square()
    return torch.where(x < 0, of_lower, torch.log1p(-0.5 * torch.erfc(upper / math.sqrt(2))))


def to_levels(log_density: Tensor, dim: int) -> Tensor:
    """Log-density on [0, 1) in nats per image -> the 256-level scale: one level is 1/256 wide.

    >>> to_levels(torch.tensor(0.0), dim=1)  # uniform on [0, 1): log(1/256) for each level
    tensor(-5.5452)
    """
    return log_density - dim * math.log(LEVELS)


def signed_to_levels(log_density: Tensor, dim: int) -> Tensor:
    """Log-density on the axis of :func:`signed`, nats per image -> the 256-level scale.

    >>> uniform = torch.tensor(0.5).log()  # the density of U(-1, 1)
    >>> bits_per_dim(signed_to_levels(uniform, dim=1), dim=1).round(decimals=4)
    tensor(8.)
    """
    return to_levels(log_density, dim) + dim * math.log(2)


def bits_per_dim(log_prob: Tensor, dim: int) -> Tensor:
    """Nats per image on the 256-level scale -> bits per dimension.

    >>> uniform = to_levels(torch.zeros(1, dtype=torch.float64), dim=784)
    >>> bits_per_dim(uniform, dim=784).item()
    8.0
    """
    return -log_prob / (dim * math.log(2))


def logit(x: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """``logit(alpha + (1 - 2 alpha) x)`` and its log-determinant, nats per image ``(B,)``.

    It takes the unit interval to the real line, where a flow lives (Dinh et al. 2017, section 4.1, with
    0.05; Papamakarios et al. 2017, appendix D, with 1e-6 for MNIST). ``alpha`` changes what the model can
    say of black and white pixels, and with it the likelihood: it stands beside every bits/dim.

    >>> y, log_det = logit(torch.tensor([[0.5]], dtype=torch.float64), alpha=0.25)
    >>> y.item(), log_det.exp().item()  # the slope at p = 1/2 is (1 - 2 alpha) / (p (1 - p))
    (0.0, 2.0)
    """
    slope = 1 - 2 * alpha
    # 1 - x is exact in floating point, 1 - p is not: white pixels would lose digits.
    log_p, log_not_p = torch.log(alpha + slope * x), torch.log(alpha + slope * (1 - x))
    log_det = (math.log(slope) - log_p - log_not_p).flatten(1).sum(1)
    return log_p - log_not_p, log_det


def sigmoid(y: Tensor, alpha: float) -> Tensor:
    """The inverse of :func:`logit`, clamped to [0, 1].

    >>> sigmoid(logit(torch.tensor([[0.0, 0.25, 1.0]]), alpha=0.05)[0], alpha=0.05).round(decimals=5).abs()
    tensor([[0.0000, 0.2500, 1.0000]])
    """
    return ((torch.sigmoid(y) - alpha) / (1 - 2 * alpha)).clamp(0, 1)


def bernoulli(x: Tensor, generator: Generator | None = None) -> Tensor:
    """Uint8 -> 0.0 or 1.0, dynamic binarisation: white with probability ``x / 255``, drawn anew at each call.

    Black and white pixels stay what they are.

    References:
        Salakhutdinov & Murray 2008, "On the quantitative analysis of deep belief networks", section 5.1.

    >>> bernoulli(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([0., 1.])
    """
    noise = torch.rand(x.shape, device=x.device, generator=generator)
    return (noise * (LEVELS - 1) < x).float()
