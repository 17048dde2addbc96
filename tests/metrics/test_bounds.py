"""The bounds that the likelihood evaluation reports, from importance samples."""

import math

import pytest
import torch

from genlab.metrics.likelihood import bounds
from genlab.types import BoundTerms


def _terms(log_weights: torch.Tensor, kl: float = 2.0) -> BoundTerms:
    """Samples ``(M, B)`` whose log-weights are given."""
    return BoundTerms(-log_weights - kl, torch.full_like(log_weights, kl))


def test_they_tighten_with_m_in_every_set_of_samples():
    """Jensen's inequality within the groups: IWAE-m of nested groups can't rise with m, image by image."""
    log_weights = 3 * torch.randn(60, 7, generator=torch.Generator().manual_seed(0))
    found = bounds(_terms(log_weights), (1, 5, 20, 60))
    for loose, tight in (("NELBO", "IWAE-5"), ("IWAE-5", "IWAE-20"), ("IWAE-20", "IWAE-60")):
        assert (found[loose] > found[tight]).all()


def test_one_sample_is_the_negative_elbo():
    log_weights = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    found = bounds(_terms(log_weights), (1, 12))
    assert torch.allclose(found["IWAE-1"], found["NELBO"])
    assert torch.allclose(found["NELBO"], found["KL"] + found["reconstruction"])


def test_equal_weights_give_the_evidence_at_every_m():
    found = bounds(_terms(torch.full((10, 2), -90.0)), (1, 3, 10))
    for name in ("NELBO", "IWAE-1", "IWAE-3", "IWAE-10"):
        assert torch.allclose(found[name], torch.full((2,), 90.0, dtype=torch.float64))


def test_samples_that_fill_no_group_are_left_out():
    log_weights = torch.tensor([[0.0], [math.log(3)], [50.0]])
    found = bounds(_terms(log_weights), (2, 3))
    assert found["IWAE-2"].item() == pytest.approx(-math.log(2))  # log of the mean of 1 and 3


def test_weights_of_any_size_are_summed_without_overflow():
    found = bounds(_terms(torch.full((4, 1), -1e5)), (4,))
    assert found["IWAE-4"].item() == pytest.approx(1e5)
