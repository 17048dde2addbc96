"""Denoising diffusion: noise added in many small steps, and a network that takes it off again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Generator, Tensor

from genlab.config import Positive, config
from genlab.diffusion.bound import bound_terms, step_term, strata
from genlab.diffusion.ode import ODEConfig, transport
from genlab.diffusion.process import Denoised, Process, Target, Variance, read
from genlab.diffusion.samplers import SamplerName, SamplersConfig
from genlab.diffusion.schedules import Schedule, Steps
from genlab.likelihood import signed, signed_to_levels
from genlab.models.denoising import ConditioningConfig, DenoisingModel, to_uint8
from genlab.nets.gaussian import standard_normal_log_prob
from genlab.nets.unet import UNetConfig
from genlab.registry import MODELS
from genlab.types import Batch, DataSpec, LikelihoodKind, SamplingStep, Update

Loss = Literal["simple", "bound", "hybrid"]


@config
class DDPMConfig:
    """Settings of :class:`DDPM`.

    ``target`` is what the network predicts; ``loss`` its squared error (``simple``), the variational bound, or
    both (``hybrid``: the bound, at ``bound_weight``, moves the learned variance alone). ``likelihood`` is what
    ``log_prob`` gives: the bound, from ``bound_steps`` of the chain (``None``: all), or the density of the ODE.
    """

    name: Literal["ddpm"] = "ddpm"
    net: UNetConfig
    schedule: Schedule
    target: Target = "eps"
    loss: Loss = "simple"
    bound_weight: Positive = 1e-3
    variance: Variance = "large"
    clip: bool = True
    conditioning: ConditioningConfig | None = None
    sampler: SamplerName = "dpm_solver"
    samplers: SamplersConfig
    likelihood: Literal["bound", "ode"] = "bound"
    bound_steps: Steps | None = 100
    ode: ODEConfig

    def __post_init__(self) -> None:
        """A variance is learned from the bound, and from nothing else."""
        learned = self.variance == "learned"
        if (learned and self.loss == "simple") or (not learned and self.loss == "hybrid"):
            raise ValueError(
                f"variance={self.variance} with loss={self.loss}: a learned variance goes with loss=hybrid or "
                "bound, and loss=hybrid with variance=learned"
            )


@MODELS.register("ddpm")
class DDPM(DenoisingModel):
    """``x_t = alpha_t x_0 + sigma_t eps``; the network says of ``x_t`` what of it is noise.

    References:
        Ho et al. 2020, "Denoising diffusion probabilistic models"; Nichol & Dhariwal 2021, "Improved denoising
        diffusion probabilistic models" (cosine schedule, learned variance, hybrid loss); Salimans & Ho 2022,
        "Progressive distillation" (v).
    """

    Config = DDPMConfig

    def __init__(self, config: DDPMConfig, spec: DataSpec) -> None:
        learned = config.variance == "learned"
        super().__init__(config.net, config.conditioning, spec, spec.channels * (1 + learned))
        self.config = config
        self.process = Process(config.schedule.betas()).float()
        self.sampler = config.samplers.build(config.sampler, config.variance)
        self.likelihood: LikelihoodKind = "bound" if config.likelihood == "bound" else "unbiased"
        self.protocol = self._protocol()

    def _protocol(self) -> str:
        c = self.config
        if c.likelihood == "ode":
            return f"uniform dequantisation, probability-flow ODE, {c.ode.protocol}"
        count, total = len(self.strata), self.process.num_steps
        steps = f"all {total:,} steps" if count == total else f"{count:,} of {total:,} steps for each image"
        return f"variational bound, 256 levels, discretised Gaussian decoder, {steps}, {c.variance} variance"

    # ------------------------------------------------------------------ the network's word

    def _output(self, output: Tensor, x_t: Tensor, t: Tensor, clip: bool) -> Denoised:
        """What the network's output says of ``x_t``."""
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        prediction, variance = self._parts(output)
        seen = read(self.config.target, prediction, x_t, alpha, sigma, clip)
        if self.config.variance != "learned":
            return seen
        return Denoised(seen.x0, seen.eps, (variance + 1) / 2)  # Nichol & Dhariwal's code starts in the middle

    def _parts(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """The planes of the prediction, and those of the variance: none where it is not learned."""
        planes = self.spec.channels
        return output[:, :planes], output[:, planes:]

    def _time(self, t: Tensor) -> Tensor:
        return t / self.process.num_steps

    def denoise(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Denoised:
        """The image and the noise in ``x_t`` at steps ``t`` ``(B,)``, of classes ``y`` where there are any."""
        return self._output(self.guided(x_t, self._time(t), y), x_t, t, self.config.clip)

    # ------------------------------------------------------------------ training

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        """One, of a step of the chain for each image."""
        x0, y = signed(batch.x), self.training_labels(batch.y)
        t = torch.randint(1, self.process.num_steps + 1, (len(x0),), device=x0.device)
        eps = torch.randn_like(x0)
        x_t = self.process.diffuse(x0, t, eps)
        output = self.network(x_t, self._time(t), y)
        prediction, variance = self._parts(output)
        error = (prediction - self.process.target(self.config.target, x0, t, eps)).square()
        simple = error.flatten(1).sum(1).mean()
        logs = {"mse": error.mean()}
        if self.config.loss == "simple":
            yield Update("model", simple, logs)
            return
        if self.config.loss == "hybrid":  # the bound is not to move what is predicted
            output = torch.cat([prediction.detach(), variance], dim=1)

        def said(x_t: Tensor, t: Tensor) -> Denoised:
            return self._output(output, x_t, t, clip=False)

        terms = step_term(said, self.process, self.config.variance, batch.x, t, eps)
        bound = self.process.num_steps * terms.mean()
        loss = bound if self.config.loss == "bound" else simple + self.config.bound_weight * bound
        yield Update("model", loss, logs | {"simple": simple, "bound": bound})

    # ------------------------------------------------------------------ images

    def steps(self, noise: Tensor, y: Tensor | None, generator: Generator | None) -> Iterator[SamplingStep]:
        """By the sampler of the settings."""
        yield from self.sampler.steps(lambda x, t: self.denoise(x, t, y), self.process, noise, generator)

    @torch.no_grad()
    def denoised(self, x: Tensor, time: float, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Noisy images at ``time`` in (0, 1] and what the network makes of them at once, uint8 both."""
        t = torch.full((len(x),), max(1, round(time * self.process.num_steps)), device=x.device)
        eps = torch.randn(x.shape, device=x.device, generator=generator)
        x_t = self.process.diffuse(signed(x), t, eps)
        return to_uint8(x_t), to_uint8(self.denoise(x_t, t).x0)

    # ------------------------------------------------------------------ likelihood

    @torch.no_grad()
    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Nats per image ``(B,)`` of uint8 ``x``, a bound or an unbiased estimate; labels are not used."""
        return self._ode_log_prob(x) if self.config.likelihood == "ode" else -self.step_terms(x).sum(1)

    @property
    def strata(self) -> list[tuple[int, int]]:
        """Of the bound: the parts of the chain that have one step each."""
        return strata(self.process.num_steps, self.config.bound_steps)

    @torch.no_grad()
    def step_terms(self, x: Tensor) -> Tensor:
        """The variational bound of uint8 images, nats ``(B, K + 1)``: :class:`~genlab.types.HasStepTerms`."""
        return bound_terms(self.denoise, self.process, self.config.variance, x, self.config.bound_steps)

    def ode_velocity(self, x_bar: Tensor, log_ratio: float) -> Tensor:
        """Of ``x_t / alpha_t``, whose noise grows by ``log_ratio = log(sigma_t / alpha_t)``.

        References:
            Song et al. 2021, "Denoising diffusion implicit models", eq. 14.
        """
        ratio = math.exp(log_ratio)
        alpha = 1 / math.hypot(1, ratio)
        time = x_bar.new_full((len(x_bar),), self.process.time_of(log_ratio))
        prediction, _ = self._parts(self.network(alpha * x_bar, time, None))
        return ratio * read(self.config.target, prediction, alpha * x_bar, alpha, alpha * ratio, clip=False).eps

    def _ode_log_prob(self, x: Tensor) -> Tensor:
        """The density of ``x_1 / alpha_1``: of images that noise of ``sigma_1 / alpha_1`` has made smooth."""
        start, end = self.process.noise_range
        x_bar, log_det = transport(self.ode_velocity, signed(x, noisy=True), start, end, self.config.ode)
        log_alpha = -0.5 * math.log1p(math.exp(2 * end))
        base = standard_normal_log_prob(math.exp(log_alpha) * x_bar) + self.spec.dim * log_alpha
        return signed_to_levels(base + log_det, self.spec.dim)
