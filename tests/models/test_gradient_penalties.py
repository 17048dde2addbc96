"""Penalties on a critic's gradient against closed forms and finite differences."""

import pytest
import torch
from scipy import stats
from torch import nn

from genlab.adversarial import (
    gradient_penalty,
    squared_gradient,
)


class Quadratic(nn.Module):
    def __init__(self, dim):
        super().__init__()
        matrix = torch.randn(dim, dim)
        self.matrix = nn.Parameter(matrix + matrix.T)

    def forward(self, x):
        return (x.flatten(1) @ self.matrix * x.flatten(1)).sum(1)


class Linear(nn.Module):
    """``f(x) = <w, x>``, of norm ``slope``."""

    def __init__(self, slope, dim=12):
        super().__init__()
        self.weight = nn.Parameter(slope * nn.functional.normalize(torch.randn(dim), dim=0))

    def forward(self, x):
        return x.flatten(1) @ self.weight


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return torch.rand(7, 3, 2, 2), torch.rand(7, 3, 2, 2)


@pytest.mark.parametrize("slope", [1.0, 0.25, 3.0])
def test_of_a_linear_critic_the_penalty_is_the_squared_distance_of_its_slope_to_one(slope, pair):
    critic = Linear(slope)
    assert gradient_penalty(critic, *pair).item() == pytest.approx((slope - 1) ** 2, abs=1e-6)
    assert torch.allclose(squared_gradient(critic, pair[0]), torch.full((7,), slope**2))


def test_the_squared_gradient_of_a_quadratic_form_is_that_of_each_image(pair):
    critic, x = Quadratic(12), pair[0]
    exact = (2 * x.flatten(1) @ critic.matrix).square().sum(1)
    assert torch.allclose(squared_gradient(critic, x), exact, rtol=1e-5)
    assert exact.std() > 1  # images differ


def test_the_penalty_is_taken_evenly_on_the_line_between_an_image_and_its_counterpart():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    torch.manual_seed(0)
    real = torch.rand(4000, 1, 2, 2)
    gradient_penalty(critic, real, real + 1)
    along = (seen[0] - real).flatten(1)
    assert torch.allclose(along, along[:, :1].expand(-1, 4), atol=1e-6)  # one place on the line for all pixels
    assert stats.kstest(along[:, 0].numpy(), "uniform").pvalue > 1e-3


def test_the_penalties_gradient_in_the_weights_has_its_closed_form(pair):
    critic = Linear(3.0)
    (gradient,) = torch.autograd.grad(gradient_penalty(critic, *pair), critic.weight)
    assert torch.allclose(gradient, 2 * (3.0 - 1) * critic.weight / 3.0, atol=1e-5)
    (gradient,) = torch.autograd.grad(squared_gradient(critic, pair[0]).mean() / 2, critic.weight)
    assert torch.allclose(gradient, critic.weight, atol=1e-6)


def smooth_critic():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 1))


def test_the_penalties_gradient_in_the_weights_of_a_network_is_that_of_finite_differences(pair):
    critic = smooth_critic().double()
    weights = dict(critic.named_parameters())
    real, fake = (x.double() for x in pair)

    def penalties(*values):
        named = dict(zip(weights, values, strict=True))

        def with_these(x):
            return torch.func.functional_call(critic, named, x)

        torch.manual_seed(2)
        return gradient_penalty(with_these, real, fake), squared_gradient(with_these, real).mean()

    values = [w.detach().requires_grad_() for w in weights.values()]
    assert torch.autograd.gradcheck(penalties, values)


def test_a_critic_that_says_nothing_yet_has_a_finite_gradient(pair):
    critic = smooth_critic()
    nn.init.zeros_(critic[-1].weight)
    penalty = gradient_penalty(critic, *pair)
    gradients = torch.autograd.grad(penalty, list(critic.parameters()), allow_unused=True)
    assert penalty.item() == pytest.approx(1)
    assert all(g.isfinite().all() for g in gradients if g is not None)
    assert squared_gradient(critic, pair[0]).tolist() == [0] * 7


def test_penalties_are_computed_in_full_precision_under_autocast(pair):
    critic = smooth_critic()
    parameters = list(critic.parameters())[:-1]  # no slope depends on the last bias

    def penalties():
        torch.manual_seed(2)
        return torch.stack([gradient_penalty(critic, *pair), squared_gradient(critic, pair[0]).mean()])

    exact = penalties()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert critic(pair[0]).dtype == torch.bfloat16
        values = penalties()
    assert torch.equal(values, exact)
    # As the trainer has it: the backward pass is outside.
    gradients, exact_gradients = (torch.autograd.grad(v.sum(), parameters) for v in (values, exact))
    assert all(torch.equal(a, b) for a, b in zip(gradients, exact_gradients, strict=True))


def test_penalties_are_measured_where_no_gradient_is_wanted(pair):
    critic = smooth_critic()
    torch.manual_seed(2)
    exact = gradient_penalty(critic, *pair)
    assert exact.requires_grad
    with torch.no_grad():
        torch.manual_seed(2)
        penalty = gradient_penalty(critic, *pair)
        squared = squared_gradient(critic, pair[0])
    assert penalty.item() == exact.item()
    assert not penalty.requires_grad
    assert not squared.requires_grad


def test_penalties_do_not_reach_the_generator(pair):
    real, fake = pair[0], pair[1].requires_grad_()
    critic = smooth_critic()
    gradient_penalty(critic, real, fake).backward()
    squared_gradient(critic, fake).sum().backward()
    assert fake.grad is None
    assert critic[1].weight.grad is not None
