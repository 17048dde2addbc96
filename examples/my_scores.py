"""An OOD score outside the package: the distance to the average training image.

genlab eval plugins=[my_models,my_scores] evaluation=ood evaluation.datasets=[noise,constant]
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from genlab.config import Positive, config
from genlab.likelihood import to_unit
from genlab.ood.base import Score, View
from genlab.registry import SCORES
from genlab.types import Batch


@config
class DistanceToMeanConfig:
    """Settings of :class:`DistanceToMean`."""

    order: Positive = 2.0
    """Of the norm."""


@SCORES.register("distance_to_mean")
class DistanceToMean(Score):
    """Minus the distance of an image to the mean of the training images: what any model has to beat."""

    Config = DistanceToMeanConfig

    def fit(self, train: View) -> None:
        """Remember the mean, ``(C, H, W)``."""
        self.mean = train.measure("pixels", lambda batch: to_unit(batch.x)).mean(0)

    def __call__(self, view: View) -> Mapping[str, Tensor]:
        """One."""
        mean = self.mean.float()

        def score(batch: Batch) -> Tensor:
            distance = to_unit(batch.x) - mean.to(batch.x.device)
            return -distance.flatten(1).norm(p=self.options.order, dim=1)

        return {"distance_to_mean": view.measure("distance to the mean", score)}
