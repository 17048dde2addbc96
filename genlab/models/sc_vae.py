"""SC-VAE: an autoencoder whose code is sparse over a learned dictionary, with a density of its features."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from genlab.config import Count, NonNegative, config
from genlab.models.autoencoder import Autoencoder
from genlab.nets.autoencoder import NetConfig, decoder, encoder
from genlab.nets.gaussian import DiagonalGaussian, Latents
from genlab.nets.lista import LISTA, Dictionary, LISTAConfig, lasso_objective
from genlab.nets.pixels import PixelLikelihoodConfig
from genlab.nets.priors import FlowPriorConfig, MixtureConfig
from genlab.registry import MODELS
from genlab.types import Batch, DataSpec, Stage, Update

_MOMENTUM = 0.05  # of running statistics: they look back over some twenty batches
_EPS = 1e-8  # beside the variance of a raw feature, which begins at about 1e-4


@config
class SCVAEConfig:
    """Settings of :class:`SCVAE`; ``alpha`` weighs the l1 norm in the lasso, ``lasso_weight`` the lasso.

    The prior is one that learns from features alone: a flow or a mixture.
    """

    name: Literal["sc_vae"] = "sc_vae"
    feature_dim: Count = 64
    """Dimensions of a feature."""
    num_atoms: Count = 256
    """Columns of the dictionary."""
    alpha: NonNegative = 1.0
    lasso_weight: NonNegative = 1.0
    lista: LISTAConfig
    encoder: NetConfig
    decoder: NetConfig
    likelihood: PixelLikelihoodConfig
    prior: Annotated[FlowPriorConfig | MixtureConfig, Field(discriminator="name")]


@MODELS.register("sc_vae")
class SCVAE(Autoencoder):
    """Image -> features ``f`` -> sparse codes ``s`` by a learned ISTA -> ``D s`` -> image.

    The stage ``autoencoder`` minimises, in nats per image,
    ``-log p(x | D s) + lasso_weight (1/2 ||f - D s||^2 + alpha ||s||_1)``.
    The lasso has the factor 1/2 of ISTA, so that the codes and the loss are of one objective (without it, as
    the paper has it, alpha counts half). Features are standardised over the batch: otherwise the l1 norm is
    had for nothing by an encoder that shrinks them while the decoder enlarges.

    The stage ``prior`` fits a density of the features of the autoencoder, which stays as it is; a sample is a
    feature of that density, coded and decoded. It is no density of pixels: there is no ``log_prob``.

    References:
        Xiao et al. 2023, "SC-VAE: Sparse coding-based variational autoencoder with learned ISTA" (on feature
        maps, with a fixed orthogonal dictionary); Olshausen & Field 1997, "Sparse coding with an overcomplete
        basis set" (a learned dictionary).
    """

    Config = SCVAEConfig
    feature_mean: Tensor
    feature_var: Tensor

    def __init__(self, config: SCVAEConfig, spec: DataSpec) -> None:
        super().__init__(spec)
        self.config = config
        self.pixels = config.likelihood.build(spec)
        self.encoder = encoder(config.encoder, spec.shape, config.feature_dim)
        self.decoder = decoder(config.decoder, config.feature_dim, self.pixels.shape)
        self.dictionary = Dictionary(config.feature_dim, config.num_atoms)
        self.lista = LISTA(config.lista, self.dictionary(), config.alpha)
        self.prior = config.prior.build(config.feature_dim, spec)
        self.register_buffer("feature_mean", torch.zeros(config.feature_dim))
        self.register_buffer("feature_var", torch.ones(config.feature_dim))

    # ------------------------------------------------------------------ the model

    def features(self, x: Tensor, learning: bool = False) -> Tensor:
        """Standardised ``(B, d)`` of images in [0, 1]: over this batch where ``learning``, else over those
        before."""
        raw = self.encoder(x).float()
        mean, var = self.feature_mean, self.feature_var
        return F.batch_norm(raw, mean, var, training=learning, momentum=_MOMENTUM, eps=_EPS)

    def codes(self, features: Tensor) -> Tensor:
        """Sparse ``(B, K)`` of features ``(B, d)``."""
        codes: Tensor = self.lista(features, self.dictionary())
        return codes

    def planes(self, codes: Tensor) -> Tensor:
        """What the decoder says of ``D s``: ``(B, planes, H, W)``."""
        planes: Tensor = self.decoder(codes @ self.dictionary().T)
        return planes.float()

    def latents(self) -> Latents:
        """The density of features as it is now."""
        latents: Latents = self.prior(_no_posterior)
        return latents

    # ------------------------------------------------------------------ training

    def stages(self) -> Sequence[Stage]:
        """``autoencoder``, then ``prior``."""
        autoencoder, prior = self.parameters_outside(self.prior), list(self.prior.parameters())
        return [Stage("autoencoder", {"autoencoder": autoencoder}), Stage("prior", {"prior": prior})]

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        """One: of the autoencoder, or of the density of its features."""
        x = self.pixels.observe(batch.x)
        yield self._autoencoder(x) if stage == "autoencoder" else self._prior(x)

    def graph_key(self, stage: str, step: int) -> Hashable:
        """All iterations of a stage are alike."""
        return stage

    def _autoencoder(self, x: Tensor) -> Update:
        config, atoms = self.config, self.dictionary()
        features = self.features(x, learning=self.training)
        codes = self.lista(features, atoms)
        reconstruction = -self.pixels.log_prob(self.decoder(codes @ atoms.T).float(), x).mean()
        lasso = lasso_objective(features, atoms, codes, config.alpha).mean()
        logs = {"reconstruction": reconstruction, "lasso": lasso}
        return Update(
            "autoencoder",
            reconstruction + config.lasso_weight * lasso,
            logs | _statistics(features, atoms, codes),
        )

    def _prior(self, x: Tensor) -> Update:
        with torch.no_grad():
            features = self.features(x)
        log_prob = self.latents().log_prob(features).mean()
        return Update("prior", -log_prob, {"feature_log_prob": log_prob})

    def compiled(self) -> Sequence[nn.Module]:
        """The two networks."""
        return [self.encoder, self.decoder]

    # ------------------------------------------------------------------ images and codes

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Sparse codes ``(B, num_atoms)`` of uint8 images, seen without noise."""
        return self.codes(self.features(self.pixels.expected(x)))

    @torch.no_grad()
    def atoms(self) -> Tensor:
        """Uint8 ``(num_atoms, C, H, W)``: the mean image where an atom alone makes up the feature.

        Its code is then ``sqrt(feature_dim)``, the norm of standardised features. Codes in use are a fraction
        of that, and what the decoder makes of one so small is hardly more than the mean of all images.
        """
        size = self.config.feature_dim**0.5
        return self.decode(size * torch.eye(self.config.num_atoms, device=self.feature_mean.device))

    def draw(self, n: int, generator: Generator | None, temperature: float) -> Tensor:
        """Mean images ``(n, C, H, W)`` of features drawn from the prior; ``temperature`` scales them."""
        return self.decode(self.codes(temperature * self.latents().sample(n, generator)))


@torch.no_grad()
def _statistics(features: Tensor, atoms: Tensor, codes: Tensor) -> dict[str, Tensor]:
    """What became of the features, per image; ``used_atoms`` of the whole batch."""
    active = codes != 0
    return {
        "feature_error": (features - codes @ atoms.T).square().sum(1).mean(),
        "l1": codes.abs().sum(1).mean(),
        "sparsity": (~active).float().mean(),
        "active_atoms": active.float().sum(1).mean(),
        "used_atoms": active.any(0).float().sum(),
    }


def _no_posterior(x: Tensor) -> DiagonalGaussian:
    raise NotImplementedError("the encoder of an SC-VAE is deterministic")
