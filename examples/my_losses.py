"""What a GAN and a VAE minimise, outside the package: Pearson's divergence, and a penalty by kernels.

genlab train --config-dir conf plugins=[my_losses] model=gan model/loss=pearson trainer.epochs=1
genlab train --config-dir conf plugins=[my_losses] model=vae model/objective=mmd trainer.epochs=1
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor

from genlab.adversarial import LOSSES, Loss
from genlab.config import NonNegative, config
from genlab.models.vae import VAE
from genlab.objectives import OBJECTIVES, Objective
from genlab.types import Update


@LOSSES.register
@config
class Pearson(Loss):
    """The chi-squared divergence of the generated images from the real ones.

    The best discriminator's value is ``2 (p_data / p_g - 1)``.

    References:
        Nowozin et al. 2016, "f-GAN", table 2 and section 3.2.
    """

    name: Literal["pearson"] = "pearson"

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """``E[f*(T(G(z)))] - E[T(x)]`` with ``f*(t) = t^2 / 4 + t``."""
        return (fake.square() / 4 + fake).mean() - real.mean()

    def generator(self, fake: Tensor) -> Tensor:
        """Minus the mean value, whose gradient does not fade where the discriminator is sure."""
        return -fake.mean()


@OBJECTIVES.register
@config
class MMDConfig:
    """Settings of :class:`MMD`."""

    name: Literal["mmd"] = "mmd"
    weight: NonNegative = 1000.0
    """Of the squared discrepancy; beta weighs the KL beside it, and may be 0."""

    def build(self, latent_dim: int) -> MMD:
        """The objective for codes of that many dimensions."""
        return MMD(self.weight, latent_dim)


class MMD(Objective):
    """``reconstruction + beta KL + weight MMD^2(q(z), p(z))``: codes follow the prior all together.

    References:
        Zhao et al. 2019, "InfoVAE", section 3.3; the biased estimate within the batch, with a Gaussian kernel.
    """

    def __init__(self, weight: float, latent_dim: int) -> None:
        super().__init__()
        self.weight, self.width = weight, latent_dim

    def updates(self, model: VAE, x: Tensor, step: int, warmup: float) -> Iterator[Update]:
        """One."""
        terms = model(x)
        drawn = terms.prior.sample(len(x))
        mmd = self._kernel(terms.z, terms.z) + self._kernel(drawn, drawn) - 2 * self._kernel(terms.z, drawn)
        penalty = model.beta * terms.kl.sum(-1).mean() + self.weight * mmd
        loss = terms.reconstruction.mean() + warmup * penalty
        yield Update("model", loss, terms.logs() | {"mmd": mmd})

    def _kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """The mean of a Gaussian kernel over all pairs of codes ``(B, D)``."""
        return (-(a[:, None] - b).square().sum(-1) / self.width).exp().mean()
