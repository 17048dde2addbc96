"""How well a score tells two sets apart."""

from __future__ import annotations

import torch
from torch import Tensor

# torchmetrics takes seconds to import, which a training that ends with these scores should not begin with.


def detection(inside: Tensor, outside: Tensor) -> dict[str, float]:
    """AUROC, AUPR and FPR at 95 % TPR of scores that should be higher ``inside``, ``(N,)`` and ``(M,)``.

    References:
        Hendrycks & Gimpel 2017, "A baseline for detecting misclassified and out-of-distribution examples in
        neural networks"; the FPR: Liang et al. 2018, "Enhancing the reliability of out-of-distribution image
        detection in neural networks".

    >>> detection(torch.tensor([-1e4, -1.1e4]), torch.tensor([-2e4, -3e4]))
    {'AUROC': 1.0, 'AUPR': 1.0, 'FPR95': 0.0}
    """
    from torchmetrics.functional import classification

    ranks, target = ranked(inside, outside)
    specificity, _ = classification.binary_specificity_at_sensitivity(ranks, target, min_sensitivity=0.95)
    return {
        "AUROC": classification.binary_auroc(ranks, target).item(),
        "AUPR": classification.binary_average_precision(ranks, target).item(),
        "FPR95": 1 - specificity.item(),
    }


def roc(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """The curve: false positive rates and true positive rates, ascending from 0 to 1.

    >>> roc(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0]))  # up first, then to the right
    (tensor([0.0000, 0.0000, 0.0000, 0.5000, 1.0000]), tensor([0.0000, 0.5000, 1.0000, 1.0000, 1.0000]))
    """
    from torchmetrics.functional import classification

    ranks, target = ranked(inside, outside)
    false_positive, true_positive, _ = classification.binary_roc(ranks, target)
    return false_positive, true_positive


def auroc_interval(
    inside: Tensor, outside: Tensor, resamples: int, generator: torch.Generator, level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of the AUROC: percentiles over ``resamples`` draws of both sets with replacement.

    It is of the images alone: another training of the model would move the AUROC by more.

    References:
        Efron & Tibshirani 1993, "An introduction to the bootstrap", chapter 13 (percentile intervals).

    >>> inside, outside = torch.tensor([2.0, 3.0, 4.0]), torch.tensor([0.0, 1.0])
    >>> auroc_interval(inside, outside, 100, torch.Generator())
    (1.0, 1.0)
    """
    values, place = torch.cat([inside, outside]).unique(return_inverse=True)
    places_inside, places_outside = place[: len(inside)], place[len(inside) :]
    found = torch.empty(resamples, dtype=torch.float64)
    for i in range(resamples):
        counts_inside = _resampled(places_inside, len(values), generator)
        counts_outside = _resampled(places_outside, len(values), generator)
        below = counts_outside.cumsum(0) - 0.5 * counts_outside  # of a tie, half
        found[i] = (counts_inside * below).sum() / (len(inside) * len(outside))
    tail = (1 - level) / 2
    low, high = found.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def _resampled(places: Tensor, num_places: int, generator: torch.Generator) -> Tensor:
    """How often each place is drawn, float64."""
    drawn = places[torch.randint(len(places), places.shape, generator=generator)]
    return drawn.bincount(minlength=num_places).double()


def ranked(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks of all scores in (0, 1), and which are ``inside``.

    torchmetrics passes scores outside [0, 1] through a sigmoid, which is 0 for any log-likelihood; its
    measures depend on the order alone, so that ranks say the same.

    >>> ranked(torch.tensor([-10.0]), torch.tensor([-1e4, -2e4]))[0]
    tensor([0.7500, 0.5000, 0.2500], dtype=torch.float64)
    """
    scores = torch.cat([inside, outside])
    distinct, rank = scores.unique(return_inverse=True)
    target = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))]).long()
    return (rank + 1).double() / (len(distinct) + 1), target
