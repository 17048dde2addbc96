"""OOD measures on scores whose answer is known."""

import math

import pytest
import torch

from genlab.ood.detection import auroc_interval, detection, roc


def test_scores_of_any_size_are_told_apart():
    """torchmetrics' sigmoid would make 0.5 of these; see the comment in genlab.ood.detection."""
    generator = torch.Generator().manual_seed(0)
    inside = -1e4 + 100 * torch.randn(500, generator=generator)
    outside = -2e4 + 100 * torch.randn(500, generator=generator)
    assert detection(inside, outside) == {"AUROC": 1.0, "AUPR": 1.0, "FPR95": 0.0}
    assert detection(outside, inside)["AUROC"] == 0.0


def test_auroc_is_the_probability_of_the_right_order():
    generator = torch.Generator().manual_seed(0)
    inside = torch.randn(400, generator=generator) + 0.5
    outside = torch.randn(300, generator=generator)
    expected = (inside[:, None] > outside[None, :]).double().mean().item()
    assert detection(inside, outside)["AUROC"] == pytest.approx(expected, abs=1e-6)


def test_ties_count_half():
    measures = detection(torch.full((100,), -7e3), torch.full((100,), -7e3))
    assert measures["AUROC"] == pytest.approx(0.5)


def test_fpr95_is_the_share_that_passes_with_95_percent_of_the_inside():
    inside = torch.arange(100.0)  # 95 of them are at least 5
    outside = torch.tensor([-1.0] * 60 + [50.0] * 40)
    assert detection(inside, outside)["FPR95"] == pytest.approx(0.4)


def test_it_does_not_depend_on_the_scale():
    inside, outside = torch.randn(100) - 1e4, torch.randn(100) - 1e4
    assert detection(inside, outside) == detection(inside * 3 + 1e3, outside * 3 + 1e3)


def test_the_area_under_the_curve_is_the_auroc():
    generator = torch.Generator().manual_seed(0)
    inside = torch.randn(400, generator=generator, dtype=torch.float64) - 1e4
    outside = torch.randn(300, generator=generator, dtype=torch.float64) - 1.001e4
    false_positive, true_positive = roc(inside, outside)
    assert (false_positive[0], true_positive[0], false_positive[-1], true_positive[-1]) == (0, 0, 1, 1)
    area = torch.trapezoid(true_positive.double(), false_positive.double()).item()
    assert area == pytest.approx(detection(inside, outside)["AUROC"], abs=1e-6)


# ------------------------------------------------------------------ bootstrap


def _normal(n, shift, generator):
    return torch.randn(n, generator=generator, dtype=torch.float64) + shift


def test_the_interval_covers_the_true_auroc_as_often_as_it_says():
    """Of Gaussians one apart the AUROC is Phi(1 / sqrt 2)."""
    generator = torch.Generator().manual_seed(0)
    truth = 0.5 * (1 + math.erf(0.5))
    covered = 0
    for _ in range(200):
        inside, outside = _normal(150, 1.0, generator), _normal(100, 0.0, generator)
        low, high = auroc_interval(inside, outside, 200, generator)
        covered += low <= truth <= high
    assert abs(covered / 200 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 200) + 0.01  # percentiles are a little short


def test_the_width_is_that_of_the_normal_theory():
    """Hanley & McNeil 1982, eq. 1, with the probabilities of two pairs counted."""
    generator = torch.Generator().manual_seed(1)
    inside, outside = _normal(400, 1.0, generator), _normal(400, 0.0, generator)
    order = (inside[:, None] > outside[None, :]).double()
    variance = order.mean(1).var() / 400 + order.mean(0).var() / 400
    low, high = auroc_interval(inside, outside, 2000, generator)
    assert high - low == pytest.approx(2 * 1.96 * variance.sqrt().item(), rel=0.08)


def test_ties_have_no_width_and_perfect_scores_neither():
    generator = torch.Generator().manual_seed(0)
    assert auroc_interval(torch.zeros(10), torch.zeros(12), 50, generator) == (0.5, 0.5)
    assert auroc_interval(torch.ones(10), torch.zeros(12), 50, generator) == (1.0, 1.0)


def test_the_same_seed_gives_the_same_interval():
    inside, outside = torch.randn(50), torch.randn(50)
    intervals = {auroc_interval(inside, outside, 50, torch.Generator().manual_seed(3)) for _ in range(2)}
    assert len(intervals) == 1
