"""Distributions of codes: Gaussians with a diagonal covariance, mixtures of them, flows.

A prior is one that has ``log_prob``, ``sample`` and ``kl``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

_LOG_2PI = math.log(2 * math.pi)


def standard_normal_log_prob(x: Tensor) -> Tensor:
    """Of images ``(B, ...)`` of any shape: nats per image ``(B,)``.

    >>> standard_normal_log_prob(torch.zeros(1, 2))  # -log(2 pi)
    tensor([-1.8379])
    """
    return (-0.5 * (x.square() + _LOG_2PI)).flatten(1).sum(1)


@dataclass(frozen=True)
class DiagonalGaussian:
    """``N(mean, diag(exp(log_var)))``, one for each row; both ``(..., D)``.

    >>> DiagonalGaussian(torch.tensor([0.0, 2.0]), torch.zeros(2)).kl_to_standard_normal()  # mean^2 / 2
    tensor([0., 2.])
    """

    mean: Tensor
    log_var: Tensor

    def rsample(self, num_samples: int) -> Tensor:
        """``(num_samples, ..., D)``, differentiable in mean and log-variance."""
        noise = torch.randn(num_samples, *self.mean.shape, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + (0.5 * self.log_var).exp() * noise

    def log_prob_per_dim(self, z: Tensor) -> Tensor:
        """Log-density of each coordinate, of the shape that ``z`` and the parameters broadcast to."""
        return -0.5 * ((z - self.mean).square() * (-self.log_var).exp() + self.log_var + _LOG_2PI)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats, summed over the last dimension."""
        return self.log_prob_per_dim(z).sum(-1)

    def detach(self) -> DiagonalGaussian:
        """The same, cut off from the graph."""
        return DiagonalGaussian(self.mean.detach(), self.log_var.detach())

    def kl_to_standard_normal(self) -> Tensor:
        """``KL(self || N(0, 1))`` of each coordinate in nats ``(..., D)``.

        References:
            Kingma & Welling 2014, "Auto-encoding variational Bayes", appendix B.
        """
        return 0.5 * (self.mean.square() + self.log_var.exp() - 1 - self.log_var)


class Latents:
    """A distribution over codes ``(..., D)``."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats, summed over the last dimension."""
        raise NotImplementedError

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """``(n, D)``."""
        raise NotImplementedError

    def kl(self, q: DiagonalGaussian, z: Tensor) -> Tensor:
        """``KL(q || self)`` in nats, ``(..., D)`` of each coordinate where it is a sum over them and known;
        otherwise ``(..., 1)``, unbiasedly from ``z ~ q``."""
        return (q.log_prob(z) - self.log_prob(z)).unsqueeze(-1)


@dataclass(frozen=True)
class StandardNormal(Latents):
    """``N(0, I)`` in ``dim`` dimensions."""

    dim: int
    device: torch.device

    def kl(self, q: DiagonalGaussian, z: Tensor) -> Tensor:
        """In closed form."""
        return q.kl_to_standard_normal()

    def log_prob(self, z: Tensor) -> Tensor:
        """Nats, summed over the last dimension."""
        return -0.5 * (z.square() + _LOG_2PI).sum(-1)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """``(n, D)``."""
        return torch.randn(n, self.dim, device=self.device, generator=generator)


@dataclass(frozen=True)
class GaussianMixture(Latents):
    """``sum_k exp(log_weights_k) N(z; components_k)``: ``components`` ``(K, D)``, ``log_weights`` ``(K,)``."""

    components: DiagonalGaussian
    log_weights: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        """``z`` ``(..., D)`` -> nats ``(...)``.

        The quadratic form is two matrix products: ``(..., K, D)`` is never held. They cancel for the most
        part, which costs whole nats in TF32 and some hundredths in float32 where components are narrow.
        """
        wide = z.dtype if z.device.type == "mps" else torch.float64  # Metal has no float64
        mean, log_var = self.components.mean.to(wide), self.components.log_var.to(wide)
        precision, code = (-log_var).exp(), z.to(wide)
        constant = (mean.square() * precision + log_var + _LOG_2PI).sum(-1)
        with torch.autocast(z.device.type, enabled=False):
            square = code.square() @ precision.T - 2 * code @ (mean * precision).T
        return torch.logsumexp(self.log_weights - 0.5 * (square + constant), dim=-1).to(z.dtype)

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """``(n, D)``."""
        chosen = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator)
        mean, log_var = self.components.mean[chosen], self.components.log_var[chosen]
        noise = torch.randn(mean.shape, device=mean.device, generator=generator)
        return mean + (0.5 * log_var).exp() * noise
