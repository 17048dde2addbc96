"""Flow matching: a network learns the velocity of straight lines between noise and images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Generator, Tensor

from genlab.config import Count, config
from genlab.diffusion.ode import (
    ODEConfig,
    Solver,
    evenly_spaced,
    solve,
    transport,
)
from genlab.likelihood import signed, signed_to_levels
from genlab.models.denoising import ConditioningConfig, DenoisingModel, to_uint8
from genlab.nets.gaussian import standard_normal_log_prob
from genlab.nets.unet import UNetConfig
from genlab.registry import MODELS
from genlab.types import Batch, DataSpec, LikelihoodKind, SamplingStep, Update


@config
class FlowMatchingConfig:
    """Settings of :class:`FlowMatching`; ``num_steps`` of ``solver`` make a sample, ``ode`` a likelihood."""

    name: Literal["flow_matching"] = "flow_matching"
    net: UNetConfig
    conditioning: ConditioningConfig | None = None
    solver: Solver = "midpoint"
    num_steps: Count = 25
    ode: ODEConfig


@MODELS.register("flow_matching")
class FlowMatching(DenoisingModel):
    """``x_t = (1 - t) x + t eps``; the network learns ``E[eps - x | x_t]``, whose flow takes noise to images.

    References:
        Lipman et al. 2023, "Flow matching for generative modeling"; Liu et al. 2023, "Flow straight and fast:
        learning to generate and transfer data with rectified flow", eq. 1.
    """

    Config = FlowMatchingConfig
    likelihood: LikelihoodKind = "unbiased"

    def __init__(self, config: FlowMatchingConfig, spec: DataSpec) -> None:
        super().__init__(config.net, config.conditioning, spec, spec.channels)
        self.config = config
        self.protocol = (
            f"uniform dequantisation, ODE of the flow in the cube root of time, {config.ode.protocol}"
        )

    def velocity(self, x: Tensor, time: float, y: Tensor | None = None) -> Tensor:
        """Of images ``(B, C, H, W)`` at ``time``, from 0 (image) to 1 (noise), led towards the class ``y``."""
        return self.guided(x, x.new_full((len(x),), time), y)

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        """One, of a time for each image."""
        x, y = signed(batch.x, noisy=True), self.training_labels(batch.y)
        eps, time = torch.randn_like(x), torch.rand(len(x), device=x.device)
        x_t = torch.lerp(x, eps, time[:, None, None, None])
        error = (self.network(x_t, time, y) - (eps - x)).square()
        yield Update("model", error.flatten(1).sum(1).mean(), {"mse": error.mean()})

    def steps(self, noise: Tensor, y: Tensor | None, generator: Generator | None) -> Iterator[SamplingStep]:
        """By the solver of the settings; the image foreseen is where the line at hand ends."""
        times = evenly_spaced(1.0, 0.0, self.config.num_steps)
        velocities: list[Tensor] = []
        x = noise

        def velocity(x: Tensor, time: float) -> Tensor:
            velocities.append(self.velocity(x, time, y))
            return velocities[-1]

        for time, following in zip(times, solve(velocity, noise, times, self.config.solver), strict=False):
            yield SamplingStep(time, x, x - time * velocities[0])
            velocities.clear()
            x = following
        yield SamplingStep(0.0, x, x)

    @torch.no_grad()
    def denoised(self, x: Tensor, time: float, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """Noisy images at ``time`` in (0, 1] and where the line from there ends, uint8 both."""
        eps = torch.randn(x.shape, device=x.device, generator=generator)
        x_t = torch.lerp(signed(x), eps, time)
        return to_uint8(x_t), to_uint8(x_t - time * self.velocity(x_t, time))

    @torch.no_grad()
    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Nats per image ``(B,)`` of uint8 ``x``, without bias but for the solver's; labels are not used."""
        noise, log_det = transport(self.ode_velocity, signed(x, noisy=True), 0.0, 1.0, self.config.ode)
        return signed_to_levels(standard_normal_log_prob(noise) + log_det, self.spec.dim)

    def ode_velocity(self, x: Tensor, root: float) -> Tensor:
        """With respect to the cube root of time.

        Where a pixel hardly differs between images (by s) the flow turns at times of about s: with even steps
        in time a likelihood would miss half a nat of each background pixel, whose s is that of a level.
        """
        return 3 * root**2 * self.velocity(x, root**3)
