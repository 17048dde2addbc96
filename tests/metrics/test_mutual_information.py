"""Information of codes on factors, in histograms and from the aggregate posterior."""

import math

import numpy as np
import pytest
import torch
from codes import constant, generator, grid, noise, perfect, rotated
from sklearn.metrics import mutual_info_score

from genlab.disentanglement.aggregate import aggregate_entropy, mig_chen, sampled_information
from genlab.disentanglement.histograms import entropies, mig_hist20, modularity, mutual_information
from genlab.nets.gaussian import DiagonalGaussian

FACTORS = grid()


def _posterior(codes, std):
    return DiagonalGaussian(codes, torch.full_like(codes, 2 * math.log(std)))


# ------------------------------------------------------------------------------------ histograms


def _slow_information(codes, factors, num_bins):
    """As disentanglement_lib has it: a histogram's edges, digitize, scikit-learn, pair by pair."""
    result = np.zeros((codes.shape[1], factors.shape[1]))
    for j, code in enumerate(codes.double().T.numpy()):
        binned = np.digitize(code, np.histogram(code, num_bins)[1][:-1])
        for k, factor in enumerate(factors.T.numpy()):
            result[j, k] = mutual_info_score(factor, binned)
    return result


@pytest.mark.parametrize("num_bins", [5, 20])
def test_information_is_that_of_a_slow_reference(num_bins):
    codes = torch.cat([rotated(FACTORS), perfect(FACTORS), noise(FACTORS), constant(FACTORS)], dim=1)
    codes = codes + 0.3 * noise(FACTORS)[:, :1]
    expected = _slow_information(codes, FACTORS, num_bins)
    np.testing.assert_allclose(mutual_information(codes, FACTORS, num_bins).numpy(), expected, atol=1e-10)


def test_gap_is_that_of_a_slow_reference():
    codes = rotated(FACTORS) + 0.5 * noise(FACTORS)[:, :4]
    best, second = np.sort(_slow_information(codes, FACTORS, 20), axis=0)[[-1, -2]]
    entropy = [mutual_info_score(column, column) for column in FACTORS.T.numpy()]
    expected = (best - second) / entropy
    assert mig_hist20(codes, FACTORS).per_factor == pytest.approx(list(expected))
    assert mig_hist20(codes, FACTORS).value == pytest.approx(expected.mean())


def test_identical_variables_share_their_entropy_and_independent_ones_nothing():
    information = mutual_information(FACTORS.float(), FACTORS)
    assert entropies(FACTORS).tolist() == pytest.approx([math.log(n) for n in (2, 2, 3, 4)])
    torch.testing.assert_close(information, entropies(FACTORS).diag(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("step", [7, 10**15])  # of the latter there is no counting all that lie between
def test_values_of_a_factor_need_not_count_from_zero(step):
    odd = FACTORS * step - 3
    torch.testing.assert_close(
        mutual_information(rotated(FACTORS), odd), mutual_information(rotated(FACTORS), FACTORS)
    )


def test_gap_of_perfect_rotated_and_collapsed_codes():
    assert mig_hist20(perfect(FACTORS), FACTORS).value == pytest.approx(1)
    assert mig_hist20(rotated(FACTORS), FACTORS).value < 0.05
    assert mig_hist20(noise(FACTORS), FACTORS).value < 0.05
    assert mig_hist20(constant(FACTORS), FACTORS).value == 0


def test_gap_ignores_order_and_scale_of_dimensions():
    codes = rotated(FACTORS) + 0.5 * noise(FACTORS)[:, :4]
    other = codes[:, [2, 0, 3, 1]] * torch.tensor([2.0, -1.0, 0.25, 8.0])
    assert mig_hist20(other, FACTORS).value == pytest.approx(mig_hist20(codes, FACTORS).value, abs=1e-3)


def test_modularity_of_perfect_rotated_and_collapsed_codes():
    assert modularity(perfect(FACTORS), FACTORS).value == pytest.approx(1)
    assert modularity(rotated(FACTORS), FACTORS).value < 0.85  # (F - 2) / (F - 1) of two equal ones in four
    assert modularity(constant(FACTORS), FACTORS).value == 0
    assert modularity(noise(FACTORS, scale=0.01), FACTORS).value == 0


def test_modularity_leaves_collapsed_dimensions_out():
    codes = torch.cat([perfect(FACTORS), noise(FACTORS, scale=0.01), constant(FACTORS)], dim=1)
    assert modularity(codes, FACTORS).value == pytest.approx(1)


# ------------------------------------------------------------------------------------ aggregate posterior


def test_entropy_of_one_gaussian_is_the_closed_form():
    std = torch.tensor([0.1, 1.0, 3.0])
    q = DiagonalGaussian(torch.zeros(1, 3), 2 * std.log()[None])
    z = std * torch.randn(20_000, 3, generator=generator())
    expected = 0.5 * math.log(2 * math.pi * math.e) + std.log()
    torch.testing.assert_close(aggregate_entropy(z, q), expected, atol=0.02, rtol=0)


def test_entropy_of_gaussians_far_apart_adds_the_choice_among_them():
    centres = 100.0 * torch.arange(8).repeat_interleave(500)[:, None].expand(-1, 2)
    z = centres + 0.5 * torch.randn(centres.shape, generator=generator())
    expected = 0.5 * math.log(2 * math.pi * math.e) + math.log(0.5) + math.log(8)
    entropy = aggregate_entropy(z, _posterior(centres, 0.5))
    torch.testing.assert_close(entropy, torch.full((2,), expected), atol=0.03, rtol=0)


def test_entropy_where_prior_and_posteriors_make_a_gaussian():
    """Means N(0, 1 - s^2) and posteriors of standard deviation s: the aggregate is N(0, 1)."""
    std = 0.6
    means = (1 - std**2) ** 0.5 * torch.randn(3000, 1, generator=generator())
    z = means + std * torch.randn(means.shape, generator=generator(1))
    entropy = aggregate_entropy(z, _posterior(means, std))
    assert entropy.item() == pytest.approx(0.5 * math.log(2 * math.pi * math.e), abs=0.04)


def test_entropy_does_not_depend_on_how_the_work_is_cut(monkeypatch):
    q, z = _posterior(noise(FACTORS), 0.3), noise(FACTORS)[:50]
    whole = aggregate_entropy(z, q)
    monkeypatch.setattr("genlab.disentanglement.aggregate._CHUNK", 1)
    torch.testing.assert_close(aggregate_entropy(z, q), whole)


def test_sampled_information_on_a_factor_is_its_entropy_where_posteriors_are_narrow():
    q = _posterior(FACTORS.float(), 0.05)
    information = sampled_information(q, FACTORS, 10_000, generator())
    torch.testing.assert_close(information, entropies(FACTORS).diag().float(), atol=0.02, rtol=0)


def test_sampled_information_of_two_values_in_noise_is_the_capacity_of_that_channel():
    """Antipodal signals at 0 dB in Gaussian noise: 0.486 bits."""
    factors = torch.randint(2, (3000, 2), generator=generator())
    q = _posterior(2.0 * factors - 1, 1.0)
    information = sampled_information(q, factors, 10_000, generator()) / math.log(2)
    torch.testing.assert_close(information, 0.486 * torch.eye(2), atol=0.03, rtol=0)


def test_sampled_gap_of_perfect_rotated_and_collapsed_posteriors():
    def mig(codes, std):
        return mig_chen(_posterior(codes, std), FACTORS, 10_000, generator()).value

    assert mig(perfect(FACTORS), 0.05) == pytest.approx(1, abs=0.02)
    assert mig(rotated(FACTORS), 0.1) < 0.05
    assert mig(constant(FACTORS), 1.0) == pytest.approx(0, abs=1e-6)  # the posterior is the prior
    assert mig(noise(FACTORS, 0.01), 1.0) < 0.01


def test_sampled_gap_takes_random_images_where_it_takes_fewer():
    ordered = FACTORS[FACTORS[:, 3].argsort()]  # the first of these all have one value
    value = mig_chen(_posterior(perfect(ordered), 0.05), ordered, 300, generator()).value
    assert value == pytest.approx(1, abs=0.05)


def test_sampled_gap_ignores_the_order_of_dimensions():
    codes = rotated(FACTORS) + 0.5 * noise(FACTORS)[:, :4]
    gaps = [
        mig_chen(_posterior(c, 0.2), FACTORS, 10_000, generator()).value
        for c in (codes, codes[:, [2, 0, 3, 1]])
    ]
    assert gaps[0] == pytest.approx(gaps[1], abs=0.03)
