"""The log-density itself."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from genlab.data import DatasetConfig
from genlab.models.base import Model
from genlab.ood.base import Score, View, needs_density
from genlab.registry import SCORES


@SCORES.register("log_likelihood")
class LogLikelihood(Score):
    """``log p(x)``; of a model that has a density of codes alone, that one, as ``code_log_likelihood``.

    References:
        Bishop 1994, "Novelty detection and neural network validation"; how it fails: Nalisnick et al. 2019,
        "Do deep generative models know what they don't know?".
    """

    def obstacle(self, model: type[Model], dataset: DatasetConfig) -> str | None:
        """A density of pixels or codes."""
        return needs_density(model)

    def __call__(self, view: View) -> Mapping[str, Tensor]:
        """One: nats per image."""
        return {f"{view.prefix}log_likelihood": view.log_density()}
