"""From noise to images: pure functions of a denoiser, one class for each way through the steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from genlab.config import Count, Fraction, config
from genlab.diffusion.process import Denoised, Process, Variance
from genlab.types import SamplingStep

Denoise = Callable[[Tensor, Tensor], Denoised]
"""Noisy images ``(B, C, H, W)`` and their steps, int64 ``(B,)`` -> what they say of the image."""
SamplerName = Literal["ancestral", "ddim", "dpm_solver"]


@dataclass(frozen=True)
class Moment:
    """Where the way stands: images ``x`` at step ``t``, what is ``seen`` in them, the step ``s`` that follows.

    Steps are int64 ``(B,)``; ``last`` says whether ``s`` is 0, without a look at the device.
    """

    x: Tensor
    seen: Denoised
    t: Tensor
    s: Tensor
    last: bool


class Sampler:
    """A way through the steps, and what is done at each of them."""

    def way(self, process: Process) -> list[int]:
        """The steps that the network is asked at, from T on, then 0."""
        raise NotImplementedError

    def advance(
        self, process: Process, here: Moment, before: Moment | None, generator: Generator | None
    ) -> Tensor:
        """The images at the step that follows, from where the way stands and stood ``before``."""
        raise NotImplementedError

    def steps(
        self, denoise: Denoise, process: Process, noise: Tensor, generator: Generator | None
    ) -> Iterator[SamplingStep]:
        """From standard normal ``noise`` ``(B, C, H, W)``, which comes first, to images, which come last."""
        x, before = noise, None
        steps = [(step, torch.full((len(x),), step, device=x.device)) for step in self.way(process)]
        for (now, t), (then, s) in itertools.pairwise(steps):
            here = Moment(x, denoise(x, t), t, s, last=not then)
            yield SamplingStep(now / process.num_steps, x, here.seen.x0)
            x, before = self.advance(process, here, before, generator), here
        yield SamplingStep(0.0, x, x)


@dataclass(frozen=True)
class Even(Sampler):
    """A way of ``num_steps`` of the chain's steps (``None``: all of them), evenly spaced."""

    num_steps: int | None

    def way(self, process: Process) -> list[int]:
        """Evenly spaced."""
        return process.subsequence(self.num_steps)


@config
class AncestralConfig:
    """``num_steps`` of the chain (``None``: all of it)."""

    num_steps: Count | None = None

    def build(self, variance: Variance) -> Sampler:
        """The sampler of a model with that reverse variance."""
        return Ancestral(self.num_steps, variance)


@dataclass(frozen=True)
class Ancestral(Even):
    """Draws ``x_s ~ p(x_s | x_t)`` step by step, the chain itself or a part of it; the last step is the mean.

    References:
        Ho et al. 2020, "Denoising diffusion probabilistic models", algorithm 2; of a part of the chain as in
        Nichol & Dhariwal 2021, "Improved denoising diffusion probabilistic models", section 4.
    """

    variance: Variance

    def advance(
        self, process: Process, here: Moment, before: Moment | None, generator: Generator | None
    ) -> Tensor:
        """A draw, or the mean at the end."""
        seen, s, t = here.seen, here.s, here.t
        mean = process.posterior_mean(seen.x0, here.x, s, t)
        if here.last:
            return mean
        log_variance = process.reverse_log_variance(s, t, self.variance, seen.fraction)
        return mean + (0.5 * log_variance).exp() * _normal(mean, generator)


@config
class DDIMConfig:
    """``num_steps`` of the chain (``None``: all of it); ``eta`` 0 is without chance, 1 is ancestral."""

    num_steps: Count | None = 50
    eta: Fraction = 0.0

    def build(self, variance: Variance) -> Sampler:
        """The sampler; it has a variance of its own."""
        return DDIM(self.num_steps, self.eta)


@dataclass(frozen=True)
class DDIM(Even):
    """Steps of a process with the same marginals and less chance, ``eta`` of that of the posterior.

    References:
        Song et al. 2021, "Denoising diffusion implicit models", eq. 12 and 16.
    """

    eta: float

    def advance(
        self, process: Process, here: Moment, before: Moment | None, generator: Generator | None
    ) -> Tensor:
        """The image foreseen with less noise, a part of it fresh."""
        s, t = here.s, here.t
        variance = self.eta**2 * process.posterior_variance(s, t)
        rest = (process.sigma(s).square() - variance).clamp(min=0)  # rounding alone makes it negative
        x = process.alpha(s) * here.seen.x0 + rest.sqrt() * here.seen.eps
        if not self.eta:
            return x
        return x + variance.sqrt() * _normal(x, generator)  # at the end of the way the variance is 0


@config
class DPMSolverConfig:
    """``num_steps`` evaluations of the network, at steps of the chain that are :func:`crowded` at its end."""

    num_steps: Count = 20

    def build(self, variance: Variance) -> Sampler:
        """The sampler; it has no variance."""
        return DPMSolver(self.num_steps)


@dataclass(frozen=True)
class DPMSolver(Sampler):
    """DPM-Solver++ of second order in multisteps, without chance: good images in some twenty steps.

    Without chance nothing makes up for errors: a network of few epochs draws better images by
    :class:`Ancestral`, or by :class:`DDIM` of ``eta`` 1.

    References:
        Lu et al. 2022, "DPM-Solver++", algorithm 2.
    """

    num_steps: int

    def way(self, process: Process) -> list[int]:
        """See :func:`crowded`."""
        return crowded(process.num_steps, self.num_steps)

    def advance(
        self, process: Process, here: Moment, before: Moment | None, generator: Generator | None
    ) -> Tensor:
        """By the line through the images foreseen here and before; first and last step are of first order."""
        s, t, x0 = here.s, here.t, here.seen.x0
        ratio = _noise_ratio(process, here)
        if before is not None and not here.last:
            # h = lambda_s - lambda_t, lambda = log(alpha / sigma)
            h, h_before = -ratio.log(), -_noise_ratio(process, before).log()
            x0 = x0 + 0.5 * h / h_before * (x0 - before.seen.x0)
        return process.sigma(s) / process.sigma(t) * here.x + process.alpha(s) * (1 - ratio) * x0


def _noise_ratio(process: Process, here: Moment) -> Tensor:
    """``exp(-h)``: how much less noise for the image there is at the step that follows, ``(B, 1, 1, 1)``."""
    s, t = here.s, here.t
    return process.sigma(s) * process.alpha(t) / (process.sigma(t) * process.alpha(s))


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


def _normal(like: Tensor, generator: Generator | None) -> Tensor:
    return torch.randn(like.shape, device=like.device, dtype=like.dtype, generator=generator)
