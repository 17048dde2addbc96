"""What a generator draws its images from."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from genlab.config import Positive, config


@config
class NormalNoise:
    """N(0, 1) in each dimension."""

    name: Literal["normal"] = "normal"

    def sample(self, n: int, dim: int, device: torch.device, generator: Generator | None = None) -> Tensor:
        """``(n, dim)``."""
        return torch.randn(n, dim, device=device, generator=generator)


@config
class UniformNoise:
    """U(-1, 1) in each dimension (Radford et al. 2016, "Unsupervised representation learning with DCGANs")."""

    name: Literal["uniform"] = "uniform"

    def sample(self, n: int, dim: int, device: torch.device, generator: Generator | None = None) -> Tensor:
        """``(n, dim)``."""
        return 2 * torch.rand(n, dim, device=device, generator=generator) - 1


@config
class TruncatedNoise:
    """N(0, 1) given that no dimension is further from 0 than ``threshold``.

    Less varied and more typical images (Brock et al. 2019, "Large scale GAN training", section 3.1): also for
    a generator that was trained on :class:`NormalNoise`.
    """

    name: Literal["truncated"] = "truncated"
    threshold: Positive = 2.0

    def sample(self, n: int, dim: int, device: torch.device, generator: Generator | None = None) -> Tensor:
        """``(n, dim)``, by the inverse of the distribution function."""
        uniform = torch.rand(n, dim, device=device, generator=generator)
        tail = torch.special.ndtr(torch.tensor(-self.threshold, device=device))
        z: Tensor = torch.special.ndtri(tail + (1 - 2 * tail) * uniform)
        return z.clamp(-self.threshold, self.threshold)


NoiseConfig = Annotated[NormalNoise | UniformNoise | TruncatedNoise, Field(discriminator="name")]
