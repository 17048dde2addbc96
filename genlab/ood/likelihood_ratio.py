"""What the model finds more likely than a model of the background does."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from genlab.data import DatasetConfig
from genlab.models.base import Model
from genlab.ood.base import Score, View, needs_density
from genlab.registry import SCORES


@SCORES.register("likelihood_ratio")
class LikelihoodRatio(Score):
    """``log p(x) - log p_background(x)``: what is common to all images drops out.

    The background model is of the same kind and saw training images with a share of their pixels replaced at
    random. Both are given the same noise of dequantisation. Of codes each model has its own, and the ratio is
    known up to a constant, which orders no image differently.

    References:
        Ren et al. 2019, "Likelihood ratios for out-of-distribution detection".
    """

    def obstacle(self, model: type[Model], dataset: DatasetConfig) -> str | None:
        """A density of pixels or codes."""
        return needs_density(model)

    def missing(self, view: View) -> str | None:
        """The background model."""
        if view.background is not None:
            return None
        return "needs a background model: evaluation.background=RUN, a run with dataset.mutation_rate=0.1, say"

    def __call__(self, view: View) -> Mapping[str, Tensor]:
        """One: nats per image."""
        ratio = view.log_density() - view.background_log_density()
        return {f"{view.prefix}likelihood_ratio": ratio}
