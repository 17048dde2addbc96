"""How well the model gives an image back."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from genlab.data import DatasetConfig
from genlab.metrics.reconstruction import squared_error
from genlab.models.base import Model
from genlab.models.flow import Flow
from genlab.ood.base import Score, View
from genlab.registry import SCORES
from genlab.types import Batch, Reconstructs


@SCORES.register("reconstruction_error")
class ReconstructionError(Score):
    """Minus the mean squared error of the reconstruction, per pixel on [0, 1].

    References:
        Japkowicz et al. 1995, "A novelty detection approach to classification" (of autoencoders).
    """

    def obstacle(self, model: type[Model], dataset: DatasetConfig) -> str | None:
        """Reconstructions that lose something."""
        if issubclass(model, Flow):
            return f"says nothing of {model.__name__}, a flow, which gives every image back as it is"
        if hasattr(model, "reconstruct"):
            return None
        return f"needs reconstructions, and {model.__name__} has none"

    def __call__(self, view: View) -> Mapping[str, Tensor]:
        """One: the negative error."""

        def score(batch: Batch) -> Tensor:
            assert isinstance(view.model, Reconstructs)
            return -squared_error(batch.x, view.model.reconstruct(batch.x))

        return {"reconstruction_error": view.measure("reconstruction error", score)}
