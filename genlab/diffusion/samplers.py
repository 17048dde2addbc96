"""From noise to images: pure functions of a denoiser, one class for each way through the steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor

from genlab.config import Count, Fraction, config
from genlab.diffusion.process import Denoised, Process, Variance
from genlab.types import SamplingStep

Denoise = Callable[[Tensor, Tensor], Denoised]
"""Noisy images ``(B, C, H, W)`` and their steps, int64 ``(B,)`` -> what they say of the image."""
SamplerName = Literal["ancestral", "ddim", "dpm_solver"]


class Sampler(Protocol):
    """Yields the noise itself first, with the image that is foreseen in it, and finished images last."""

    def steps(
        self, denoise: Denoise, process: Process, noise: Tensor, generator: Generator | None
    ) -> Iterator[SamplingStep]:
        """From standard normal ``noise`` ``(B, C, H, W)``."""
        ...


@config
class AncestralConfig:
    """``num_steps`` of the chain (``None``: all of it)."""

    num_steps: Count | None = None

    def build(self, variance: Variance) -> Sampler:
        """The sampler of a model with that reverse variance."""
        return Ancestral(self.num_steps, variance)


@dataclass(frozen=True)
class Ancestral:
    """Draws ``x_s ~ p(x_s | x_t)`` step by step, the chain itself or a part of it; the last step is the mean.

    References:
        Ho et al. 2020, "Denoising diffusion probabilistic models", algorithm 2; of a part of the chain as in
        Nichol & Dhariwal 2021, "Improved denoising diffusion probabilistic models", section 4.
    """

    num_steps: int | None
    variance: Variance

    def steps(
        self, denoise: Denoise, process: Process, noise: Tensor, generator: Generator | None
    ) -> Iterator[SamplingStep]:
        """See :class:`Sampler`."""
        x = noise
        for now, then, t, s in _pairs(process.subsequence(self.num_steps), x):
            seen = denoise(x, t)
            yield SamplingStep(now / process.num_steps, x, seen.x0)
            x = process.posterior_mean(seen.x0, x, s, t)
            if then:
                log_variance = process.reverse_log_variance(s, t, self.variance, seen.fraction)
                x = x + (0.5 * log_variance).exp() * _normal(x, generator)
        yield SamplingStep(0.0, x, x)


@config
class DDIMConfig:
    """``num_steps`` of the chain (``None``: all of it); ``eta`` 0 is without chance, 1 is ancestral."""

    num_steps: Count | None = 50
    eta: Fraction = 0.0

    def build(self, variance: Variance) -> Sampler:
        """The sampler; it has a variance of its own."""
        return DDIM(self.num_steps, self.eta)


@dataclass(frozen=True)
class DDIM:
    """Steps of a process with the same marginals and less chance, ``eta`` of that of the posterior.

    References:
        Song et al. 2021, "Denoising diffusion implicit models", eq. 12 and 16.
    """

    num_steps: int | None
    eta: float

    def steps(
        self, denoise: Denoise, process: Process, noise: Tensor, generator: Generator | None
    ) -> Iterator[SamplingStep]:
        """See :class:`Sampler`."""
        x = noise
        for now, _, t, s in _pairs(process.subsequence(self.num_steps), x):
            seen = denoise(x, t)
            yield SamplingStep(now / process.num_steps, x, seen.x0)
            variance = self.eta**2 * process.posterior_variance(s, t)
            rest = (process.sigma(s).square() - variance).clamp(min=0)  # rounding alone makes it negative
            x = process.alpha(s) * seen.x0 + rest.sqrt() * seen.eps
            if self.eta:  # at the end of the way the variance is 0
                x = x + variance.sqrt() * _normal(x, generator)
        yield SamplingStep(0.0, x, x)


@config
class DPMSolverConfig:
    """``num_steps`` evaluations of the network, at steps of the chain that are :func:`crowded` at its end."""

    num_steps: Count = 20

    def build(self, variance: Variance) -> Sampler:
        """The sampler; it has no variance."""
        return DPMSolver(self.num_steps)


@dataclass(frozen=True)
class DPMSolver:
    """DPM-Solver++ of second order in multisteps, without chance: good images in some twenty steps.

    Without chance nothing makes up for errors: a network of few epochs draws better images by
    :class:`Ancestral`, or by :class:`DDIM` of ``eta`` 1.

    References:
        Lu et al. 2022, "DPM-Solver++", algorithm 2.
    """

    num_steps: int

    def steps(
        self, denoise: Denoise, process: Process, noise: Tensor, generator: Generator | None
    ) -> Iterator[SamplingStep]:
        """See :class:`Sampler`; first and last step are of first order."""
        x = noise
        before: tuple[Tensor, Tensor] | None = None
        for now, then, t, s in _pairs(crowded(process.num_steps, self.num_steps), x):
            seen = denoise(x, t)
            yield SamplingStep(now / process.num_steps, x, seen.x0)
            # h = lambda_s - lambda_t, lambda = log(alpha / sigma); infinite where s is 0, and exp(-h) is 0.
            ratio = process.sigma(s) * process.alpha(t) / (process.sigma(t) * process.alpha(s))
            h = -ratio.log()
            x0 = seen.x0
            if before is not None and then:
                x0_before, h_before = before
                x0 = x0 + 0.5 * h / h_before * (x0 - x0_before)
            before = seen.x0, h
            x = process.sigma(s) / process.sigma(t) * x + process.alpha(s) * (1 - ratio) * x0
        yield SamplingStep(0.0, x, x)


@config
class SamplersConfig:
    """The settings of each sampler."""

    ancestral: AncestralConfig
    ddim: DDIMConfig
    dpm_solver: DPMSolverConfig

    def build(self, name: SamplerName, variance: Variance) -> Sampler:
        """The sampler of that name, for a model of that reverse variance."""
        settings: AncestralConfig | DDIMConfig | DPMSolverConfig = getattr(self, name)
        return settings.build(variance)


def crowded(total: int, num_steps: int) -> list[int]:
    """``num_steps`` steps from ``total`` down to 1, closer together where there is little noise, then 0.

    The last step leaps to the image, at an error of the order of the variance of the noise that is left. Even
    steps leave too much of it, and take the small differences between pixels for noise.

    References:
        Song et al. 2021, "Denoising diffusion implicit models", appendix D.2 (quadratic).

    >>> crowded(1000, 4)
    [1000, 562, 250, 62, 0]
    """
    count = min(num_steps, total)
    return [max(i, round(total * (i / count) ** 2)) for i in range(count, -1, -1)]


def _pairs(way: list[int], x: Tensor) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Each step of the way and the next: as numbers, lest the host wait for the device, and int64 ``(B,)``."""
    steps = [(step, torch.full((len(x),), step, device=x.device)) for step in way]
    for (now, t), (then, s) in itertools.pairwise(steps):
        yield now, then, t, s


def _normal(like: Tensor, generator: Generator | None) -> Tensor:
    return torch.randn(like.shape, device=like.device, dtype=like.dtype, generator=generator)
