"""The best discriminator is ``p / (p + q)``; with it the game's value is ``2 JSD(p || q) - log 4``."""

import math

import pytest
import torch

from genlab.adversarial import Minimax

P = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
Q = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
COUNT = 2000


def sampled(logits, probabilities):
    """The logit of each of ``COUNT`` points, distributed exactly so."""
    return logits.repeat_interleave((COUNT * probabilities).round().long())


def loss(logits):
    return Minimax().discriminator(sampled(logits, P), sampled(logits, Q))


def trained():
    logits = torch.zeros(4).double().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15)

    def closure():
        optimizer.zero_grad()
        value = loss(logits)
        value.backward()
        return value

    optimizer.step(closure)
    return logits.detach()


def test_training_ends_at_the_ratio_of_densities():
    """Goodfellow et al. 2014, proposition 1; in logits, ``log p - log q``."""
    logits = trained()
    assert torch.allclose(Minimax().opinion(logits), P / (P + Q), atol=1e-6)
    assert torch.allclose(logits, P.log() - Q.log(), atol=1e-5)


def test_its_loss_is_log_4_less_twice_jensen_shannon():
    """Goodfellow et al. 2014, theorem 1."""
    m = (P + Q) / 2
    jsd = 0.5 * ((P * (P / m).log()).sum() + (Q * (Q / m).log()).sum())
    assert loss(P.log() - Q.log()).item() == pytest.approx(math.log(4) - 2 * jsd.item(), abs=1e-12)


def test_no_other_one_does_better():
    torch.manual_seed(0)
    best = loss(P.log() - Q.log())
    for _ in range(20):
        assert loss(P.log() - Q.log() + 0.1 * torch.randn(4).double()) > best
