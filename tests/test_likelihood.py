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


# --------------------------------------------------------------------------------------- levels on (-1, 1)

EVERY_LEVEL = torch.arange(256, dtype=torch.uint8)


def test_levels_on_the_signed_axis_are_undone():
    x = likelihood.signed(EVERY_LEVEL)
    assert x.dtype == torch.float32
    assert (x[0].item(), x[255].item()) == (-255 / 256, 255 / 256)
    assert torch.equal(x.diff(), torch.full((255,), 2 / 256))
    assert torch.equal(x, -x.flip(0))
    assert torch.equal(likelihood.quantise((x + 1) / 2), EVERY_LEVEL)


def test_noise_on_the_signed_axis_stays_inside_its_level():
    x = EVERY_LEVEL.repeat(100, 1)
    noisy = likelihood.signed(x, torch.Generator().manual_seed(0), noisy=True)
    offset = 256 * (noisy - likelihood.signed(x)) / 2  # in levels
    assert offset.abs().max() <= 0.5 + 1e-4
    assert offset.mean().item() == pytest.approx(0, abs=4 * 12**-0.5 / offset.numel() ** 0.5)
    assert offset.std().item() == pytest.approx(12**-0.5, rel=0.02)


def test_a_density_on_the_signed_axis_counts_levels():
    """Uniform on (-1, 1) it is 1/2, and 8 bits/dim."""
    log_density = torch.full((3,), -784 * math.log(2), dtype=torch.float64)
    bits = likelihood.bits_per_dim(likelihood.signed_to_levels(log_density, 784), 784)
    assert torch.allclose(bits, torch.full_like(bits, 8.0))


@pytest.mark.parametrize("std", [1e-3, 0.01, 0.1, 1.0, 5.0])
@pytest.mark.parametrize("mean", [-1.7, -0.996, 0.0, 0.3, 1.0, 4.0])
def test_the_masses_of_all_levels_sum_to_one(mean, std):
    mean, std = torch.full((2, 256), 0.0, dtype=torch.float64).fill_(mean), torch.tensor(std).double()
    log_mass = likelihood.level_log_prob(EVERY_LEVEL, mean[0], std.expand(256))
    assert log_mass.logsumexp(0).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mass_of_a_level_is_a_difference_of_the_distribution_function(dtype):
    mean = torch.tensor([-0.9, -0.2, 0.004, 0.7], dtype=torch.float64)[:, None].expand(4, 256)
    std = torch.tensor([0.05, 0.3, 0.08, 1.0], dtype=torch.float64)[:, None].expand(4, 256)
    edges = torch.linspace(-1, 1, 257, dtype=torch.float64).repeat(4, 1)
    edges[:, 0], edges[:, -1] = -torch.inf, torch.inf
    z = (edges - mean[:, :1]) / std[:, :1] / math.sqrt(2)
    below, above = (
        0.5 * torch.erfc(-z).diff(dim=1),
        -0.5 * torch.erfc(z).diff(dim=1),
    )  # from the tail with digits
    mass = torch.where(edges[:, :-1] < mean, below, above)
    known = mass > 1e-280
    found = likelihood.level_log_prob(EVERY_LEVEL.expand(4, 256), mean.to(dtype), std.to(dtype))
    assert found.dtype == dtype
    tolerance = 2e-5 if dtype == torch.float32 else 1e-11
    assert torch.allclose(found.double()[known], mass.log()[known], rtol=tolerance, atol=tolerance)
    assert found.isfinite().all()


def masses_and_gradients(mean, std, dtype):
    """Of every level: its log-mass, and the derivatives by mean and standard deviation."""
    at = torch.full((256,), mean, dtype=dtype, requires_grad=True)
    spread = torch.full((256,), std, dtype=dtype, requires_grad=True)
    log_mass = likelihood.level_log_prob(EVERY_LEVEL, at, spread)
    return log_mass.detach(), *torch.autograd.grad(log_mass.sum(), (at, spread))


@pytest.mark.parametrize("std", [3e-4, 0.01, 1.0])
@pytest.mark.parametrize("mean", [-100.0, -1.0, 0.002, 1.0, 100.0])
def test_masses_and_gradients_are_finite_however_far_the_mean(mean, std):
    for values in masses_and_gradients(mean, std, torch.float32):
        assert values.isfinite().all()


@pytest.mark.parametrize("std", [3e-4, 0.005, 0.01, 0.14, 1.0])
@pytest.mark.parametrize("mean", [-30.0, -1.0, 0.002, 1.0, 30.0])
def test_masses_and_gradients_in_float32_are_those_of_float64(mean, std):
    singles, exacts = (masses_and_gradients(mean, std, dtype) for dtype in (torch.float32, torch.float64))
    assert torch.allclose(singles[0].double(), exacts[0], rtol=1e-5, atol=1e-4)
    for single, exact in zip(singles[1:], exacts[1:], strict=True):
        assert torch.allclose(single.double(), exact, rtol=1e-3, atol=1e-4 * exact.abs().max().item())


@pytest.mark.parametrize("level", [0, 1, 100, 254, 255])
def test_the_gradient_of_a_mass_is_that_of_finite_differences(level):
    x = torch.full((4,), level, dtype=torch.uint8)
    mean = torch.tensor([-1.2, -0.4, 0.1, 0.99], dtype=torch.float64, requires_grad=True)
    std = torch.tensor([0.3, 0.1, 0.9, 0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda mean, std: likelihood.level_log_prob(x, mean, std), (mean, std))
