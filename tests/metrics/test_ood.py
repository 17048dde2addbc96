"""OOD measures on scores whose answer is known."""

import pytest
import torch

from genlab.metrics.ood import detection


def test_scores_of_any_size_are_told_apart():
    """torchmetrics' sigmoid would make 0.5 of these; see the comment in detection()."""
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
