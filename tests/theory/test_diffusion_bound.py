"""The diffusion's posterior is Bayes' rule, and its bound a weighted squared error of the noise: L_simple."""

import pytest
import torch
from torch.distributions import Normal

from genlab.diffusion.bound import step_term
from genlab.diffusion.process import Denoised, Process
from genlab.likelihood import signed

BETAS = torch.linspace(0.01, 0.3, 12).double()
PROCESS = Process(BETAS)


def number(value):
    return torch.tensor(value).double().view(1, 1, 1, 1)


@pytest.mark.parametrize("t", [2, 6, 12])
def test_the_posterior_is_that_of_bayes_rule(t):
    """``q(x_{t-1} | x_t, x_0)`` is in proportion to ``q(x_t | x_{t-1}) q(x_{t-1} | x_0)``: Ho et al. 2020."""
    x0, x_t = 0.4, -0.3
    here, before = torch.tensor([t]), torch.tensor([t - 1])
    grid = torch.linspace(-6, 6, 200_001).double()
    forward = Normal((1 - BETAS[t - 1]).sqrt() * grid, BETAS[t - 1].sqrt()).log_prob(torch.tensor(x_t).double())
    marginal = Normal(PROCESS.alpha(before).item() * x0, PROCESS.sigma(before).item())
    weights = (forward + marginal.log_prob(grid)).softmax(0)
    mean = (weights * grid).sum()
    variance = (weights * (grid - mean).square()).sum()
    assert PROCESS.posterior_mean(number(x0), number(x_t), before, here).item() == pytest.approx(mean.item())
    assert PROCESS.posterior_variance(before, here).item() == pytest.approx(variance.item())


def test_many_small_steps_are_one_large_one():
    """``x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps``: Ho et al. 2020, eq. 4."""
    mean, variance = torch.tensor(1.0).double(), torch.tensor(0.0).double()
    for t, beta in enumerate(BETAS, start=1):
        mean, variance = (1 - beta).sqrt() * mean, (1 - beta) * variance + beta
        assert PROCESS.alpha(torch.tensor([t])).item() == pytest.approx(mean.item())
        assert PROCESS.sigma(torch.tensor([t])).item() == pytest.approx(variance.sqrt().item())


@pytest.mark.parametrize("t", [2, 6, 12])
def test_a_term_of_the_bound_is_a_squared_error_of_the_noise_but_for_its_weight(t):
    """With the posterior's variance it is ``beta^2 / (2 v alpha (1 - abar)) |eps - eps_hat|^2``.

    Ho et al. 2020, eq. 12, where L_simple (eq. 14) leaves the weight out.
    """
    torch.manual_seed(0)
    x, step = torch.randint(0, 256, (3, 1, 2, 2), dtype=torch.uint8), torch.full((3,), t)
    eps, guess = torch.randn(2, 3, 1, 2, 2).double()

    def denoise(x_t, t):
        return Denoised((x_t - PROCESS.sigma(t) * guess) / PROCESS.alpha(t), guess)

    found = step_term(denoise, PROCESS, "small", x, step, eps)
    beta, variance = BETAS[t - 1], PROCESS.posterior_variance(step - 1, step)[0].item()
    weight = beta**2 / (2 * variance * (1 - beta) * PROCESS.sigma(step)[0].item() ** 2)
    assert torch.allclose(found, weight * (eps - guess).square().flatten(1).sum(1), rtol=1e-4)


def test_who_knows_the_image_pays_nothing():
    torch.manual_seed(0)
    x, step = torch.randint(0, 256, (3, 1, 2, 2), dtype=torch.uint8), torch.tensor([2, 6, 12])
    eps = torch.randn(3, 1, 2, 2).double()
    found = step_term(lambda x_t, t: Denoised(signed(x).double(), eps), PROCESS, "small", x, step, eps)
    assert torch.allclose(found, torch.zeros(3).double(), atol=1e-6)
