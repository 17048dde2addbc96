"""A model outside the package: every pixel is an independent Gaussian.

genlab train --config-dir conf plugins=[my_models] model=gaussian dataset=fashion_mnist trainer.epochs=1
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from genlab import likelihood
from genlab.config import Positive, config
from genlab.models.base import Model
from genlab.registry import MODELS
from genlab.types import Batch, DataSpec, LikelihoodKind, Update


@config
class GaussianConfig:
    """``min_scale`` keeps a pixel that never changes from being infinitely likely."""

    name: str = "gaussian"
    min_scale: Positive = 0.01


@MODELS.register("gaussian")
class Gaussian(Model):
    """Mean and standard deviation for each pixel, of images in [0, 1)."""

    Config = GaussianConfig
    likelihood: LikelihoodKind = "exact"
    protocol = "uniform dequantisation, (x + u) / 256, an independent Gaussian for each pixel"

    def __init__(self, config: GaussianConfig, spec: DataSpec) -> None:
        super().__init__(spec)
        self.min_scale = config.min_scale
        self.mean = nn.Parameter(torch.full(spec.shape, 0.5))
        self.raw_scale = nn.Parameter(torch.zeros(spec.shape))

    @property
    def pixels(self) -> torch.distributions.Normal:
        """The distribution of each pixel."""
        return torch.distributions.Normal(self.mean, self.min_scale + F.softplus(self.raw_scale))

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        """One: the negative log-likelihood in nats per image."""
        loss = -self.log_prob(batch.x).mean()
        yield Update("model", loss, {"bits_per_dim": likelihood.bits_per_dim(-loss, self.spec.dim)})

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Nats per image ``(B,)`` on the 256-level scale."""
        density = self.pixels.log_prob(likelihood.dequantise(x)).flatten(1).sum(1)
        return likelihood.to_levels(density, self.spec.dim)

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        """Images, uint8 ``(n, C, H, W)``."""
        noise = torch.randn(n, *self.spec.shape, device=self.mean.device, generator=generator)
        return likelihood.quantise(self.pixels.mean + self.pixels.stddev * noise)
