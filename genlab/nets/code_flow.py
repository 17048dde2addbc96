"""A normalising flow of codes: the density of vectors that a frozen network makes of images."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Generator, Tensor, nn

from genlab.config import NonNegative, Positive, config
from genlab.nets.bijections import Bijection, Compose
from genlab.nets.coupling_chain import VectorOrder, affine, coupling_chain
from genlab.nets.gaussian import StandardNormal
from genlab.nets.mlp import MLPConfig

_MOMENTUM = 0.05  # of running statistics: they look back over some twenty batches
_SMALLEST = 0.1  # of a coordinate's standard deviation beside the mean of all: a smaller one counts as that


@config
class CodeFlowConfig:
    """A RealNVP of codes; ``noise``: see :class:`CodeFlow`."""

    num_flows: Annotated[int, Ge(2)] = 8
    permutation: VectorOrder = "random"
    scale_bound: Positive = 2.0
    actnorm: bool = True
    noise: NonNegative = 0.05
    net: MLPConfig


class CodeFlow(nn.Module):
    """``p(h) = N(f(h); 0, I) |det df/dh|`` of codes ``h`` ``(B, D)``, in nats and in the codes' own units.

    ``f`` standardises each coordinate by statistics that are no parameters, and then has ``num_flows``
    affine couplings, begun as the identity. The statistics' share of the Jacobian is counted.

    Codes of a deterministic network may lie on a set of fewer dimensions than they have coordinates, and a
    ReLU is exactly 0 for some images: there a density is unbounded, and its likelihood has no maximum. So it
    is fitted to codes with Gaussian noise of ``noise`` standard deviations of each coordinate, whose density
    exists and is smooth, as dequantisation makes one of levels. What is scored later is the code itself.

    References:
        Dinh et al. 2017, "Density estimation using Real NVP"; Horvat & Pfister 2021, "Denoising normalizing
        flow" (noise where data lie on a manifold).
    """

    def __init__(self, config: CodeFlowConfig, dim: int) -> None:
        super().__init__()
        self.dim, self.noise = dim, config.noise
        self.standardise = Standardise(dim)
        coupling = affine(config.net, config.scale_bound)
        parts = coupling_chain(config.num_flows, dim, config.permutation, config.actnorm, coupling)
        self.bijection = Compose([self.standardise, *parts])

    @property
    def protocol(self) -> str:
        """What is scored, in words."""
        return f"density of {self.dim} coordinates with noise of {self.noise:g} standard deviations"

    def forward(self, codes: Tensor) -> dict[str, Tensor]:
        """The terms of the log-density of ``codes`` ``(B, D)``, nats per code ``(B,)``.

        ``log_prior`` is of the base space, ``log_det`` of all from the codes' units to it.
        """
        z, log_det = self.bijection(codes)
        return {"log_prior": self._base(z.device).log_prob(z), "log_det": log_det}

    def log_prob(self, codes: Tensor) -> Tensor:
        """Nats per code ``(B,)`` of codes ``(B, D)`` as they are, without noise."""
        terms = self(codes)
        log_prob: Tensor = terms["log_prior"] + terms["log_det"]
        return log_prob

    def fit(self, codes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, the negative log-density of noisy ``codes``, and its terms, averaged over the batch."""
        logs = {name: term.mean() for name, term in self(self._noisy(codes)).items()}
        logs["code_log_prob"] = logs["log_prior"] + logs["log_det"]
        return -logs["code_log_prob"], logs

    @torch.no_grad()
    def initialize(self, codes: Tensor) -> None:
        """Standardise, and normalise each ActNorm, on a first batch."""
        self.standardise.initialize(codes)
        self.bijection.initialize(self._noisy(codes))

    def sample(self, n: int, generator: Generator | None, temperature: float) -> Tensor:
        """Codes ``(n, D)``; ``temperature`` scales the standard deviation of the base."""
        base = self._base(self.standardise.mean.device)
        return self.bijection.inverse(temperature * base.sample(n, generator))

    def _noisy(self, codes: Tensor) -> Tensor:
        return codes + self.noise * self.standardise.scale * torch.randn_like(codes)

    def _base(self, device: torch.device) -> StandardNormal:
        return StandardNormal(self.dim, device)


class Standardise(Bijection):
    """``y = (x - mean) / scale`` of each coordinate, by statistics of data that no gradient moves."""

    mean: Tensor
    var: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("var", torch.ones(dim))

    @property
    def scale(self) -> Tensor:
        """The standard deviations ``(D,)``; one that hardly varies would be blown up without bound."""
        std = self.var.sqrt()
        return std.clamp(min=(_SMALLEST * std.mean()).clamp(min=torch.finfo(std.dtype).eps))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Subtract and divide."""
        scale = self.scale
        return (x - self.mean) / scale, -scale.log().sum().expand(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        """Multiply and add."""
        return y * self.scale + self.mean

    @torch.no_grad()
    def initialize(self, x: Tensor) -> Tensor:
        """Take the statistics of a batch."""
        self.mean.copy_(x.mean(0))
        self.var.copy_(x.var(0, correction=0))
        return super().initialize(x)

    @torch.no_grad()
    def track(self, x: Tensor) -> None:
        """Move the statistics towards those of a batch ``(B, D)``."""
        self.mean.lerp_(x.mean(0), _MOMENTUM)
        self.var.lerp_(x.var(0, correction=0), _MOMENTUM)
