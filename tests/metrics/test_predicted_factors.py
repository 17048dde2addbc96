"""Scores of predictors: SAP, DCI, and those that tell which factor was held fixed."""

import pytest
import torch
from codes import constant, generator, grid, noise, perfect, rotated

from genlab.disentanglement import dci as forests
from genlab.disentanglement.dci import completeness, dci, disentanglement
from genlab.disentanglement.fixed_factor import Points, beta_vae_score, factor_vae_score
from genlab.disentanglement.sap import sap_score

FACTORS = grid()
TWO_VALUED = grid(copies=40, sizes=(2, 2, 2, 2))
FEW = Points(num_train=600, num_eval=300, group_size=32)


def _split(codes, factors):
    n = 2 * len(codes) // 3
    return codes[:n], factors[:n], codes[n:], factors[n:]


@pytest.fixture
def _few_trees(monkeypatch):
    monkeypatch.setattr(forests, "NUM_TREES", 3)
    monkeypatch.setattr(forests, "DEPTHS", (2, 8))


# ------------------------------------------------------------------------------------ SAP


def test_sap_of_two_values_is_what_is_above_chance():
    score = sap_score(*_split(perfect(TWO_VALUED), TWO_VALUED))
    assert score.per_factor == pytest.approx([0.5] * 4, abs=0.06)
    assert sap_score(*_split(rotated(TWO_VALUED), TWO_VALUED)).value < 0.05
    assert sap_score(*_split(noise(TWO_VALUED), TWO_VALUED)).value < 0.06
    assert sap_score(*_split(constant(TWO_VALUED), TWO_VALUED)).value == 0


def test_sap_ignores_the_order_of_dimensions():
    codes = rotated(TWO_VALUED) + 0.5 * noise(TWO_VALUED)[:, :4]
    score = sap_score(*_split(codes, TWO_VALUED))
    assert sap_score(*_split(codes[:, [2, 0, 3, 1]], TWO_VALUED)).value == pytest.approx(score.value)


# ------------------------------------------------------------------------------------ DCI


@pytest.mark.parametrize("score", [disentanglement, completeness])
def test_importance_of_one_to_one_of_everything_and_of_nothing(score):
    assert score(torch.eye(4)[[2, 0, 3, 1]]).value == pytest.approx(1)
    assert score(torch.ones(4, 4)).value == pytest.approx(0, abs=1e-6)
    assert score(torch.zeros(4, 4)).value == 0


def test_two_dimensions_of_one_factor_are_disentangled_but_not_complete():
    importance = torch.tensor([[0.5, 0.0], [0.5, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert disentanglement(importance).value == pytest.approx(1)
    assert completeness(importance).per_factor == pytest.approx([0.5, 1.0])
    assert completeness(importance).value == pytest.approx(0.75)


@pytest.mark.usefixtures("_few_trees")
def test_dci_of_perfect_rotated_and_collapsed_codes():
    found = dci(*_split(perfect(FACTORS), FACTORS), seed=0)
    scores = [found.disentanglement.value, found.completeness.value, found.informativeness.value]
    assert scores == pytest.approx([1, 1, 1], abs=1e-6)
    assert len(found.completeness.per_factor) == len(found.informativeness.per_factor) == 4

    turned = dci(*_split(rotated(FACTORS), FACTORS), seed=0)
    assert turned.disentanglement.value < 0.75
    assert turned.completeness.value < 0.75
    assert turned.informativeness.value > 0.9  # all is there, though mixed

    collapsed = dci(*_split(constant(FACTORS), FACTORS), seed=0)
    assert collapsed.disentanglement.value == collapsed.completeness.value == 0
    assert collapsed.informativeness.value < 0.5


@pytest.mark.usefixtures("_few_trees")
def test_dimensions_that_know_nothing_do_not_lower_dci():
    """Deep trees would split on them: the depth is the least that predicts well."""
    codes = torch.cat([perfect(FACTORS) + 0.1 * noise(FACTORS)[:, :4], noise(FACTORS)], dim=1)
    assert dci(*_split(codes, FACTORS), seed=0).disentanglement.value > 0.9


# ------------------------------------------------------------------------------------ fixed factors


def test_factor_vae_score_of_perfect_rotated_and_collapsed_codes():
    def score(codes):
        return factor_vae_score(codes, FACTORS, generator(), FEW).value

    assert score(perfect(FACTORS)) == 1
    assert score(rotated(FACTORS)) < 0.75
    assert score(noise(FACTORS)) == pytest.approx(0.25, abs=0.1)
    assert score(constant(FACTORS)) == 0
    assert score(noise(FACTORS, scale=0.01)) == 0  # pruned
    assert score(torch.cat([perfect(FACTORS), constant(FACTORS), noise(FACTORS, 0.01)], dim=1)) == 1


def test_beta_vae_score_of_perfect_and_collapsed_codes():
    def score(codes):
        return beta_vae_score(codes, FACTORS, generator(), FEW).value

    assert score(perfect(FACTORS)) == 1
    assert score(noise(FACTORS)) == pytest.approx(0.25, abs=0.1)
    assert score(constant(FACTORS)) == pytest.approx(0.25, abs=0.1)
    codes = torch.cat([perfect(FACTORS), constant(FACTORS), noise(FACTORS, 0.01)], dim=1)
    assert score(codes) == 1


def test_beta_vae_score_is_blind_to_a_code_that_knows_two_factors_as_one():
    """Four factors in two sums: of each pair, which of them was held fixed can't be told."""
    score = beta_vae_score(rotated(TWO_VALUED)[:, :2], TWO_VALUED, generator(), FEW).value
    assert score == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("measure", [factor_vae_score, beta_vae_score])
def test_score_ignores_the_order_of_dimensions(measure):
    codes = perfect(FACTORS) + 0.5 * noise(FACTORS)[:, :4]
    scores = [measure(c, FACTORS, generator(), FEW).value for c in (codes, codes[:, [2, 0, 3, 1]])]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)


@pytest.mark.parametrize("measure", [factor_vae_score, beta_vae_score])
def test_any_labelled_set_will_do(measure):
    """Values missing, of unequal frequency, and some that a single image has."""
    factors = FACTORS[(FACTORS.sum(dim=1) != 3) | (FACTORS[:, 0] == 0)].clone()
    factors[0, 3] = 99
    assert measure(perfect(factors), factors, generator(), FEW).value > 0.95


@pytest.mark.parametrize("measure", [factor_vae_score, beta_vae_score])
def test_a_factor_that_no_two_images_share_is_refused(measure):
    factors = torch.stack([torch.arange(40), torch.arange(40) % 2], dim=1)
    with pytest.raises(ValueError, match="no two images share"):
        measure(torch.randn(40, 3), factors, generator(), FEW)
