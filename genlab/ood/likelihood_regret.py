"""How much better than the encoder's the best posterior of an image is."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from genlab.config import Count, Positive, config
from genlab.data import DatasetConfig
from genlab.models.base import Model
from genlab.models.vae import VAE
from genlab.nets.gaussian import DiagonalGaussian, Latents
from genlab.ood.base import Score, View
from genlab.registry import SCORES
from genlab.types import Batch

_MAX_NUMBERS = 2**22  # that a decoder gives at once, with their gradients


@config
class LikelihoodRegretConfig:
    """``steps`` of Adam for each image, each with ``num_samples`` codes of its posterior.

    ``learning_rate`` falls to nothing on a line, so that in the end noise moves nothing.
    """

    steps: Count = 100
    learning_rate: Positive = 0.05
    num_samples: Count = 8


@SCORES.register("likelihood_regret")
class LikelihoodRegret(Score):
    """Minus the regret: the ELBO of the image's own posterior less that of the encoder's.

    The decoder stays as it is; mean and log-variance of the posterior are moved from where the encoder puts
    them. The encoder does well on images like those it was trained on, and little is left to gain.

    References:
        Xiao et al. 2020, "Likelihood regret: an out-of-distribution detection score for variational
        auto-encoder"; of their two ways, that of mean and variance.
    """

    slow = True
    Config = LikelihoodRegretConfig
    options: LikelihoodRegretConfig

    def obstacle(self, model: type[Model], dataset: DatasetConfig) -> str | None:
        """A VAE."""
        if issubclass(model, VAE):
            return None
        return f"optimises the posterior of a VAE, and {model.__name__} is none"

    def __call__(self, view: View) -> Mapping[str, Tensor]:
        """One: minus the regret in nats per image."""
        model, options = view.model, self.options
        assert isinstance(model, VAE)

        def score(batch: Batch) -> Tensor:
            return -regret(model, model.observe(batch.x), options)

        size = max(1, _MAX_NUMBERS // (options.num_samples * math.prod(model.pixels.shape)))
        return {"likelihood_regret": view.measure("likelihood regret", score, slow=True, batch_size=size)}


def regret(model: VAE, x: Tensor, options: LikelihoodRegretConfig) -> Tensor:
    """``max_q ELBO(x, q) - ELBO(x, q(z|x))`` of observed images, nats per image ``(B,)``.

    Above 0 up to the error of the optimiser. Both bounds are averages over the same noise, so that what they
    differ by is known far better than either; the noise of the steps is not that of the final comparison.
    """
    with torch.no_grad():
        q, prior = model.infer(x), model.prior(model.infer)

    def noise() -> Tensor:
        return torch.randn(options.num_samples, *q.mean.shape, dtype=q.mean.dtype, device=x.device)

    own = [q.mean.detach().clone().requires_grad_(), q.log_var.detach().clone().requires_grad_()]
    optimizer = torch.optim.Adam(own, lr=options.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / options.steps)
    for _ in range(options.steps):
        with torch.enable_grad():
            # The sum has a term for each image, so each has a gradient, and moments in Adam, of its own.
            loss = -elbo(model, x, DiagonalGaussian(own[0], own[1]), prior, noise()).sum()
            loss.backward(inputs=own)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    with torch.no_grad():
        final = noise()
        final = torch.cat([final, -final])  # what is linear in the noise cancels
        best = elbo(model, x, DiagonalGaussian(own[0], own[1]), prior, final)
        return best - elbo(model, x, q, prior, final)


def elbo(model: VAE, x: Tensor, q: DiagonalGaussian, prior: Latents, noise: Tensor) -> Tensor:
    """``E_q[log p(x|z)] - KL(q || p)``, nats per image ``(B,)``, at the codes of ``noise`` ``(m, B, D)``."""
    z = q.mean + (0.5 * q.log_var).exp() * noise
    return (model.log_prob_given(z, x) - prior.kl(q, z).sum(-1)).mean(0)
