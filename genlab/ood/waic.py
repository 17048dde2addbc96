"""What an ensemble agrees to find likely."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genlab.data import DatasetConfig
from genlab.models.base import Model
from genlab.ood.base import Score, View, needs_density
from genlab.registry import SCORES


@SCORES.register("waic")
class WAIC(Score):
    """Mean minus variance of ``log p(x)`` over models that differ by the seed of their training.

    All are given the same noise of dequantisation, so that the variance is that of the models.

    References:
        Watanabe 2010, "Asymptotic equivalence of Bayes cross validation and widely applicable information
        criterion in singular learning theory"; Choi et al. 2018, "WAIC, but why? Generative ensembles for
        robust anomaly detection".
    """

    def obstacle(self, model: type[Model], dataset: DatasetConfig) -> str | None:
        """A density of pixels or codes."""
        return needs_density(model)

    def missing(self, view: View) -> str | None:
        """A second model at least."""
        return None if len(view.models) > 1 else "needs an ensemble of two runs or more: run=[a,b,c]"

    def __call__(self, view: View) -> Mapping[str, Tensor]:
        """One: nats per image."""
        members = torch.stack([view.log_density(member) for member in range(len(view.models))])
        return {f"{view.prefix}waic": waic(members)}


def waic(members: Tensor) -> Tensor:
    """Mean minus unbiased variance (divided by M - 1) over ``members`` ``(M, N)``, nats -> ``(N,)``.

    >>> waic(torch.tensor([[-10.0, -10.0], [-14.0, -10.0]]))
    tensor([-20., -10.])
    """
    return members.mean(0) - members.var(0)
