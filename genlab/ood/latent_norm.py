"""How far from the origin the code of an image lies."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genlab.data import DatasetConfig
from genlab.models.base import Model
from genlab.models.flow import Flow
from genlab.models.vae import VAE
from genlab.nets.priors import StandardNormalPrior
from genlab.ood.base import Score, View
from genlab.registry import SCORES
from genlab.types import Batch


@SCORES.register("latent_norm")
class LatentNorm(Score):
    """``-|z|`` of the code of an image: of a flow in its base space, of a VAE the posterior's mean.

    Under a standard normal this is, up to its order, the log-density of the code. It says something only where
    codes of training images were made to follow that distribution, which leaves out autoencoders with a prior
    that was learned.

    References:
        Nalisnick et al. 2019, "Do deep generative models know what they don't know?", the section "Digging
        deeper into the flow-based model" (the two terms of its density); Morningstar et al. 2021, "Density of
        states estimation for out-of-distribution detection" (many statistics of a model beside its density).
    """

    def obstacle(self, model: type[Model], dataset: DatasetConfig) -> str | None:
        """A flow on pixels, or a VAE."""
        if issubclass(model, Flow | VAE):
            return None
        return f"needs codes with a standard normal prior, and {model.__name__} has none"

    def missing(self, view: View) -> str | None:
        """Of a VAE, the standard normal prior."""
        if not isinstance(view.model, VAE) or isinstance(view.model.prior, StandardNormalPrior):
            return None
        return "needs a run of model/prior=standard_normal, and this one learned its prior"

    def __call__(self, view: View) -> Mapping[str, Tensor]:
        """One: the negative norm."""

        def score(batch: Batch) -> Tensor:
            assert isinstance(view.model, Flow | VAE)
            norm: Tensor = torch.linalg.vector_norm(view.model.encode(batch.x).float(), dim=1)
            return -norm

        return {"latent_norm": view.measure("norm of the code", score)}
