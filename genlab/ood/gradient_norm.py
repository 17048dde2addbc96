"""How strongly an image would change the model."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from genlab.ood.base import View
from genlab.ood.gradients import GradientScore, gradients
from genlab.registry import SCORES
from genlab.types import Batch

_SMALLEST = math.log(torch.finfo(torch.float32).tiny)  # what stands for the logarithm of nothing


@SCORES.register("gradient_norm")
class GradientNorm(GradientScore):
    """Minus the log of the squared norm of ``d log p(x) / d theta``, and how typical it is layer by layer.

    ``layer_gradient_norms`` is the log-density of the norms of all layers (weights and biases apart), of which
    each is taken to be log-normal and independent of the others, as fitted to training images.

    References:
        Kwon et al. 2020, "Backpropagated gradient representations for anomaly detection"; Dauncey et al.
        2024, "Approximations to the Fisher information metric of deep generative models for
        out-of-distribution detection" (layer by layer).
    """

    def fit(self, train: View) -> None:
        """Mean and standard deviation of the log of each layer's squared norm."""
        norms = _log_norms(train)
        self.mean, self.scale = norms.mean(0), norms.std(0)

    def __call__(self, view: View) -> Mapping[str, Tensor]:
        """Two: of the whole gradient, and of its parts."""
        norms, prefix = _log_norms(view), view.prefix
        return {
            f"{prefix}gradient_norm": -norms.logsumexp(1),
            f"{prefix}layer_gradient_norms": independent_normal(norms, self.mean, self.scale),
        }


def _log_norms(view: View) -> Tensor:
    """Of all layers, ``(N, L)``."""

    def norms(batch: Batch) -> Tensor:
        return torch.stack([log_squared_norms(parts) for parts in gradients(view.model, batch)])

    return view.measure("norms of gradients", norms, slow=True)


def log_squared_norms(parts: list[Tensor]) -> Tensor:
    """``log |g|^2`` of each tensor ``(L,)``.

    >>> log_squared_norms([torch.tensor([1.0, 0.0]), torch.tensor([[3.0, 4.0]])])
    tensor([0.0000, 3.2189])
    """
    squares = torch.stack([part.float().square().sum() for part in parts])
    return squares.log().clamp(min=_SMALLEST)


def independent_normal(values: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Log-density of ``values`` ``(N, L)``, the sum over ``L`` normals, nats ``(N,)``.

    Those that are the same for all training images, ``scale`` 0, have no density and are left out.

    >>> independent_normal(torch.zeros(1, 2), torch.zeros(2), torch.tensor([1.0, 0.0]))  # -log(2 pi) / 2
    tensor([-0.9189])
    """
    varies = scale > 1e-6
    normal = torch.distributions.Normal(mean[varies], scale[varies], validate_args=False)  # norms may overflow
    log_density: Tensor = normal.log_prob(values[:, varies])
    return log_density.sum(1)
