"""Latent-space RealNVP: an autoencoder, and a flow of its codes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Generator, Tensor, nn

from genlab.config import config
from genlab.models.autoencoder import Autoencoder
from genlab.nets.autoencoder import NetConfig, decoder, encoder
from genlab.nets.code_flow import CodeFlow, CodeFlowConfig
from genlab.nets.pixels import PixelLikelihoodConfig
from genlab.registry import MODELS
from genlab.types import Batch, DataSpec, Stage, Update


@config
class LatentRealNVPConfig(CodeFlowConfig):
    """Settings of :class:`LatentRealNVP`: those of the flow, and of the autoencoder."""

    name: Literal["latent_realnvp"] = "latent_realnvp"
    latent_dim: Annotated[int, Ge(2)] = 32
    """Dimensions of a code."""
    encoder: NetConfig
    decoder: NetConfig
    likelihood: PixelLikelihoodConfig


@MODELS.register("latent_realnvp")
class LatentRealNVP(Autoencoder):
    """Image -> code ``h`` -> image, without chance, and ``p(h)`` by a RealNVP.

    The stage ``autoencoder`` minimises ``-log p(x | h(x))``, the stage ``flow`` the negative log-density of
    codes of the autoencoder, which stays as it is. A sample is the mean image of a code drawn from the flow.

    ``code_log_prob`` is the density of the code that ``encode`` gives, in its own units: it is no density of
    pixels (there is no ``log_prob``), and codes of another autoencoder have another. The statistics that
    standardise codes for the flow are gathered during the first stage, so that every ActNorm begins at what
    it would be initialised to.

    References:
        Dinh et al. 2017, "Density estimation using Real NVP"; on codes of a deterministic autoencoder
        Böhm & Seljak 2022, "Probabilistic autoencoder".
    """

    Config = LatentRealNVPConfig

    def __init__(self, config: LatentRealNVPConfig, spec: DataSpec) -> None:
        super().__init__(spec)
        self.config = config
        self.pixels = config.likelihood.build(spec)
        self.encoder = encoder(config.encoder, spec.shape, config.latent_dim)
        self.decoder = decoder(config.decoder, config.latent_dim, self.pixels.shape)
        self.flow = CodeFlow(config, config.latent_dim)
        self.protocol = f"{self.flow.protocol}, of codes of an autoencoder ({self.pixels.protocol})"

    def codes(self, x: Tensor) -> Tensor:
        """Uint8 images -> codes ``(B, latent_dim)``; seen without noise of the likelihood."""
        codes: Tensor = self.encoder(self.pixels.expected(x))
        return codes.float()

    def planes(self, codes: Tensor) -> Tensor:
        """What the decoder says of codes: ``(B, planes, H, W)``."""
        planes: Tensor = self.decoder(codes)
        return planes.float()

    # ------------------------------------------------------------------ training

    def stages(self) -> Sequence[Stage]:
        """``autoencoder``: encoder, decoder, likelihood; then ``flow``."""
        autoencoder, flow = self.parameters_outside(self.flow), list(self.flow.parameters())
        return [Stage("autoencoder", {"autoencoder": autoencoder}), Stage("flow", {"flow": flow})]

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        """One in each stage."""
        yield self._autoencoder(batch.x) if stage == "autoencoder" else self._flow(batch.x)

    def graph_key(self, stage: str, step: int) -> Hashable:
        """All iterations of a stage are alike."""
        return stage

    def _autoencoder(self, x: Tensor) -> Update:
        """``-log p(x|h)`` in nats per image."""
        codes = self.codes(x)
        if self.training:
            self.flow.standardise.track(codes)
        reconstruction = -self.pixels.log_prob(self.planes(codes), self.pixels.observe(x)).mean()
        return Update("autoencoder", reconstruction, {"reconstruction": reconstruction})

    def _flow(self, x: Tensor) -> Update:
        """``-log p(h)`` in nats per code."""
        with torch.no_grad():
            codes = self.codes(x)
        return Update("flow", *self.flow.fit(codes))

    def compiled(self) -> Sequence[nn.Module]:
        """The three networks."""
        return [self.encoder, self.decoder, self.flow]

    # ------------------------------------------------------------------ images and codes

    def code_log_prob(self, x: Tensor) -> Tensor:
        """Nats per code ``(B,)`` of uint8 images."""
        return self.flow.log_prob(self.codes(x))

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Codes ``(B, latent_dim)`` of uint8 images."""
        return self.codes(x)

    def draw(self, n: int, generator: Generator | None, temperature: float) -> Tensor:
        """Mean images ``(n, C, H, W)`` of codes drawn from the flow; ``temperature`` scales its base."""
        return self.decode(self.flow.sample(n, generator, temperature))
