"""What predictors of the factors look at: disentanglement, completeness, informativeness."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genlab.disentanglement.score import Score, mean_over_factors

NUM_TREES = 20
DEPTHS = (2, 4, 6, 8, 12)


@dataclass(frozen=True)
class DCI:
    """Three scores from 0 to 1, higher being better."""

    disentanglement: Score
    completeness: Score
    informativeness: Score


def dci(codes: Tensor, factors: Tensor, test_codes: Tensor, test_factors: Tensor, seed: int) -> DCI:
    """Disentanglement, completeness and informativeness of random forests that predict each factor.

    The importance of a dimension for a factor is its share of the decrease in Gini impurity. The forests have
    20 trees that choose among all dimensions at every split, of the least depth (2 to 12) within a standard
    error of the best accuracy on a quarter of the images, which they are not grown on. Informativeness is
    their accuracy on further images ``(M, D)``, ``(M, F)``.

    References:
        Eastwood & Williams 2018, "A framework for the quantitative evaluation of disentangled
        representations": forests of tuned depth are theirs (as regressors). Locatello et al. 2019 take
        gradient-boosted trees, minutes instead of seconds for as many values as dSprites has: their figures
        are not comparable to the last digit.
    """
    forests = [_forest(codes, column, seed) for column in factors.unbind(1)]
    rows = [torch.from_numpy(forest.feature_importances_).double() for forest in forests]
    importance = torch.stack(rows, dim=1)
    accuracies = [
        float(forest.score(test_codes.numpy(), column.numpy()))
        for forest, column in zip(forests, test_factors.unbind(1), strict=True)
    ]
    return DCI(
        disentanglement(importance),
        completeness(importance),
        mean_over_factors(torch.tensor(accuracies, dtype=torch.float64)),
    )


def disentanglement(importance: Tensor) -> Score:
    """Whether each dimension matters for one factor only, of importance ``(D, F)``.

    One less the entropy over factors, as a share of its greatest, averaged over dimensions by how much they
    matter; 0 where nothing matters.

    >>> disentanglement(torch.eye(3)).value
    1.0
    >>> round(disentanglement(torch.ones(3, 3)).value, 6)
    0.0
    """
    return Score(_concentration(importance, importance.sum(dim=1)).item())


def completeness(importance: Tensor) -> Score:
    """Whether each factor is told by one dimension only, of importance ``(D, F)``; averaged over factors.

    The parts are those of the factors.

    >>> completeness(torch.tensor([[1.0, 0.5], [0.0, 0.5]])).per_factor
    (1.0, 0.0)
    """
    parts = _peakedness(importance.T)
    value = _concentration(importance.T, importance.sum(dim=0)).item()
    return Score(value, tuple(parts.tolist()))


def _concentration(rows: Tensor, weights: Tensor) -> Tensor:
    total = weights.sum()
    return (_peakedness(rows) * weights).sum() / total if total > 0 else total


def _peakedness(rows: Tensor) -> Tensor:
    """One less the entropy of each row, normalised, to the base of its length; 0 for a row of zeros."""
    total = rows.sum(dim=1, keepdim=True)
    p = torch.where(total > 0, rows / total.clamp(min=1e-30), 1 / rows.shape[1])
    return 1 + torch.xlogy(p, p).sum(dim=1) / math.log(rows.shape[1])


def _forest(codes: Tensor, column: Tensor, seed: int) -> Any:
    """The forest for one factor, of the least depth that predicts it about as well as any."""
    from sklearn.ensemble import RandomForestClassifier  # half a second that no other verb has to wait for

    order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(seed))
    held_out, rest = order[: len(codes) // 4], order[len(codes) // 4 :]
    forests, accuracies = [], []
    for depth in DEPTHS:
        forest = RandomForestClassifier(
            NUM_TREES, max_depth=depth, max_features=None, random_state=seed, n_jobs=torch.get_num_threads()
        )
        forests.append(forest.fit(codes[rest].numpy(), column[rest].numpy()))
        accuracies.append(float(forest.score(codes[held_out].numpy(), column[held_out].numpy())))
    best = max(accuracies)
    # One standard error below the best: deeper splits of no use would spread importance over every dimension.
    enough = best - math.sqrt(best * (1 - best) / len(held_out))
    return next(forest for forest, value in zip(forests, accuracies, strict=True) if value >= enough)
