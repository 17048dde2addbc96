"""Pixels and probability."""

import math

import pytest
import torch

from genlab import likelihood


def test_a_uniform_model_has_exactly_eight_bits_per_dim():
    log_density = torch.zeros(3, dtype=torch.float64)  # the uniform density on [0, 1)^D is 1
    bits = likelihood.bits_per_dim(likelihood.to_levels(log_density, 784), 784)
    assert torch.equal(bits, torch.full((3,), 8.0, dtype=torch.float64))


def test_dequantisation_stays_inside_its_level_and_is_undone():
    x = torch.arange(256, dtype=torch.uint8).repeat(100, 1)
    y = likelihood.dequantise(x, torch.Generator().manual_seed(0))
    assert y.min() >= 0
    assert y.max() <= 1
    inside = (y * 256 >= x) & (y * 256 <= x.int() + 1)
    assert inside.all()
    # Rounding in float32 can carry a noise just below 1 to the next level: rare, and no more than that.
    assert (likelihood.quantise(y) != x).float().mean() < 1e-3
    assert torch.equal(likelihood.quantise(likelihood.centre(x)), x)


@pytest.mark.parametrize("alpha", [1e-6, 0.05])
def test_logit_is_undone_by_sigmoid_and_its_log_det_is_autograds(alpha):
    x = torch.tensor([[0.0, 1e-7, 0.3, 0.5, 1 - 1e-7, 1.0]], dtype=torch.float64, requires_grad=True)
    y, log_det = likelihood.logit(x, alpha)
    assert torch.allclose(likelihood.sigmoid(y, alpha), x, atol=1e-12)
    (slopes,) = torch.autograd.grad(y.sum(), x)
    assert log_det.item() == pytest.approx(slopes.log().sum().item(), rel=1e-12)


def test_logit_is_accurate_at_black_and_white_in_float32():
    x = torch.tensor([[0.0, 1.0]])
    y, _ = likelihood.logit(x, 1e-6)
    exact = math.log(1e-6 / (1 - 1e-6))
    assert y[0].tolist() == pytest.approx([exact, -exact], rel=1e-6)


def test_a_density_learned_on_the_levels_is_a_lower_bound_on_the_log_probability():
    """Jensen: the mean log-density over one level is at most the log of the level's probability."""
    generator = torch.Generator().manual_seed(0)
    x = torch.full((20_000, 1), 100, dtype=torch.uint8)
    u = likelihood.dequantise(x, generator).double()
    beta = torch.distributions.Beta(torch.tensor(2.0).double(), torch.tensor(30.0).double())
    dequantised = likelihood.to_levels(beta.log_prob(u).squeeze(1), 1).mean()
    grid = torch.linspace(100 / 256, 101 / 256, 10_001, dtype=torch.float64)
    probability = torch.trapezoid(beta.log_prob(grid).exp(), grid)
    assert dequantised < probability.log()
    assert dequantised == pytest.approx(probability.log().item(), abs=0.01)
