"""The variational bound of a diffusion, term by term, in nats per image.

``-log p(x) <= L_T + sum_t L_{t-1} + L_0``: how far the end is from noise, how far each reverse step is from the
posterior, and how well the first step names each pixel's level.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genlab.diffusion.process import Process, Variance
from genlab.diffusion.samplers import Denoise
from genlab.likelihood import level_log_prob, signed


def prior_term(process: Process, x0: Tensor) -> Tensor:
    """``L_T = KL(q(x_T | x_0) || N(0, I))`` of images ``(B, C, H, W)`` on [-1, 1]: nats per image ``(B,)``."""
    t = torch.full((len(x0),), process.num_steps, device=x0.device)
    variance = process.sigma(t).square()
    kl = 0.5 * ((process.alpha(t) * x0).square() + variance - 1 - variance.log())
    return kl.flatten(1).sum(1)


def step_term(
    denoise: Denoise, process: Process, variance: Variance, x: Tensor, t: Tensor, eps: Tensor
) -> Tensor:
    """The term of step ``t`` ``(B,)``, of 1 to T, for uint8 images and noise of their shape: nats ``(B,)``.

    ``KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t))``, and where ``t`` is 1, ``-log p(x_0 | x_1)`` of the 256
    levels. Unbiased for the expectation over ``x_t``.

    References:
        Ho et al. 2020, "Denoising diffusion probabilistic models", eq. 5 and 13.
    """
    x0, s = signed(x), t - 1
    x_t = process.diffuse(x0, t, eps)
    seen = denoise(x_t, t)
    log_variance = process.reverse_log_variance(s, t, variance, seen.fraction)
    mean = process.posterior_mean(seen.x0, x_t, s, t)
    true_mean = process.posterior_mean(x0, x_t, s, t)
    true_log_variance = process.posterior_variance(s, t).log()  # -inf at the first step, which is not this KL
    gap = log_variance - true_log_variance
    kl = 0.5 * (gap - 1 + (-gap).exp() + (true_mean - mean).square() * (-log_variance).exp())
    decoder = -level_log_prob(x, mean, (0.5 * log_variance).exp().expand_as(mean))
    return torch.where(s[:, None, None, None] == 0, decoder, kl).flatten(1).sum(1)


@dataclass(frozen=True)
class Terms:
    """The parts of the bound, nats per image: ``prior`` ``(B,)``, and ``steps`` ``(K, B)`` of the step ``t``
    ``(K, B)`` drawn in each stratum, times the steps that the stratum has."""

    prior: Tensor
    steps: Tensor
    t: Tensor

    @property
    def total(self) -> Tensor:
        """The bound on ``-log p(x)``, ``(B,)``."""
        return self.prior + self.steps.sum(0)


def strata(num_steps: int, count: int | None) -> list[tuple[int, int]]:
    """Steps 1 to ``num_steps`` in ``count`` parts, ``(first, last)`` of each, shorter where ``t`` is small.

    Terms are largest there and differ most from each other. ``None``, or too many: each step by itself.

    >>> strata(16, 4)
    [(1, 1), (2, 4), (5, 9), (10, 16)]
    """
    count = min(count or num_steps, num_steps)
    ends = [max(i, math.ceil(num_steps * (i / count) ** 2)) for i in range(count + 1)]
    return [(low + 1, high) for low, high in itertools.pairwise(ends)]


def bound_terms(denoise: Denoise, process: Process, variance: Variance, x: Tensor, count: int | None) -> Terms:
    """The bound of uint8 images from one step in each of ``count`` strata: unbiased for the sum of all terms.

    Each image has steps and noise of its own; ``count`` evaluations of the network.
    """
    terms, times = [], []
    for first, last in strata(process.num_steps, count):
        t = torch.randint(first, last + 1, (len(x),), device=x.device)
        eps = torch.randn(x.shape, device=x.device, dtype=process.log_alpha_bar.dtype)
        terms.append((last - first + 1) * step_term(denoise, process, variance, x, t, eps))
        times.append(t)
    return Terms(prior_term(process, signed(x)), torch.stack(terms), torch.stack(times))
