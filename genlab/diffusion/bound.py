"""The variational bound of a diffusion, term by term, in nats per image.

``-log p(x) <= L_0 + sum_{t>1} L_{t-1} + L_T``: how well the first step names each pixel's level, how far each
reverse step is from the posterior, and how far the end is from noise.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from genlab.diffusion.process import Process, Variance
from genlab.diffusion.samplers import Denoise
from genlab.likelihood import level_log_prob, signed


def prior_term(process: Process, x0: Tensor) -> Tensor:
    """``L_T = KL(q(x_T | x_0) || N(0, I))`` of images ``(B, C, H, W)`` on [-1, 1]: nats per image ``(B,)``.

    >>> half = Process(torch.tensor([0.5], dtype=torch.float64))  # N(0.7 x_0, 1/2) against N(0, 1)
    >>> prior_term(half, torch.ones(1, 1, 1, 1))  # log(2) / 2
    tensor([0.3466])
    """
    alpha_bar = process.log_alpha_bar[-1].exp()
    kl = 0.5 * (alpha_bar * (x0.square() - 1) - torch.log1p(-alpha_bar))  # from digits that 1 - alpha_bar lacks
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
    distance = (true_mean - mean).square() * (-log_variance).exp()
    kl = 0.5 * (gap + torch.expm1(-gap) + distance)
    decoder = -level_log_prob(x, mean, (0.5 * log_variance).exp().expand_as(mean))
    return torch.where(s[:, None, None, None] == 0, decoder, kl).flatten(1).sum(1)


def strata(num_steps: int, count: int | None) -> list[tuple[int, int]]:
    """Steps 1 to ``num_steps`` in ``count`` parts, ``(first, last)`` of each, at least 2.

    Step 1, whose term is of its own kind, is alone. Parts are shorter where ``t`` is small: terms are largest
    there and differ most from each other. ``None``, or too many: each step by itself.

    >>> strata(16, 4)
    [(1, 1), (2, 3), (4, 8), (9, 16)]
    """
    further = min(count or num_steps, num_steps) - 1
    ends = [1 + max(i, -(-(num_steps - 1) * i**2 // further**2)) for i in range(further + 1)]
    return [(low + 1, high) for low, high in itertools.pairwise([0, *ends])]


def bound_terms(denoise: Denoise, process: Process, variance: Variance, x: Tensor, count: int | None) -> Tensor:
    """The bound of uint8 images as summands ``(B, K + 1)``: of each of ``count`` :func:`strata`, then ``L_T``.

    One step is drawn in each stratum and stands for all of it, so that each summand is unbiased. Each image has
    steps and noise of its own; ``count`` evaluations of the network.
    """
    terms = []
    for first, last in strata(process.num_steps, count):
        t = torch.randint(first, last + 1, (len(x),), device=x.device)
        eps = torch.randn(x.shape, device=x.device, dtype=process.log_alpha_bar.dtype)
        terms.append((last - first + 1) * step_term(denoise, process, variance, x, t, eps))
    return torch.stack([*terms, prior_term(process, signed(x))], dim=1)
