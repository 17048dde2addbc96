"""Gradients of log-densities in the parameters, against what they are by hand."""

import math

import pytest
import torch
from ood_view import CPU, Known, noise, view
from torch import nn

from genlab.models.base import Model
from genlab.ood.fisher_score import FisherScore, score_statistic
from genlab.ood.gradient_norm import GradientNorm, independent_normal, log_squared_norms
from genlab.ood.gradients import GradientScore, gradients
from genlab.types import Batch, DataSpec

SHAPE = (1, 2, 2)


class Normal(Model):
    """``N(mean, exp(2 s) I)`` of four pixels on [0, 1], and a parameter that nothing depends on."""

    likelihood = "exact"

    def __init__(self, mean=0.3, s=-0.5):
        super().__init__(DataSpec(*SHAPE))
        self.mean = nn.Parameter(torch.full((4,), mean, dtype=torch.float64))
        self.s = nn.Parameter(torch.tensor(s, dtype=torch.float64))
        self.unused = nn.Parameter(torch.ones(3))

    def log_prob(self, x, y=None):
        distance = (x.double().flatten(1) / 255 - self.mean).square().sum(1)
        return -0.5 * distance * (-2 * self.s).exp() - 4 * self.s - 2 * math.log(2 * math.pi)

    def by_hand(self, x):
        """The gradients in mean ``(B, 4)`` and log-scale ``(B, 1)``."""
        precision = (-2 * self.s).exp().detach()
        error = x.double().flatten(1) / 255 - self.mean.detach()
        return error * precision, error.square().sum(1, keepdim=True) * precision - 4


class OfClasses(Normal):
    """Its log-density is a class's own share of one parameter."""

    def log_prob(self, x, y=None):
        return self.mean[y] * x[:, 0, 0, 0]


def test_each_image_has_the_gradient_that_calculus_gives():
    model, x = Normal(), noise(5, SHAPE)
    found = list(gradients(model, Batch(x)))
    mean, s = model.by_hand(x)
    assert len(found) == 5
    for i, parts in enumerate(found):
        torch.testing.assert_close(parts[0], mean[i])
        torch.testing.assert_close(parts[1], s[i, 0])
        assert (parts[2] == 0).all()


def test_each_image_comes_with_its_own_label():
    x, y = noise(3, SHAPE), torch.tensor([2, 0, 3])
    for image, label, parts in zip(x, y, gradients(OfClasses(), Batch(x, y)), strict=True):
        assert parts[0].tolist() == [image[0, 0, 0] if i == label else 0 for i in range(4)]


def test_the_score_is_minus_the_log_of_the_squared_norm():
    model, x = Normal(), noise(6, SHAPE)
    score = GradientNorm(None)
    score.fit(view(noise(20, SHAPE, seed=1), model))
    found = score(view(x, model))["gradient_norm"]
    squares = torch.cat(model.by_hand(x), dim=1).square().sum(1)
    torch.testing.assert_close(found, -squares.log())


def test_layers_are_independent_normals_of_the_logs_of_training_images():
    model, x, train = Normal(), noise(6, SHAPE), noise(50, SHAPE, seed=1)
    score = GradientNorm(None)
    score.fit(view(train, model))
    found = score(view(x, model))["layer_gradient_norms"]

    def logs(x):
        return torch.stack([part.square().sum(1).log() for part in model.by_hand(x)])

    expected = torch.zeros(6, dtype=torch.float64)
    for train_logs, test_logs in zip(
        logs(train), logs(x), strict=True
    ):  # not the parameter that nothing depends on
        variance = train_logs.var()
        expected += -0.5 * ((test_logs - train_logs.mean()) ** 2 / variance + (2 * math.pi * variance).log())
    torch.testing.assert_close(found, expected)


def test_a_gradient_of_zero_has_a_norm_that_can_be_averaged():
    assert log_squared_norms([torch.zeros(3)]).isfinite().all()
    values = torch.tensor([[1.0, 5.0]])
    alone = independent_normal(values[:, :1], torch.tensor([0.5]), torch.tensor([2.0]))
    assert torch.equal(independent_normal(values, torch.tensor([0.5, 5.0]), torch.tensor([2.0, 0.0])), alone)


def test_the_fisher_score_of_training_images_is_the_number_of_parameters_on_average():
    model, train = Normal(), view(noise(40, SHAPE), Normal())
    score = FisherScore(None)
    score.fit(train)
    found = score(train)["fisher_score"]
    assert found.mean().item() == pytest.approx(
        -5, rel=1e-5
    )  # those that nothing depends on have no information
    mean, s = model.by_hand(noise(40, SHAPE))
    g = torch.cat([mean, s], dim=1)
    torch.testing.assert_close(found, -(g.square() / g.square().mean(0)).sum(1), rtol=1e-5, atol=0)


def test_the_fisher_score_of_draws_of_the_model_tends_to_the_information_in_closed_form():
    """Of ``N(m, exp(2 s))`` it is ``exp(-2 s)`` in each mean, and ``2 D`` in the log-scale."""
    model = Normal(mean=0.5, s=math.log(0.1))
    generator = torch.Generator().manual_seed(0)
    draws = 0.5 + 0.1 * torch.randn(3000, *SHAPE, generator=generator)
    score = FisherScore(None)
    score.fit(view((draws * 255).round().clamp(0, 255).to(torch.uint8), model, batch_size=500))
    mean, s, _ = score.information
    # A mean of n squares of normals errs by sqrt(2 / n) of itself, that of a chi-squared's square by more.
    assert ((mean / 100 - 1).abs() < 3.5 * math.sqrt(2 / 3000)).all()
    assert abs(s / 8 - 1) < 0.2


def test_the_statistic_leaves_out_what_has_no_information():
    gradient = [torch.tensor([2.0, 7.0]), torch.tensor([[3.0]])]
    information = [torch.tensor([4.0, 0.0]), torch.tensor([[0.5]])]
    assert score_statistic(gradient, information) == 1 + 18


@pytest.mark.parametrize("score", [GradientNorm(None), FisherScore(None)], ids=["norm", "Fisher"])
def test_frozen_parameters_have_gradients_and_stay_frozen(score):
    free, frozen, x = Normal(), Normal().requires_grad_(False), noise(4, SHAPE)
    scores = []
    for model in (free, frozen):
        assert score.missing(view(x, model)) is None
        score.fit(view(noise(9, SHAPE, seed=1), model))
        scores.append(score(view(x, model)))
    assert all(torch.equal(scores[0][name], scores[1][name]) for name in scores[0])
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad and p.grad is None for p in free.parameters())


def test_a_density_that_no_gradient_passes_through_is_said_to_be_one():
    score = GradientScore(None)
    assert "Known" in score.missing(view(noise(2, SHAPE), Known()))
    assert score.missing(view(noise(2, SHAPE), Normal())) is None


def test_only_as_many_images_are_seen_as_slow_scores_are_given():
    model = Normal().to(CPU)
    score = GradientNorm(None)
    score.fit(view(noise(9, SHAPE, seed=1), model))
    assert score.slow
    assert all(len(row) == 3 for row in score(view(noise(7, SHAPE), model, slow_limit=3)).values())
