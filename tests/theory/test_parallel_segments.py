"""Distances of two parallel segments: only Wasserstein's tells how far apart they are.

Real points are ``(0, u)``, generated ones ``(theta, u)``, u uniform on [0, 1] (Arjovsky et al. 2017,
"Wasserstein GAN", example 1).
"""

import math

import pytest
import torch

from genlab.adversarial import KL, Minimax, Wasserstein

U = torch.linspace(0, 1, 101).double()
THETAS = [0.01, 0.5, 2.0]


def segment(theta):
    return torch.stack([theta * torch.ones_like(U), U], dim=1)


def sure(points, theta):
    """Logits of the best discriminator of segments that don't touch: certain of either, but for the middle."""
    return (1e6 * (theta / 2 - points[:, 0])).clamp(-1000, 1000)


@pytest.mark.parametrize("theta", THETAS)
def test_jensen_shannon_is_log_2_however_near_they_are(theta):
    """``-loss = 2 JSD - log 4`` of the best discriminator: Goodfellow et al. 2014, theorem 1."""
    best = Minimax().discriminator(sure(segment(0.0), theta), sure(segment(theta), theta))
    assert 0.5 * (math.log(4) - best) == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize("theta", THETAS)
def test_kullback_leibler_grows_without_bound_with_the_discriminator_s_certainty(theta):
    """``KL(p_g || p_data)`` is the mean of minus the best logit, and no finite logit is the best."""
    values = [KL().generator(certainty * sure(segment(theta), theta)) for certainty in (1, 10, 100)]
    assert [v.item() for v in values] == pytest.approx([1e3, 1e4, 1e5])


def test_at_the_same_place_all_distances_are_zero():
    same = torch.zeros_like(U)  # logits: nobody can tell
    assert Minimax().discriminator(same, same).item() == pytest.approx(math.log(4))
    assert KL().generator(same) == 0
    assert Wasserstein().discriminator(U, U) == 0


@pytest.mark.parametrize("theta", THETAS)
def test_wasserstein_is_their_distance(theta):
    """A critic of slope 1 shows that it is at least this, and moving each point across, at most."""
    real, fake = segment(0.0), segment(theta)
    at_least = -Wasserstein().discriminator(-real[:, 0], -fake[:, 0])
    at_most = (real - fake).norm(dim=1).mean()
    assert at_least.item() == pytest.approx(theta)
    assert at_most.item() == pytest.approx(theta)


def test_only_wasserstein_has_a_gradient():
    theta = torch.tensor(0.5).double().requires_grad_()
    (slope,) = torch.autograd.grad(Wasserstein().generator(-segment(theta)[:, 0]), theta)
    assert slope == 1  # towards the real ones
    (slope,) = torch.autograd.grad(Minimax().generator(sure(segment(theta), 0.5)), theta)
    assert slope == 0
