"""Frechet and kernel distances of sets whose distance is known."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from genlab.errors import ConfigError, GenlabError
from genlab.fidelity import distances
from genlab.fidelity.distances import frechet_distance, kernel_distance, statistics

# ------------------------------------------------------------------ FID


def _exactly(n, mean, cov):
    """Features whose sample mean and covariance are ``mean`` and ``cov`` up to rounding, float64."""
    x = torch.randn(n, len(mean), dtype=torch.float64)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False)
    return (torch.linalg.cholesky(cov) @ white).T + mean


def _covariance(dim):
    a = torch.randn(dim, dim, dtype=torch.float64)
    return a @ a.T + 0.1 * torch.eye(dim, dtype=torch.float64)


def test_fid_of_a_set_with_itself_is_nothing():
    features = 100 + torch.randn(300, 20) @ torch.randn(20, 20)
    assert frechet_distance(features, features) < 1e-6 * features.var(0).sum()


def test_fid_of_gaussians_is_the_closed_form():
    """``|m - n|^2 + tr(S + T - 2 (S^(1/2) T S^(1/2))^(1/2))``, of covariances that do not commute."""
    m, n, s, t = torch.randn(6).double(), torch.randn(6).double(), _covariance(6), _covariance(6)
    root = sqrtm(s.numpy())
    expected = (m - n).square().sum() + (s + t).trace() - 2 * np.trace(sqrtm(root @ t.numpy() @ root)).real
    found = frechet_distance(_exactly(50, m, s), _exactly(70, n, t))
    assert found == pytest.approx(expected.item(), rel=1e-9)


def test_fid_of_a_shift_and_a_scaling():
    unit = torch.eye(4, dtype=torch.float64)
    real, fake = _exactly(40, torch.zeros(4), unit), _exactly(40, torch.full((4,), 3.0), 4 * unit)
    assert frechet_distance(real, fake) == pytest.approx(4 * 9 + 4 * (2 - 1) ** 2, rel=1e-9)


@pytest.mark.parametrize(("chunk", "block"), [(1, 3), (7, 8), (1000, 5)])
def test_statistics_are_those_of_the_features_in_any_chunks_and_blocks(monkeypatch, chunk, block):
    monkeypatch.setattr(distances, "_BLOCK", block)
    x, centre = 5 + torch.randn(60, 8), torch.full((8,), 4.0, dtype=torch.float64)
    mean, cov = statistics(x, centre, chunk)
    assert mean.dtype == cov.dtype == torch.float64
    np.testing.assert_allclose((mean + centre).numpy(), x.double().mean(0).numpy(), rtol=1e-12)
    np.testing.assert_allclose(cov.numpy(), np.cov(x.double().numpy().T), atol=1e-12)


def test_a_mean_far_from_0_costs_no_digits():
    real, fake = torch.randn(90, 8).double(), 2 * torch.randn(80, 8).double()
    moved = frechet_distance(real + 1e6, fake + 1e6)
    assert moved == pytest.approx(frechet_distance(real, fake), rel=1e-7)


def test_fid_of_fewer_images_than_features_is_that_of_singular_covariances():
    real, fake = torch.randn(12, 20).double(), 1 + torch.randn(15, 20).double()
    cov, other = (np.cov(x.numpy().T) for x in (real, fake))
    apart = (real.mean(0) - fake.mean(0)).square().sum().item() + np.trace(cov + other)
    # The root's trace, of singular matrices: the singular values of the two sets' common moments.
    x, y = ((x - x.mean(0)).numpy() / (len(x) - 1) ** 0.5 for x in (real, fake))
    expected = apart - 2 * np.linalg.svd(x @ y.T, compute_uv=False).sum()
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-6)


def test_fid_is_that_of_torchmetrics_fed_otherwise():
    real, fake = torch.rand(90, 8, dtype=torch.float64), torch.rand(80, 8, dtype=torch.float64) ** 2
    network = nn.Identity()
    network.num_features = 8
    metric = FrechetInceptionDistance(feature=network)
    for features, is_real in ((real, True), (fake, False)):
        for part in features[torch.randperm(len(features))].split(11):
            metric.update(part, real=is_real)
    assert frechet_distance(real, fake) == pytest.approx(metric.compute().item(), rel=1e-8)


# ------------------------------------------------------------------ KID


def test_kid_of_a_few_is_the_unbiased_discrepancy():
    """Of as many images as there are in a subset, every subset is all of them."""
    real, fake = torch.randn(30, 5), 1 + torch.randn(30, 5)
    x, y = real.double().numpy(), fake.double().numpy()
    kxx, kyy, kxy = ((a @ b.T / 5 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = sum(k.sum() - np.trace(k) for k in (kxx, kyy)) / (30 * 29)
    mean, std = kernel_distance(real, fake)
    assert mean == pytest.approx(within - 2 * kxy.mean(), rel=1e-9)
    assert std == pytest.approx(0, abs=1e-9)


@pytest.fixture
def small_subsets(monkeypatch):
    monkeypatch.setattr(distances, "SUBSET_SIZE", 100)


@pytest.mark.usefixtures("small_subsets")
def test_kid_of_one_distribution_is_nothing_beside_that_of_two():
    real, same, other = torch.randn(1000, 4), torch.randn(1000, 4), 1 + torch.randn(1000, 4)
    mean, std = kernel_distance(real, same)
    # 1000 images hold ten subsets that share none: the mean of those varies by a third of what one does.
    assert abs(mean) < 3 * std / 10**0.5
    assert kernel_distance(real, other)[0] > 10 * std


@pytest.mark.usefixtures("small_subsets")
def test_kid_is_drawn_by_the_seed():
    real, fake = torch.randn(150, 3), torch.randn(150, 3)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(kernel_distance(real, fake))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_a_distance_of_what_is_none_ends_in_one_line(distance):
    with pytest.raises(ConfigError, match="at least 2 real images and 2 samples, and here are 5 and 1"):
        distance(torch.randn(5, 3), torch.randn(1, 3))
    with pytest.raises(GenlabError, match="features of the samples are not finite"):
        distance(torch.randn(5, 3), torch.full((5, 3), math.nan))
