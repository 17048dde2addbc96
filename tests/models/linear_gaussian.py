"""Bounds and objectives against a model whose evidence is known.

With ``p(z) = N(0, I)``, ``p(x|z) = N(W z + b, s^2 I)`` and ``q(z|x) = N(A x + c, diag(v))``, in float64, the
evidence is ``N(b, W W' + s^2 I)`` and the ELBO has a closed form. The columns of W are orthogonal, so that q
can be the exact posterior. What is statistical is compared in standard errors, with fixed seeds.
"""

import math

import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from genlab.models.vae import VAE, VAEConfig
from genlab.nets.gaussian import DiagonalGaussian
from genlab.nets.mlp import MLPConfig
from genlab.nets.pixels import BernoulliConfig, PixelLikelihood
from genlab.nets.priors import StandardNormalConfig
from genlab.objectives import (
    LinearWarmup,
)
from genlab.types import DataSpec

PIXELS, CODES, NOISE = 4, 2, 0.7


class GaussianNoise(PixelLikelihood):
    """``N(planes, NOISE^2)`` of real images."""

    def observe(self, x):
        return x

    def log_prob(self, planes, x):
        return Normal(planes, NOISE).log_prob(x).flatten(-3).sum(-1)


class LinearGaussian(VAE):
    """A VAE of one linear layer each way."""

    def __init__(self, objective, codes=CODES, pixels=PIXELS, **settings):
        values = {"prior": StandardNormalConfig(), "warmup": LinearWarmup(), **settings}
        net, spec = MLPConfig(hidden_dim=1, num_layers=1), DataSpec(1, 1, pixels)
        super().__init__(
            VAEConfig(
                latent_dim=codes,
                encoder=net,
                decoder=net,
                likelihood=BernoulliConfig(),
                objective=objective,
                **values,
            ),
            spec,
        )
        self.pixels = GaussianNoise(spec, 1)
        self.encoder, self.decoder = nn.Linear(pixels, codes), nn.Linear(codes, pixels)
        self.q_log_var = nn.Parameter(torch.zeros(codes))
        self.double()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            # Orthogonal columns of W, of different lengths.
            columns = torch.linalg.qr(torch.randn(pixels, pixels, generator=generator).double())[0][:, :codes]
            self.decoder.weight.copy_(columns * torch.linspace(1.5, 0.5, codes))
            self.decoder.bias.copy_(torch.randn(pixels, generator=generator))
            # Away from the exact posterior, and wider: importance weights are bounded, their errors known.
            self.use_exact_posterior()
            self.encoder.weight.add_(0.1 * torch.randn(codes, pixels, generator=generator))
            self.encoder.bias.add_(0.2)
            self.q_log_var.add_(0.5)

    def infer(self, x):
        mean = self.encoder(x.flatten(1))
        return DiagonalGaussian(mean, self.q_log_var.expand_as(mean))

    def planes(self, z):
        return self.decoder(z)[..., None, None, :]

    def use_exact_posterior(self):
        weight, bias = self.decoder.weight.detach(), self.decoder.bias.detach()
        variance = 1 / (1 + weight.square().sum(0) / NOISE**2)
        with torch.no_grad():
            self.encoder.weight.copy_(variance[:, None] * weight.T / NOISE**2)
            self.encoder.bias.copy_(-self.encoder.weight @ bias)
            self.q_log_var.copy_(variance.log())
        return self

    def evidence(self, x):
        weight, eye = self.decoder.weight, torch.eye(x.shape[-1], dtype=x.dtype)
        return MultivariateNormal(self.decoder.bias, weight @ weight.T + NOISE**2 * eye).log_prob(x.flatten(1))

    def exact_elbo(self, x):
        """``E_q log p(x|z) - KL(q || p)``, written down apart from the code under test."""
        x, weight = x.flatten(1), self.decoder.weight
        mean, variance = self.encoder(x), self.q_log_var.exp()
        error = (x - mean @ weight.T - self.decoder.bias).square().sum(1) + (weight.square() @ variance).sum()
        likelihood = -error / (2 * NOISE**2) - x.shape[1] * math.log(NOISE * math.sqrt(2 * math.pi))
        q = Independent(Normal(mean, variance.sqrt().expand_as(mean)), 1)
        p = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
        return likelihood - kl_divergence(q, p)


def images(n=6, pixels=PIXELS):
    generator = torch.Generator().manual_seed(2)
    return 1.5 * torch.randn(n, 1, 1, pixels, generator=generator).double()


def one_update(model, x, step=0, warmup=1.0):
    (update,) = model.objective.updates(model, x, step, warmup)
    return update


def standard_error(samples):
    return samples.std(0) / math.sqrt(len(samples))


def gradients(model, x, repetitions=200, warmup=1.0, of=None):
    """Gradients of the loss in the parameters, ``(repetitions, P)``."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    rows = []
    for _ in range(repetitions):
        loss = one_update(model, x, warmup=warmup).loss
        parts = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([g.flatten() for n, g in zip(names, parts, strict=True) if not of or of in n]))
    return torch.stack(rows)
