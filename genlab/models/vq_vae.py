"""VQ-VAE: images as grids of discrete codes, and an autoregressive prior of the grids."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from genlab.config import Count, NonNegative, ProperFraction, config
from genlab.errors import ConfigError
from genlab.models.base import UnconditionalModel
from genlab.nets.autoencoder import ConvDown, ConvUp, FeatureMapConfig
from genlab.nets.mlp import activation
from genlab.nets.pixelcnn import PixelCNN, PixelCNNConfig, bits_per_code
from genlab.nets.pixels import PixelLikelihoodConfig
from genlab.nets.quantizer import VectorQuantizer, perplexity, straight_through
from genlab.registry import MODELS
from genlab.types import Batch, DataSpec, LikelihoodKind, Stage, Update


@config
class VQVAEConfig:
    """Settings of :class:`VQVAE`.

    ``net`` is of the encoder and, mirrored, of the decoder; the codes stand at the places of its feature map.
    ``restart_threshold``: see :class:`~genlab.nets.quantizer.VectorQuantizer`.
    """

    name: Literal["vq_vae"] = "vq_vae"
    embedding_dim: Count = 16
    """Dimensions of a code."""
    num_codes: Count = 256
    """Codes in the codebook."""
    commitment: NonNegative = 0.25
    codebook_decay: ProperFraction = 0.99
    restart_threshold: ProperFraction = 0.1
    net: FeatureMapConfig
    likelihood: PixelLikelihoodConfig
    prior: PixelCNNConfig


@MODELS.register("vq_vae")
class VQVAE(UnconditionalModel):
    """``p(x) = sum_codes p(x|codes) p(codes)``; an image has one grid of codes, the nearest to its encodings.

    Stage ``codes`` trains the autoencoder through the quantiser, stage ``prior`` the PixelCNN on the codes that
    come of it. The likelihood is a bound by the posterior that is sure of its codes, whose entropy is zero:
    ``log p(x) >= log p(x|codes(x)) + log p(codes(x))``. It holds at any time, and is of use once the prior has
    been trained.

    References:
        van den Oord et al. 2017, "Neural discrete representation learning".
    """

    Config = VQVAEConfig
    likelihood: LikelihoodKind = "bound"

    def __init__(self, config: VQVAEConfig, spec: DataSpec) -> None:
        super().__init__(spec)
        self.config = config
        self.pixels = config.likelihood.build(spec)
        down, up = ConvDown(config.net, spec.shape), ConvUp(config.net, self.pixels.shape)
        self.grid = (down.height, down.width)
        if self.grid != up.in_shape[1:]:
            raise ConfigError(
                f"model=vq_vae: {spec} images become {down.height}x{down.width} codes, and the decoder takes "
                f"{up.in_shape[1]}x{up.in_shape[2]}; give fewer model.net.channels, or images that can be "
                "halved so often (dataset.image_size)"
            )
        dim = config.embedding_dim
        self.encoder = nn.Sequential(down, nn.Conv2d(down.out_shape[0], dim, 1))
        self.decoder = nn.Sequential(
            nn.Conv2d(dim, up.in_shape[0], 3, padding=1), activation(config.net.activation), up
        )
        self.quantizer = VectorQuantizer(config.num_codes, dim, config.codebook_decay, config.restart_threshold)
        self.prior = PixelCNN(config.prior, config.num_codes)
        self.levels = self.pixels.levels
        self.protocol = (
            f"{self.pixels.protocol}; one grid of codes for each image, log p(x|codes) + log p(codes), "
            "with the prior as far as stage 'prior' has trained it"
        )

    # ------------------------------------------------------------------ the model

    def embed(self, x: Tensor) -> Tensor:
        """Uint8 images -> what is quantised, ``(B, h, w, D)``; seen without noise of the likelihood."""
        z: Tensor = self.encoder(2 * self.pixels.expected(x) - 1)
        return z.float().movedim(1, -1)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """Uint8 images -> codes ``(B, h, w)``, int64."""
        return self.quantizer.nearest(self.embed(x))

    def planes(self, vectors: Tensor) -> Tensor:
        """What the decoder says of quantised vectors ``(B, h, w, D)``: ``(B, planes, H, W)``."""
        planes: Tensor = self.decoder(vectors.movedim(-1, 1))
        return planes.float()

    # ------------------------------------------------------------------ training

    def stages(self) -> Sequence[Stage]:
        """``codes``: encoder, decoder, likelihood; ``prior``: the PixelCNN."""
        model = [*self.encoder.parameters(), *self.decoder.parameters(), *self.pixels.parameters()]
        return [Stage("codes", {"model": model}), Stage("prior", {"prior": list(self.prior.parameters())})]

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        """One in each stage."""
        yield self._code_update(batch.x) if stage == "codes" else self._prior_update(batch.x)

    def graph_key(self, stage: str, step: int) -> Hashable:
        """All iterations of a stage are alike."""
        return stage

    def _code_update(self, x: Tensor) -> Update:
        """``-log p(x|codes)`` and the commitment of encodings to their codes, in nats and squares per image."""
        z = self.embed(x)
        codes = self.quantizer.nearest(z)
        vectors = self.quantizer.vectors(codes)
        commitment = (z - vectors).square().flatten(1).sum(1).mean()
        planes = self.planes(straight_through(z, vectors))
        reconstruction = -self.pixels.log_prob(planes, self.pixels.observe(x)).mean()
        if self.training:
            self.quantizer.update(z, codes)
        usage = self.quantizer.usage(codes)
        logs = {
            "reconstruction": reconstruction,
            "commitment": commitment,
            "perplexity": perplexity(usage),
            "codes_used": (usage > 0).float().sum(),
        }
        return Update("model", reconstruction + self.config.commitment * commitment, logs)

    def _prior_update(self, x: Tensor) -> Update:
        """``-log p(codes)``."""
        nats = -self.prior.log_prob(self.codes(x)).mean()
        logs = {"prior_nats": nats, "prior_bits_per_code": bits_per_code(nats, self.grid)}
        return Update("prior", nats, logs)

    @torch.no_grad()
    def initialize(self, batch: Batch) -> None:
        """Begin the codebook at encodings of the first batch."""
        self.quantizer.initialize(self.embed(batch.x))

    def compiled(self) -> Sequence[nn.Module]:
        """The three networks."""
        return [self.encoder, self.decoder, self.prior]

    # ------------------------------------------------------------------ scores

    @torch.no_grad()
    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Nats per image ``(B,)``: the bound ``log p(x|codes(x)) + log p(codes(x))``."""
        codes = self.codes(x)
        planes = self.planes(self.quantizer.vectors(codes))
        return self.pixels.log_prob(planes, self.pixels.observe(x)) + self.prior.log_prob(codes)

    # ------------------------------------------------------------------ images and codes

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Encodings ``(B, h * w * D)`` before they are quantised."""
        return self.embed(x).flatten(1)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Encodings ``(B, h * w * D)`` -> the mean image of their nearest codes, uint8."""
        return self._image(self.quantizer.nearest(z.view(len(z), *self.grid, -1)))

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean image of the codes of ``x``."""
        return self._image(self.codes(x))

    def draw(self, n: int, generator: Generator | None, temperature: float) -> Tensor:
        """Images ``(n, C, H, W)``: the mean images of codes that the PixelCNN draws at ``temperature``."""
        return self._image(self.prior.sample(n, self.grid, generator, temperature))

    def _image(self, codes: Tensor) -> Tensor:
        return self.pixels.mean(self.planes(self.quantizer.vectors(codes)))
