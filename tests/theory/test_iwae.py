"""Importance-weighted bounds: the ELBO for one sample, higher for more, and the evidence in the end."""

import math

import torch
from torch.distributions import Normal

from genlab.types import BoundTerms


def normal(mean, std):
    return Normal(torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(std, dtype=torch.float64))


X, S = torch.tensor(1.0).double(), 0.8
EVIDENCE = normal(0, math.sqrt(1 + S**2)).log_prob(X)
"""Of ``z ~ N(0, 1)``, ``x | z ~ N(z, S^2)``."""
PRIOR = normal(0, 1)


def bounds(samples, repeats=20_000):
    """Of so many independent draws of so many samples."""
    torch.manual_seed(0)
    return bound(PRIOR, PRIOR.sample((samples, repeats)))  # a bad q: there is something to gain


def bound(q, z):
    return BoundTerms(-normal(z, S).log_prob(X), q.log_prob(z) - PRIOR.log_prob(z)).bound()


def test_with_one_sample_it_is_the_elbo():
    expected = -0.5 * (1 + X.square()) / S**2 - math.log(S) - 0.5 * math.log(2 * math.pi)  # E_q (x - z)^2 = 2
    found = bounds(1)
    assert abs(found.mean() - expected) < 4 * found.std() / len(found) ** 0.5


def test_more_samples_make_it_tighter_and_it_stays_below_the_evidence():
    found = [bounds(m) for m in (1, 5, 50, 500)]
    means = [each.mean().item() for each in found]
    assert means == sorted(means)
    for each in found:
        assert each.mean() - 4 * each.std() / len(each) ** 0.5 < EVIDENCE
    assert abs(means[-1] - EVIDENCE) < 0.01


def test_it_is_short_of_the_evidence_by_half_the_relative_variance_of_a_weight_over_m():
    """Burda et al. 2016, theorem 1, and Domke & Sheldon 2018, theorem 3: ``Var(w) / (2 m E[w]^2)``."""
    m = 200
    # p(x|z)^2 is a density of variance S^2 / 2, but for a factor.
    second = normal(0, math.sqrt(1 + S**2 / 2)).log_prob(X).exp() / (2 * S * math.sqrt(math.pi))
    relative = second / EVIDENCE.exp().square() - 1
    gap, error = EVIDENCE - bounds(m).mean(), bounds(m).std() / 20_000**0.5
    assert abs(gap - relative / (2 * m)) < 4 * error + 0.05 * relative / (2 * m)


def test_with_the_exact_posterior_one_sample_is_enough():
    precision = 1 + S**-2
    posterior = normal(X / S**2 / precision, precision**-0.5)
    assert torch.allclose(bound(posterior, posterior.sample((1, 10))), EVIDENCE, rtol=1e-12)
