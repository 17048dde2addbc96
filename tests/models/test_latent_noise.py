"""Noise that generators start from: its distribution, its independence, its generator."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from genlab.nets.noise import NormalNoise, TruncatedNoise, UniformNoise

CPU = torch.device("cpu")
NOISES = [NormalNoise(), UniformNoise(), TruncatedNoise(), TruncatedNoise(threshold=0.5)]
NOISE_IDS = ["normal", "uniform", "truncated at 2", "truncated at 0.5"]
DISTRIBUTIONS = [stats.norm(), stats.uniform(-1, 2), stats.truncnorm(-2, 2), stats.truncnorm(-0.5, 0.5)]


def drawn(noise, n=20_000, dim=3, seed=1):
    return noise.sample(n, dim, CPU, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("noise", "exact"), list(zip(NOISES, DISTRIBUTIONS, strict=True)), ids=NOISE_IDS)
def test_noise_has_its_distribution_in_every_dimension_and_these_are_independent(noise, exact):
    z = drawn(noise)
    assert z.shape == (20_000, 3)
    low, high = exact.support()
    assert low <= z.min()
    assert z.max() <= high
    for column in z.T:
        assert stats.kstest(column.numpy(), exact.cdf).pvalue > 1e-3
    # A correlation has a standard error of 1 / sqrt(n).
    off_diagonal = np.corrcoef(z.numpy().T) - np.eye(3)
    assert np.abs(off_diagonal).max() < 4.5 / math.sqrt(20_000)


@pytest.mark.parametrize("threshold", [0.5, 2.0])
def test_the_variance_of_truncated_noise_is_that_of_the_formula(threshold):
    """``1 - 2 t phi(t) / (2 Phi(t) - 1)``."""
    z = drawn(TruncatedNoise(threshold=threshold)).double()
    phi = math.exp(-(threshold**2) / 2) / math.sqrt(2 * math.pi)
    variance = 1 - 2 * threshold * phi / math.erf(threshold / math.sqrt(2))
    error = z.square().std() / math.sqrt(z.numel())
    assert abs(z.square().mean() - variance) < 4.5 * error
    assert 4.5 * error < 0.03 * variance


def test_truncation_far_out_is_no_truncation_and_gives_finite_noise():
    z = drawn(TruncatedNoise(threshold=50.0))
    assert z.isfinite().all()
    assert stats.kstest(z[:, 0].numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("noise", NOISES, ids=NOISE_IDS)
def test_noise_is_that_of_its_generator_and_of_no_other(noise):
    before = torch.get_rng_state()
    assert torch.equal(drawn(noise, 5), drawn(noise, 5))
    assert not torch.equal(drawn(noise, 5), drawn(noise, 5, seed=2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    first = noise.sample(5, 3, CPU)
    torch.manual_seed(3)
    assert torch.equal(noise.sample(5, 3, CPU), first)
