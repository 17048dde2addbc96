"""Priors p(z) of latent-variable models.

A prior is a module that, called with the model's ``infer`` (images in [0, 1] -> posterior), gives the
distribution of codes as it is now: :class:`~genlab.nets.gaussian.Latents`. It is called once for each step,
however many codes are then scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from pydantic import Field
from torch import Generator, Tensor, nn

from genlab.config import Count, Positive, config
from genlab.errors import ConfigError
from genlab.nets.bijections import Bijection, Compose
from genlab.nets.coupling_chain import affine, coupling_chain
from genlab.nets.gaussian import DiagonalGaussian, GaussianMixture, Latents, StandardNormal
from genlab.nets.mlp import MLPConfig
from genlab.types import DataSpec

Infer = Callable[[Tensor], DiagonalGaussian]


class Prior(nn.Module):
    """``p(z)`` with its parameters."""

    def forward(self, infer: Infer) -> Latents:
        """The distribution, differentiable in this module's parameters."""
        raise NotImplementedError

    def initialize(self, x: Tensor) -> None:
        """Set what depends on data from a first batch of images in [0, 1]."""


# --------------------------------------------------------------------------------------- standard normal


@config
class StandardNormalConfig:
    """No settings."""

    name: Literal["standard_normal"] = "standard_normal"

    def build(self, dim: int, spec: DataSpec) -> Prior:
        """The prior of ``dim``-dimensional codes."""
        return StandardNormalPrior(dim)


class StandardNormalPrior(Prior):
    """``N(0, I)``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("origin", torch.zeros(dim), persistent=False)

    def forward(self, infer: Infer) -> Latents:
        """It has no parameters."""
        assert isinstance(self.origin, Tensor)
        return StandardNormal(len(self.origin), self.origin.device)


# --------------------------------------------------------------------------------------- mixture


@config
class MixtureConfig:
    """``num_components`` Gaussians with means, variances and weights of their own."""

    name: Literal["mixture"] = "mixture"
    num_components: Count = 100

    def build(self, dim: int, spec: DataSpec) -> Prior:
        """The prior of ``dim``-dimensional codes."""
        return MixturePrior(self, dim)


class MixturePrior(Prior):
    """A learned mixture of Gaussians, begun as many draws from ``N(0, I)`` with unit variance."""

    def __init__(self, config: MixtureConfig, dim: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(config.num_components, dim))
        self.log_var = nn.Parameter(torch.zeros(config.num_components, dim))
        self.logits = nn.Parameter(torch.zeros(config.num_components))

    def forward(self, infer: Infer) -> Latents:
        """The mixture as it is now."""
        return GaussianMixture(DiagonalGaussian(self.mean, self.log_var), self.logits.log_softmax(0))


# --------------------------------------------------------------------------------------- VampPrior


@config
class VampPriorConfig:
    """``num_components`` pseudo-inputs."""

    name: Literal["vampprior"] = "vampprior"
    num_components: Count = 500

    def build(self, dim: int, spec: DataSpec) -> Prior:
        """The prior for images of ``spec``."""
        return VampPrior(self, spec)


class VampPrior(Prior):
    """The mean of the posteriors of K learned images, the pseudo-inputs: ``1/K sum_k q(z | u_k)``.

    References:
        Tomczak & Welling 2018, "VAE with a VampPrior", eq. 9.
    """

    def __init__(self, config: VampPriorConfig, spec: DataSpec) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(config.num_components, *spec.shape))

    @property
    def pseudo_inputs(self) -> Tensor:
        """``(K, C, H, W)`` in (0, 1)."""
        return self.logits.sigmoid()

    def forward(self, infer: Infer) -> Latents:
        """The encoder's own posteriors, with equal weights."""
        components = infer(self.pseudo_inputs)
        count = len(self.logits)
        return GaussianMixture(components, self.logits.new_full((count,), -math.log(count)))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Softened images of the batch with noise that tells repetitions apart."""
        chosen = x[torch.arange(len(self.logits), device=x.device) % len(x)]
        logits = torch.logit(0.1 + 0.8 * chosen)
        self.logits.copy_(logits + 0.5 * torch.randn_like(logits))


# --------------------------------------------------------------------------------------- flow


@config
class FlowPriorConfig:
    """A RealNVP of ``num_flows`` affine couplings on codes of at least two dimensions."""

    name: Literal["flow"] = "flow"
    num_flows: Annotated[int, Ge(2)] = 4
    scale_bound: Positive = 2.0
    """Largest log-scale of a coupling."""
    net: MLPConfig = Field(default_factory=lambda: MLPConfig(hidden_dim=128, num_layers=2))

    def build(self, dim: int, spec: DataSpec) -> Prior:
        """The prior of ``dim``-dimensional codes.

        Raises:
            ConfigError: a single dimension has no halves.
        """
        return FlowPrior(self, dim)


class FlowPrior(Prior):
    """A normalising flow from codes to ``N(0, I)``, begun as the identity.

    References:
        Chen et al. 2017, "Variational lossy autoencoder", section 3.2 (with an autoregressive flow).
    """

    def __init__(self, config: FlowPriorConfig, dim: int) -> None:
        super().__init__()
        self.flow = coupling_flow(config, dim)
        self.base = StandardNormalPrior(dim)

    def forward(self, infer: Infer) -> Latents:
        """The flow as it is now."""
        return _Flow(self.flow, self.base(infer))


@dataclass(frozen=True)
class _Flow(Latents):
    bijection: Bijection
    base: Latents

    def log_prob(self, z: Tensor) -> Tensor:
        u, log_det = self.bijection(z.reshape(-1, z.shape[-1]))
        log_prob: Tensor = self.base.log_prob(u) + log_det
        return log_prob.view(z.shape[:-1])

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        return self.bijection.inverse(self.base.sample(n, generator))


def coupling_flow(config: FlowPriorConfig, dim: int) -> Bijection:
    """Affine couplings with the order reversed after each, on vectors ``(B, dim)``."""
    if dim < 2:
        raise ConfigError("model/prior=flow: a coupling needs a latent_dim of at least 2")
    coupling = affine(config.net, config.scale_bound)
    return Compose(coupling_chain(config.num_flows, dim, "reverse", False, coupling))


PriorConfig = Annotated[
    StandardNormalConfig | MixtureConfig | VampPriorConfig | FlowPriorConfig, Field(discriminator="name")
]
