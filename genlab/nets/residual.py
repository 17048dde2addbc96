"""Invertible residual blocks: ``y = x + g(x)`` with a contraction ``g``, inverted by iteration."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from genlab.errors import GenlabError
from genlab.nets.bijections import Bijection, Compose
from genlab.nets.lipschitz import LipschitzConv2d, LipSwish
from genlab.nets.power_series import Estimator, log_det


class ConvBranch(nn.Sequential):
    """``g``: convolutions of 3x3, 1x1 and 3x3 pixels, LipSwish before each; a contraction as they are.

    Args:
        shape: ``(C, H, W)`` of input and output.
        hidden_channels: between the convolutions.
        bound: of the norm of each convolution, below 1.
        iterations: of the Lanczos method in each training step.
        activate_input: whether LipSwish comes before the first convolution; not where the input is the image.

    References:
        Chen et al. 2019, "Residual flows for invertible generative modeling", appendix E.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        hidden_channels: int,
        bound: float,
        iterations: int,
        activate_input: bool,
    ) -> None:
        channels, size = shape[0], shape[1:]
        super().__init__(
            LipSwish() if activate_input else nn.Identity(),
            LipschitzConv2d(channels, hidden_channels, 3, size, bound, iterations),
            LipSwish(),
            LipschitzConv2d(hidden_channels, hidden_channels, 1, size, bound, iterations),
            LipSwish(),
            LipschitzConv2d(hidden_channels, channels, 3, size, bound, iterations),
        )


class ResidualBijection(Bijection):
    """``y = x + g(x)``, invertible where ``g`` is a contraction; its log-determinant is an estimate.

    Under autocast ``g`` runs in low precision in training alone: rounding a weight to bfloat16 moves a norm
    by 0.4 % at most, but rounding what lies between the layers makes a map of steps, which has no inverse.

    Args:
        g: a contraction that keeps the shape.
        estimator: of the log-determinant.
        tolerance: the fixed-point iteration ends where the largest change of an image in a step is at most
            this share of its largest value, or of 1; with a Lipschitz constant ``L`` the error is then
            ``L / (1 - L)`` times that.
        max_iterations: of the inverse.

    References:
        Behrmann et al. 2019, "Invertible residual networks", theorem 1, algorithm 1.
    """

    def __init__(self, g: nn.Module, estimator: Estimator, tolerance: float, max_iterations: int) -> None:
        super().__init__()
        self.g, self.estimator = g, estimator
        self.tolerance, self.max_iterations = tolerance, max_iterations

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``y`` and an estimate of the log-determinant, with fresh noise at each call."""
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad(), self._precision(x):
            x = x if differentiable and x.requires_grad else x.detach().requires_grad_()
            g = self.g(x).to(x.dtype)
            estimate = log_det(x, g, self.estimator.weights(self.training), differentiable)
        y = x + g
        return (y, estimate) if differentiable else (y.detach(), estimate)

    def transform(self, x: Tensor) -> Tensor:
        """``y`` alone, at the price of one pass through ``g``."""
        with self._precision(x):
            y: Tensor = x + self.g(x).to(x.dtype)
        return y

    @torch.no_grad()
    def inverse(self, y: Tensor) -> Tensor:
        """The fixed point of ``x = y - g(x)``, each element of the batch iterated until it stands still.

        Raises:
            GenlabError: it does not within ``max_iterations``.
        """
        x, moving = y.clone(), torch.arange(len(y), device=y.device)
        with torch.autocast(y.device.type, enabled=False):
            for _ in range(self.max_iterations):
                before = x[moving]
                after = y[moving] - self.g(before)
                x[moving] = after
                change = _largest(after - before) / _largest(after).clamp(min=1)
                # NaN compares as false, and has to count as moving.
                moving = moving[~(change <= self.tolerance)]
                if not len(moving):
                    return x
        raise GenlabError(
            f"the inverse of a residual block did not converge: after model.inverse_max_iterations="
            f"{self.max_iterations} steps the largest relative change is {change.max().item():.1e}, above "
            f"model.inverse_tolerance={self.tolerance:g}; raise either, or lower model.lipschitz"
        )

    def initialize(self, x: Tensor) -> Tensor:
        """Nothing here depends on data."""
        return self.transform(x)

    def _precision(self, x: Tensor) -> AbstractContextManager[object]:
        """What autocast says in training, full precision where the map has to have an inverse."""
        if self.training:
            return contextlib.nullcontext()
        return torch.autocast(x.device.type, enabled=False)


class ResidualCompose(Compose):
    """Bijections one after another, which need not pay for the log-determinant."""

    def transform(self, x: Tensor) -> Tensor:
        """``y`` alone."""
        for part in self.parts:
            x = part.transform(x) if isinstance(part, ResidualBijection) else part(x)[0]
        return x


def _largest(x: Tensor) -> Tensor:
    return x.abs().flatten(1).amax(1)
