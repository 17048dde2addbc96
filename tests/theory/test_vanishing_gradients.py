"""A discriminator that is sure leaves a minimax generator without a gradient; other losses keep theirs."""

import pytest
import torch

from genlab.adversarial import Hinge, LeastSquares, Minimax, NonSaturating, Wasserstein


def slope(loss, value):
    """The gradient of the generator's loss by the discriminator's value of one image."""
    value = torch.tensor([value]).double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss.generator(value), value)
    return gradient.item()


@pytest.mark.parametrize("logit", [-1.0, -5.0, -20.0])
def test_minimax_fades_with_the_probability_that_the_image_is_real(logit):
    """``d/dl log(1 - sigmoid(l)) = -sigmoid(l)``."""
    probability = torch.tensor(logit).double().sigmoid().item()
    assert slope(Minimax(), logit) == pytest.approx(-probability, rel=1e-9)


@pytest.mark.parametrize("logit", [-1.0, -5.0, -20.0])
def test_non_saturating_is_strongest_there(logit):
    """``d/dl -log sigmoid(l) = -(1 - sigmoid(l))``."""
    probability = torch.tensor(logit).double().sigmoid().item()
    assert slope(NonSaturating(), logit) == pytest.approx(-(1 - probability), rel=1e-9)


def test_both_pull_alike_where_the_discriminator_can_not_tell():
    assert slope(Minimax(), 0.0) == slope(NonSaturating(), 0.0) == -0.5


@pytest.mark.parametrize("loss", [Wasserstein(), Hinge()], ids=lambda loss: loss.name)
def test_critics_pull_alike_everywhere(loss):
    assert slope(loss, -20.0) == slope(loss, 0.0) == -1


def test_least_squares_pulls_harder_the_further_off_an_image_is():
    assert slope(LeastSquares(), -20.0) == pytest.approx(-21.0)
    assert slope(LeastSquares(), 1.0) == 0
