"""Likelihood regret of a VAE whose best posteriors are known.

With ``p(z) = N(0, I)``, ``p(x|z) = N(W z + b, s^2 I)`` and orthogonal columns of W the posterior of x is a
Gaussian of diagonal covariance, and the regret of ``q`` is ``KL(q || p(z|x))``.
"""

import pytest
import torch
from ood_view import noise, view
from torch import nn
from torch.distributions import Normal, kl_divergence

from genlab.models.realnvp import RealNVP
from genlab.models.vae import VAE, VAEConfig
from genlab.nets.gaussian import DiagonalGaussian
from genlab.nets.mlp import MLPConfig
from genlab.nets.pixels import BernoulliConfig, PixelLikelihood
from genlab.nets.priors import MixtureConfig, StandardNormalConfig
from genlab.objectives import ELBOConfig, LinearWarmup
from genlab.ood import likelihood_regret
from genlab.ood.likelihood_regret import LikelihoodRegret, LikelihoodRegretConfig, elbo, regret
from genlab.types import DataSpec

PIXELS, CODES, NOISE = 4, 2, 0.5
OPTIONS = LikelihoodRegretConfig(steps=150, learning_rate=0.03, num_samples=32)


class GaussianNoise(PixelLikelihood):
    """``N(planes, NOISE^2)``."""

    def observe(self, x):
        return x.double() / 255

    def log_prob(self, planes, x):
        return Normal(planes, NOISE).log_prob(x).flatten(-3).sum(-1)


class Linear(VAE):
    """An encoder that is ``offset`` away from the posterior's mean, and wider by ``widening`` nats."""

    def __init__(self, offset=0.0, widening=0.0, prior=None):
        spec, net = DataSpec(1, 1, PIXELS), MLPConfig(hidden_dim=1, num_layers=1)
        config = VAEConfig(
            latent_dim=CODES,
            encoder=net,
            decoder=net,
            likelihood=BernoulliConfig(),
            prior=prior or StandardNormalConfig(),
            objective=ELBOConfig(),
            warmup=LinearWarmup(),
        )
        super().__init__(config, spec)
        self.pixels, self.decoder = GaussianNoise(spec, 1), nn.Linear(PIXELS, PIXELS)
        self.double()
        torch.manual_seed(1)
        columns = torch.linalg.qr(torch.randn(PIXELS, PIXELS).double())[0][:, :CODES]
        self.weight = columns * torch.tensor([1.5, 0.6])
        self.bias = nn.Parameter(torch.randn(PIXELS).double())
        self.offset, self.widening = offset, widening

    def exact(self, x):
        """Mean and log-variance of ``p(z|x)``."""
        variance = 1 / (1 + self.weight.square().sum(0) / NOISE**2)
        return (x.flatten(1) - self.bias) @ self.weight / NOISE**2 * variance, variance.log().expand(len(x), -1)

    def infer(self, x):
        mean, log_var = self.exact(x)
        return DiagonalGaussian(mean + self.offset, log_var + self.widening)

    def planes(self, z):
        return (z @ self.weight.T + self.bias)[..., None, None, :]

    def kl_to_exact(self, x):
        own, (mean, log_var) = self.infer(x), self.exact(x)
        q = Normal(own.mean, (0.5 * own.log_var).exp())
        return kl_divergence(q, Normal(mean, (0.5 * log_var).exp())).sum(1)


def observed(n=6):
    return noise(n, (1, 1, PIXELS)).double() / 255


def test_the_regret_is_the_divergence_from_the_exact_posterior():
    model = Linear(offset=0.7, widening=0.8)
    torch.manual_seed(0)
    # What the optimiser leaves is of second order in its distance from the optimum.
    found = torch.stack([regret(model, observed(), OPTIONS) for _ in range(5)])
    error = found.std(0) / 5**0.5
    expected = model.kl_to_exact(observed())
    assert expected.min() > 1
    assert ((found.mean(0) - expected).abs() < 4 * error + 0.01 * expected).all()


def test_the_exact_posterior_leaves_nothing_to_regret():
    torch.manual_seed(0)
    assert regret(Linear(), observed(), OPTIONS).abs().max() < 0.01


def test_more_steps_find_more_to_regret_and_never_less_than_nothing():
    model, found = Linear(offset=1.0), []
    for steps in (1, 10, 100):
        torch.manual_seed(0)
        options = LikelihoodRegretConfig(steps=steps, learning_rate=0.02, num_samples=16)
        found.append(regret(model, observed(), options))
    assert (found[0] > 0).all()
    assert (found[1] > found[0]).all()
    assert (found[2] > found[1]).all()


def test_images_do_not_share_a_posterior():
    """The regret of an image is the same in whatever batch, up to noise that the batch draws."""
    model, x = Linear(offset=0.5), observed(5)
    torch.manual_seed(0)
    together = regret(model, x, OPTIONS)
    alone = torch.cat([regret(model, image, OPTIONS) for image in x.split(1)])
    assert torch.allclose(together, alone, rtol=0.05)


def test_the_bound_of_the_exact_posterior_is_the_evidence_on_average():
    model, x = Linear(), observed()
    torch.manual_seed(0)
    codes = torch.randn(20_000, len(x), CODES, dtype=torch.float64)
    covariance = model.weight @ model.weight.T + NOISE**2 * torch.eye(PIXELS).double()
    evidence = torch.distributions.MultivariateNormal(model.bias, covariance).log_prob(x.flatten(1))
    found = elbo(model, x, model.infer(x), model.prior(model.infer), codes)
    assert (found - evidence).abs().max() < 0.03  # log p(x|z) varies by 1.4 nats: four errors of the mean


def test_a_prior_without_a_closed_form_gives_the_same_bound_on_average():
    """A mixture of one standard normal is a standard normal."""
    mixture, normal, x = Linear(prior=MixtureConfig(num_components=1)), Linear(), observed()
    nn.init.zeros_(mixture.prior.mean)
    torch.manual_seed(0)
    codes = torch.randn(20_000, len(x), CODES, dtype=torch.float64)
    a, b = (elbo(model, x, model.infer(x), model.prior(model.infer), codes) for model in (mixture, normal))
    assert torch.allclose(a, b, atol=0.05)


def test_the_score_is_the_negative_regret_and_the_model_stays_as_it_is():
    model, x = Linear(offset=0.7), noise(6, (1, 1, PIXELS))
    score = LikelihoodRegret(OPTIONS)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    (found,) = score(view(x, model)).values()
    assert torch.allclose(-found, model.kl_to_exact(x.double() / 255), rtol=0.1)
    assert score.slow
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_it_needs_a_posterior_to_optimise():
    assert "RealNVP is none" in LikelihoodRegret(OPTIONS).obstacle(RealNVP, None)
    assert LikelihoodRegret(OPTIONS).obstacle(VAE, None) is None


@pytest.mark.parametrize("size", [1, 4])
def test_batches_are_as_large_as_memory_allows(monkeypatch, size):
    monkeypatch.setattr(likelihood_regret, "_MAX_NUMBERS", size * OPTIONS.num_samples * PIXELS)
    seen = []
    monkeypatch.setattr(
        likelihood_regret, "regret", lambda model, x, options: seen.append(len(x)) or x[:, 0, 0, 0]
    )
    LikelihoodRegret(OPTIONS)(view(noise(5, (1, 1, PIXELS)), Linear(), batch_size=500))
    assert max(seen) == size
    assert sum(seen) == 5
