"""Normalising flows on pixels: exact likelihood through a bijection and a standard normal base."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import torch
from torch import Generator, Tensor

from genlab import likelihood
from genlab.models.base import UnconditionalModel
from genlab.nets.bijections import Bijection
from genlab.nets.gaussian import standard_normal_log_prob
from genlab.types import Batch, DataSpec, LikelihoodKind, Update


class Flow(UnconditionalModel):
    """``p(x) = N(f(logit(x)); 0, I) |det df/dx|`` of uniformly dequantised images.

    Args:
        spec: shape of the images.
        bijection: ``f``, from ``(B, C, H, W)`` on the real line to the base space.
        alpha: of the logit map, see :func:`genlab.likelihood.logit`.

    References:
        Dinh et al. 2017, "Density estimation using Real NVP", eq. 2.
    """

    likelihood: LikelihoodKind = "exact"

    def __init__(self, spec: DataSpec, bijection: Bijection, alpha: float) -> None:
        super().__init__(spec)
        self.bijection, self.alpha = bijection, alpha
        self.protocol = f"uniform dequantisation, (x + u) / 256, logit with alpha={alpha:g}"
        with torch.no_grad():
            origin, _ = bijection(torch.zeros(1, *spec.shape))
        self.latent_shape = origin.shape[1:]

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Code and log-density of dequantised ``x`` in [0, 1).

        Returns:
            ``z`` of the base space, and the terms of the log-density in nats per image ``(B,)``:
            ``log_prior`` of ``z``, and ``log_det`` of everything from the 256 levels to ``z``.
        """
        y, log_det_logit = likelihood.logit(x, self.alpha)
        z, log_det = self.bijection(y)
        log_prior = standard_normal_log_prob(z)
        log_det = likelihood.to_levels(log_det_logit + log_det, self.spec.dim)
        return z, {"log_prior": log_prior, "log_det": log_det}

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        """One: the negative log-likelihood in nats per image."""
        _, terms = self(likelihood.dequantise(batch.x))
        logs = {name: term.mean() for name, term in terms.items()}
        loss = -(logs["log_prior"] + logs["log_det"])
        logs["bits_per_dim"] = likelihood.bits_per_dim(-loss, self.spec.dim)
        yield Update("model", loss, logs)

    def graph_key(self, stage: str, step: int) -> Hashable:
        """All iterations are alike."""
        return stage

    @torch.no_grad()
    def initialize(self, batch: Batch) -> None:
        """Normalise each ActNorm on the first batch."""
        y, _ = likelihood.logit(likelihood.dequantise(batch.x), self.alpha)
        self.bijection.initialize(y)

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Nats per image ``(B,)``: exact for the dequantised image, with fresh noise at each call."""
        _, terms = self(likelihood.dequantise(x))
        log_prob: Tensor = terms["log_prior"] + terms["log_det"]
        return log_prob

    def draw(self, n: int, generator: Generator | None, temperature: float) -> Tensor:
        """Images ``(n, C, H, W)``; ``temperature`` scales the standard deviation of the base."""
        z = torch.randn(n, *self.latent_shape, device=self.device, generator=generator)
        return self.decode(temperature * z)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Codes of the base space, ``(B, D)`` or in its shape, -> uint8 images."""
        pixels = likelihood.sigmoid(self.bijection.inverse(z.view(-1, *self.latent_shape)), self.alpha)
        return likelihood.quantise(pixels)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Codes ``(B, D)`` of the middle of each pixel's level."""
        z: Tensor = self(likelihood.centre(x))[0]
        return z.flatten(1)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """``x`` through the flow and back: the same images where the inverse is accurate."""
        z, _ = self(likelihood.centre(x))
        return self.decode(z)
