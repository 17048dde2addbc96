"""Variational autoencoders: a prior, a decoder with a likelihood, an encoder, an objective."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from genlab.config import Count, NonNegative, config
from genlab.models.autoencoder import Autoencoder
from genlab.nets.autoencoder import NetConfig, decoder, encoder
from genlab.nets.gaussian import DiagonalGaussian, Latents
from genlab.nets.pixels import PixelLikelihoodConfig
from genlab.nets.priors import PriorConfig
from genlab.objectives import ObjectiveConfig, Warmup
from genlab.registry import MODELS
from genlab.types import Batch, BoundTerms, DataSpec, LikelihoodKind, Stage, Update

_MAX_LOG_VAR = 20.0  # far from its training images an encoder may ask for 100, and no bound is finite
_CHUNK = 2**24  # numbers that a decoder gives at once where many codes are wanted: memory stays flat


@config
class VAEConfig:
    """Settings of :class:`VAE`; ``eval_samples`` importance samples make up ``log_prob``."""

    name: Literal["vae"] = "vae"
    latent_dim: Count = 10
    """Dimensions of a code."""
    beta: NonNegative = 1.0
    encoder: NetConfig
    decoder: NetConfig
    likelihood: PixelLikelihoodConfig
    prior: PriorConfig
    objective: ObjectiveConfig
    warmup: Warmup
    eval_samples: Count = 10
    sample_pixels: bool = False


@dataclass(frozen=True)
class ELBOTerms:
    """One code ``z`` ``(B, D)`` for each image, and the terms of the bound in nats.

    ``reconstruction`` ``(B,)`` is ``-log p(x|z)``; ``kl`` ``(B, D)`` is of each dimension, ``(B, 1)`` where
    the prior is no product.
    """

    q: DiagonalGaussian
    z: Tensor
    prior: Latents
    reconstruction: Tensor
    kl: Tensor

    def logs(self) -> dict[str, Tensor]:
        """Means over the batch."""
        reconstruction, kl = self.reconstruction.mean(), self.kl.sum(-1).mean()
        return {"nelbo": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}


@MODELS.register("vae")
class VAE(Autoencoder):
    """``p(x) = int p(x|z) p(z) dz``, with ``q(z|x)`` a Gaussian of diagonal covariance.

    A beta-VAE, an IWAE, a VAE with a VampPrior differ from it by their settings alone.

    References:
        Kingma & Welling 2014, "Auto-encoding variational Bayes".
    """

    Config = VAEConfig
    likelihood: LikelihoodKind = "bound"

    def __init__(self, config: VAEConfig, spec: DataSpec) -> None:
        super().__init__(spec)
        self.config, self.beta, self.latent_dim = config, config.beta, config.latent_dim
        self.pixels = config.likelihood.build(spec)
        self.encoder = encoder(config.encoder, spec.shape, 2 * config.latent_dim)
        self.decoder = decoder(config.decoder, config.latent_dim, self.pixels.shape)
        self.prior = config.prior.build(config.latent_dim, spec)
        self.objective = config.objective.build(config.latent_dim)
        self.levels = self.pixels.levels
        self.protocol = f"{self.pixels.protocol}; {config.eval_samples} importance samples where no m is named"

    # ------------------------------------------------------------------ the model

    def infer(self, x: Tensor) -> DiagonalGaussian:
        """``q(z|x)`` of images in [0, 1]."""
        mean, log_var = self.encoder(x).float().chunk(2, dim=1)
        return DiagonalGaussian(mean, log_var.clamp(max=_MAX_LOG_VAR))

    def planes(self, z: Tensor) -> Tensor:
        """What the decoder says of codes ``(..., D)``: ``(..., planes, H, W)``."""
        planes: Tensor = self.decoder(z.reshape(-1, z.shape[-1])).float()
        return planes.view(*z.shape[:-1], *planes.shape[1:])

    def log_prob_given(self, z: Tensor, x: Tensor) -> Tensor:
        """``log p(x|z)`` in nats per image ``(..., B)``, of codes ``(..., B, D)`` and observed images."""
        return self.pixels.log_prob(self.planes(z), x)

    def forward(self, x: Tensor) -> ELBOTerms:
        """The terms of the evidence lower bound of observed images."""
        q = self.infer(x)
        z = q.rsample(1)[0]
        prior = self.prior(self.infer)
        return ELBOTerms(q, z, prior, -self.log_prob_given(z, x), prior.kl(q, z))

    # ------------------------------------------------------------------ training

    def stages(self) -> Sequence[Stage]:
        """One; an objective with parameters of its own (FactorVAE's discriminator) makes a second group."""
        others = list(self.objective.parameters())
        model = self.parameters_outside(self.objective)
        return [Stage("train", {"model": model} | ({"discriminator": others} if others else {}))]

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        """Those of the objective; held-out images are scored with the penalty at its full weight."""
        warmup = self.config.warmup.weight(step) if self.training else 1.0
        yield from self.objective.updates(self, self.pixels.observe(batch.x), step, warmup)

    def graph_key(self, stage: str, step: int) -> Hashable:
        """The weight of the penalty and the objective's own key: a warm-up ends before anything is recorded."""
        return self.config.warmup.weight(step), self.objective.graph_key(step)

    @torch.no_grad()
    def initialize(self, batch: Batch) -> None:
        """Begin a VampPrior from images of the first batch."""
        self.prior.initialize(self.pixels.expected(batch.x))

    def compiled(self) -> Sequence[nn.Module]:
        """The ELBO as a whole, and the two networks for the objectives that look at them apart."""
        return [self, self.encoder, self.decoder]

    # ------------------------------------------------------------------ scores

    def observe(self, x: Tensor) -> Tensor:
        """What is scored of uint8 images: binarised or dequantised, with fresh noise at each call."""
        return self.pixels.observe(x)

    def bound_terms(self, x: Tensor, num_samples: int) -> BoundTerms:
        """``num_samples`` importance samples for each observed image, some thousand codes at a time."""
        q, prior = self.infer(x), self.prior(self.infer)
        reconstruction, kl = [], []
        chunk = max(1, _CHUNK // (len(x) * math.prod(self.pixels.shape)))
        for start in range(0, num_samples, chunk):
            z = q.rsample(min(chunk, num_samples - start))
            reconstruction.append(-self.log_prob_given(z, x))
            kl.append(q.log_prob(z) - prior.log_prob(z))
        return BoundTerms(torch.cat(reconstruction), torch.cat(kl))

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Nats per image ``(B,)``: the importance-weighted bound (Burda et al. 2016) of ``eval_samples``."""
        return self.bound_terms(self.observe(x), self.config.eval_samples).bound()

    # ------------------------------------------------------------------ images and codes

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        """``q(z|x)`` of uint8 images, seen without the noise of binarisation or dequantisation."""
        return self.infer(self.pixels.expected(x))

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The posterior's mean ``(B, D)``."""
        return self.posterior(x).mean

    def draw(self, n: int, generator: Generator | None, temperature: float) -> Tensor:
        """Images ``(n, C, H, W)``: the means of ``p(x|z)``, or draws from it with ``sample_pixels``.

        ``temperature`` scales codes of the prior.
        """
        z = temperature * self.prior(self.infer).sample(n, generator)
        planes = self.planes(z)
        return self.pixels.sample(planes, generator) if self.config.sample_pixels else self.pixels.mean(planes)
