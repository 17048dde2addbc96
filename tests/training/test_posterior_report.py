"""Active units, KL by dimension and mutual information, against what is known in closed form."""

import math

import pytest
import torch

from genlab.metrics.posterior import active_units, kl_per_dim, mutual_information
from genlab.nets.gaussian import DiagonalGaussian


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _posterior(mean, variance):
    mean = torch.as_tensor(mean, dtype=torch.float32)
    return DiagonalGaussian(mean, torch.full_like(mean, math.log(variance)))


def test_a_unit_is_active_where_its_mean_moves_with_the_image():
    mean = torch.randn(5000, 4) * torch.tensor([1.0, 0.12, 0.08, 0.0]) + torch.tensor([0.0, 9.0, 9.0, 9.0])
    assert active_units(_posterior(mean, 0.5)).tolist() == [True, True, False, False]
    assert active_units(_posterior(mean, 0.5), threshold=1e-3).tolist() == [True, True, True, False]


def test_the_posterior_of_one_image_has_no_active_unit():
    assert active_units(_posterior([[3.0, -3.0]], 1.0)).tolist() == [False, False]


def test_kl_of_each_dimension():
    q = _posterior([[0.0, 2.0], [0.0, 0.0]], 0.25)
    shrunk = 0.5 * (0.25 - 1 - math.log(0.25))
    assert kl_per_dim(q).tolist() == pytest.approx([shrunk, shrunk + 0.5 * 4 / 2])


def test_codes_that_tell_every_image_apart_have_all_the_information_there_can_be():
    mean = 10.0 * torch.arange(300.0)[:, None] + torch.zeros(300, 3)
    assert mutual_information(_posterior(mean, 1e-4)) == pytest.approx(math.log(300), abs=1e-3)


def test_a_collapsed_posterior_has_no_information():
    assert mutual_information(_posterior(torch.zeros(300, 3), 1.0)) == pytest.approx(0, abs=1e-9)


def test_images_in_groups_that_share_a_code():
    mean = 100.0 * (torch.arange(300) % 5).float()[:, None]
    assert mutual_information(_posterior(mean, 0.01)) == pytest.approx(math.log(5), abs=1e-9)


@pytest.mark.parametrize("variances", [[1.0], [0.2, 3.0]])
def test_a_linear_gaussian_encoder(variances):
    """``x ~ N(0, s^2)`` and ``z | x ~ N(x, 1)``: ``I = 1/2 log(1 + s^2)`` nats for each dimension."""
    mean = torch.randn(2000, len(variances)) * torch.tensor(variances).sqrt()
    exact = sum(0.5 * math.log(1 + v) for v in variances)
    # The estimate's own spread: a quarter of a nat or so for each code, over the root of 2,000.
    assert mutual_information(_posterior(mean, 1.0)) == pytest.approx(exact, abs=0.06)


def test_information_needs_no_more_memory_for_more_images(monkeypatch):
    q = _posterior(torch.randn(100, 2), 0.5)
    torch.manual_seed(1)
    whole = mutual_information(q)
    monkeypatch.setattr("genlab.metrics.posterior._CHUNK", 300)
    torch.manual_seed(1)
    assert mutual_information(q) == pytest.approx(whole, abs=1e-12)
