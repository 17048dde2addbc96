"""``log p(x) = ELBO + KL(q || p(z|x))``, and what its terms are for Gaussian and Bernoulli decoders."""

import math

import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.nn import functional as F

from genlab.nets.gaussian import DiagonalGaussian
from genlab.nets.pixels import Bernoulli, BernoulliConfig, Gaussian, GaussianConfig
from genlab.types import DataSpec

SPEC = DataSpec(1, 2, 3)
X = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]).view(1, 1, 2, 3)


def test_the_elbo_is_short_of_the_evidence_by_the_kl_of_q_from_the_posterior():
    """``z ~ N(0, 1)``, ``x | z ~ N(w z, s^2)``: evidence and posterior are known."""
    w, s, x = torch.tensor([2.0, -1.0]).double(), 0.5, torch.tensor([1.0, 0.3]).double()
    q = Normal(torch.tensor(0.2).double(), torch.tensor(0.7).double())
    evidence = MultivariateNormal(torch.zeros(2).double(), w.outer(w) + s**2 * torch.eye(2)).log_prob(x)
    precision = 1 + w @ w / s**2
    posterior = Normal(w @ x / s**2 / precision, precision.rsqrt())
    # E_q[(x - w z)^2] = (x - w m)^2 + w^2 v
    squared = (x - w * q.mean).square() + w.square() * q.variance
    reconstruction = (-0.5 * squared / s**2 - math.log(s) - 0.5 * math.log(2 * math.pi)).sum()
    kl = DiagonalGaussian(q.mean.view(1, 1), 2 * q.scale.log().view(1, 1)).kl_to_standard_normal().sum()
    assert torch.isclose(reconstruction - kl + kl_divergence(q, posterior), evidence, rtol=1e-12)


def test_the_kl_term_of_a_gaussian_posterior_has_a_closed_form():
    mean, log_var = torch.tensor([[0.3, -2.0, 0.0]]).double(), torch.tensor([[0.5, -1.0, 0.0]]).double()
    expected = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(0.0, 1.0))
    found = DiagonalGaussian(mean, log_var).kl_to_standard_normal()
    assert torch.allclose(found, expected, rtol=1e-12)
    assert found[0, 2] == 0  # of a dimension whose posterior is the prior


def test_the_reconstruction_term_of_a_bernoulli_decoder_is_binary_cross_entropy():
    planes = torch.linspace(-2, 2, 6).view(1, 1, 2, 3)
    found = -Bernoulli(BernoulliConfig(), SPEC).log_prob(planes, X)
    assert torch.allclose(found, F.binary_cross_entropy(planes.sigmoid(), X, reduction="sum"))


def test_the_reconstruction_term_of_a_gaussian_decoder_is_a_squared_error_but_for_a_constant():
    """Over twice the variance: which sets how much a squared error weighs beside the KL term."""
    planes, others, scale = torch.zeros(1, 1, 2, 3), torch.ones(1, 1, 2, 3), 0.2
    pixels = Gaussian(GaussianConfig(scale=scale, variance="fixed"), SPEC)
    difference = pixels.log_prob(planes, X) - pixels.log_prob(others, X)
    errors = [(X - p.sigmoid()).square().sum() / (2 * scale**2) for p in (planes, others)]
    assert torch.allclose(difference, errors[1] - errors[0], rtol=1e-5)
