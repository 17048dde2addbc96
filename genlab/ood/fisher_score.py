"""How strongly an image would change the model, in units of how training images do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from genlab.ood.base import View
from genlab.ood.gradients import GradientScore, gradients
from genlab.registry import SCORES
from genlab.types import Batch


@SCORES.register("fisher_score")
class FisherScore(GradientScore):
    """``-g' F^-1 g`` of the gradient ``g`` of log p(x) in the parameters: Rao's score statistic.

    ``F``, the diagonal of the Fisher information, is the mean square of the gradients of training images, on
    which the score is minus the number of parameters on average. Parameters that no training image moves have
    no information and are left out.

    References:
        Rao 1948, "Large sample tests of statistical hypotheses concerning several parameters with
        applications to problems of estimation"; Bergamin et al. 2022, "Model-agnostic out-of-distribution
        detection using combined statistical tests" (as a score of images).
    """

    information: Sequence[Tensor]

    def fit(self, train: View) -> None:
        """The information in each parameter, from as many images as are scored of a set."""
        total = [torch.zeros_like(p, dtype=torch.float32) for p in train.model.parameters()]

        def add(batch: Batch) -> Tensor:
            for parts in gradients(train.model, batch):
                for squares, part in zip(total, parts, strict=True):
                    squares.addcmul_(part, part)
            return batch.x.new_ones(len(batch.x))

        images = train.measure("Fisher information", add, slow=True)
        self.information = [squares / len(images) for squares in total]

    def __call__(self, view: View) -> Mapping[str, Tensor]:
        """One."""

        def score(batch: Batch) -> Tensor:
            found = [score_statistic(parts, self.information) for parts in gradients(view.model, batch)]
            return -torch.stack(found)

        return {f"{view.prefix}fisher_score": view.measure("Fisher score", score, slow=True)}


def score_statistic(gradient: Sequence[Tensor], information: Sequence[Tensor]) -> Tensor:
    """``sum g^2 / F`` over all entries of all tensors that have information.

    >>> score_statistic([torch.tensor([2.0, 5.0])], [torch.tensor([4.0, 0.0])])
    tensor(1.)
    """
    terms = [(g.square() / f).where(f > 0, 0).sum() for g, f in zip(gradient, information, strict=True)]
    return torch.stack(terms).sum()
