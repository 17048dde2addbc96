"""How the log-density of single images changes with the parameters: what two of the scores are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter

from genlab.data import DatasetConfig
from genlab.models.base import Model
from genlab.ood.base import Score, View, log_density_of, needs_density
from genlab.types import Batch


def gradients(model: Model, batch: Batch) -> Iterator[list[Tensor]]:
    """The gradient of each image's log-density in every parameter of ``model``, in the order of the batch.

    One image after another, which holds for any model: no function of it needs a rule for ``vmap``, and
    memory stays that of a single gradient. Parameters that the density doesn't depend on have zeros.
    """
    density, parameters = log_density_of(model), list(model.parameters())
    for i in range(len(batch.x)):
        image = Batch(batch.x[i : i + 1], None if batch.y is None else batch.y[i : i + 1])
        with torch.enable_grad(), _all_required(parameters):
            log_density = density(image).sum()
            found = torch.autograd.grad(log_density, parameters, allow_unused=True, materialize_grads=True)
        yield list(found)


class GradientScore(Score):
    """A score that is made of the gradients of a density of pixels or codes."""

    slow = True

    def obstacle(self, model: type[Model], dataset: DatasetConfig) -> str | None:
        """A density."""
        return needs_density(model)

    def missing(self, view: View) -> str | None:
        """Its gradient."""
        model, image = view.model, view.data.batch(slice(0, 1))
        required = _all_required(list(model.parameters()))
        with view.hardware.isolated(model, view.seed), torch.enable_grad(), required:
            if log_density_of(model)(image).requires_grad:
                return None
        return f"needs a density with a gradient, and that of {type(model).__name__} has none"


@contextmanager
def _all_required(parameters: Sequence[Parameter]) -> Iterator[None]:
    """Training in stages leaves those of other stages frozen."""
    before = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, required in zip(parameters, before, strict=True):
            parameter.requires_grad_(required)
