"""Bounded layers: the norm in use against the singular values of the whole operator, slopes of LipSwish."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from genlab.nets.lipschitz import LipschitzConv2d, LipSwish

BOUND = 0.9


def _layer(in_channels=2, out_channels=3, kernel_size=3, size=(4, 5), iterations=4, scale=1.0):
    torch.manual_seed(0)
    layer = LipschitzConv2d(in_channels, out_channels, kernel_size, size, BOUND, iterations)
    with torch.no_grad():
        layer.weight.mul_(scale)
    return layer


def _norm(layer: LipschitzConv2d, weight: torch.Tensor, size=(4, 5)) -> float:
    """The largest singular value of the full matrix of the operator, in float64."""
    inputs = torch.eye(layer.in_channels * size[0] * size[1], dtype=torch.float64)
    images = F.conv2d(inputs.view(-1, layer.in_channels, *size), weight.double(), padding=layer.padding)
    return torch.linalg.matrix_norm(images.flatten(1), 2).item()


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("size", [(4, 5), (1, 1)])
def test_a_large_weight_is_scaled_to_the_bound_from_the_start(kernel_size, size, mode):
    layer = _layer(kernel_size=kernel_size, size=size, scale=20).train(mode == "train")
    assert _norm(layer, layer.bounded_weight(), size) == pytest.approx(BOUND, rel=1e-3)


def test_a_small_weight_stays_as_it_is():
    layer = _layer(scale=0.1)
    assert _norm(layer, layer.weight) < BOUND
    assert torch.equal(layer.bounded_weight(), layer.weight)


def test_the_estimate_is_of_the_operator_and_not_of_the_reshaped_kernel():
    layer = _layer(size=(12, 12), scale=20).eval()
    sigma = layer.weight.flatten()[0] / layer.bounded_weight().flatten()[0] * BOUND
    assert sigma.item() == pytest.approx(_norm(layer, layer.weight, (12, 12)), rel=1e-3)
    assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() < 0.9 * sigma


@pytest.mark.parametrize(("in_channels", "out_channels", "lr"), [(3, 4, 0.01), (8, 2, 0.003), (2, 8, 0.003)])
def test_the_bound_holds_through_training_with_a_large_learning_rate(in_channels, out_channels, lr):
    """Three to ten times the usual one, towards targets out of reach: the norm grows at every step."""
    layer = _layer(in_channels, out_channels, iterations=8)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, in_channels, 4, 5, generator=generator)
    target = 10 * torch.randn(16, out_channels, 4, 5, generator=generator)
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr)
    norms = []
    for _ in range(50):
        weight = layer.bounded_weight()
        norms.append(_norm(layer, weight.detach()))
        optimizer.zero_grad()
        (F.conv2d(x, weight, padding=1) - target).square().mean().backward()
        optimizer.step()
    assert max(norms) < BOUND / 0.98  # 0.98 is the default bound: below 1
    assert norms[-1] > BOUND * 0.99
    assert _norm(layer, layer.eval().bounded_weight()) == pytest.approx(BOUND, rel=1e-4)


def test_other_weights_beside_the_old_vector_are_bounded_outside_of_training():
    """Averaged weights come with the vector of those that are trained."""
    layer = _layer(scale=20).eval()
    layer.bounded_weight()
    with torch.no_grad():
        torch._foreach_lerp_([layer.weight], [20 * torch.randn_like(layer.weight)], 1.0)
    assert _norm(layer, layer.bounded_weight()) == pytest.approx(BOUND, rel=1e-3)


def test_weights_that_a_fused_optimizer_moved_are_seen():
    """Its steps leave the version of a tensor as it was."""
    layer = _layer(scale=20)
    optimizer = torch.optim.Adam(layer.parameters(), lr=5.0, fused=True)
    layer.eval().bounded_weight()
    layer.train()(torch.randn(4, 2, 4, 5)).square().sum().backward()
    optimizer.step()
    assert _norm(layer, layer.eval().bounded_weight()) == pytest.approx(BOUND, rel=1e-3)


def test_looking_leaves_the_stored_vector_alone_and_a_training_step_moves_it():
    layer = _layer(iterations=1)
    with torch.no_grad():
        layer.weight.copy_(torch.randn_like(layer.weight))
    before = layer.vector.clone()
    with torch.no_grad():
        layer.bounded_weight()
    layer.eval().bounded_weight()
    assert torch.equal(layer.vector, before)
    layer.train().bounded_weight()
    assert not torch.equal(layer.vector, before)
    assert layer.vector.norm().item() == pytest.approx(1, abs=1e-5)


def test_the_iteration_survives_weights_of_zero():
    layer = _layer()
    weight = 20 * layer.weight.detach()
    nn.init.zeros_(layer.weight)
    layer.bounded_weight().sum().backward()
    assert torch.isfinite(layer.weight.grad).all()
    with torch.no_grad():
        layer.weight.copy_(weight)
    for _ in range(10):
        layer.bounded_weight()
    assert _norm(layer, layer.bounded_weight()) == pytest.approx(BOUND, rel=1e-2)


def test_the_gradient_includes_that_of_the_norm():
    """The norm of the scaled weight does not depend on the scale of the weight."""
    layer = _layer(scale=20).double().eval()
    direction = torch.randn_like(layer.weight)
    (layer.bounded_weight() * direction).sum().backward()
    gradient, weight = layer.weight.grad, layer.weight.detach()
    assert (gradient * weight).sum().abs() < 1e-6 * gradient.norm() * weight.norm()

    moved = []
    for step in (1e-4, -1e-4):
        other = copy.deepcopy(layer)
        with torch.no_grad():
            other.weight.add_(step * direction)
            moved.append((other.bounded_weight() * direction).sum())
    expected = (moved[0] - moved[1]) / 2e-4
    assert (gradient * direction).sum().item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_norm_is_found_in_full_precision_under_autocast(mode):
    exact = _layer(scale=20).train(mode == "train").bounded_weight()
    layer = _layer(scale=20).train(mode == "train")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.bounded_weight(), exact)
        assert layer(torch.randn(1, 2, 4, 5)).dtype == torch.bfloat16
    assert _norm(layer, exact.bfloat16()) < BOUND * 1.004  # half a unit of bfloat16's eighth bit


def test_lipswish_is_nowhere_steeper_than_one():
    act = LipSwish().double()
    x = torch.linspace(-200, 200, 40001, dtype=torch.float64, requires_grad=True)
    for beta in (-3.0, -1.0, 0.0, 0.5, 2.0, 10.0):
        nn.init.constant_(act.beta, beta)
        (slope,) = torch.autograd.grad(act(x).sum(), x)
        assert slope.max() <= 1
        assert slope.max() > 0.99
        assert slope.min() > -0.1


def test_lipswish_is_swish_with_a_learned_stretch():
    act = LipSwish()
    nn.init.constant_(act.beta, 2.0)
    x = torch.linspace(-3, 3, 7)
    stretch = F.softplus(torch.tensor(2.0))
    assert torch.allclose(act(x), F.silu(stretch * x) / stretch / 1.1, atol=1e-6)
    act(x).sum().backward()
    assert act.beta.grad != 0
