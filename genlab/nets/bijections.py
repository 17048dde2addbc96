"""Invertible maps with tractable Jacobians: the parts of normalising flows.

A :class:`Bijection` maps ``x`` to ``(y, log_det)``, with ``log_det = log |det dy/dx|`` in nats per element of
the batch ``(B,)``, and back by ``inverse``. All act along dimension 1, so that one class serves vectors
``(B, D)`` and images ``(B, C, H, W)`` alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Bijection(nn.Module):
    """An invertible map."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``y`` and ``log |det dy/dx|`` ``(B,)``."""
        raise NotImplementedError

    def inverse(self, y: Tensor) -> Tensor:
        """The ``x`` that :meth:`forward` maps to ``y``."""
        raise NotImplementedError

    def initialize(self, x: Tensor) -> Tensor:
        """Set what depends on data from a first batch ``x``, and return its image."""
        y: Tensor = self(x)[0]
        return y


class Compose(Bijection):
    """Bijections one after another."""

    def __init__(self, parts: Sequence[Bijection]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All parts in order; their log-determinants add up."""
        total = x.new_zeros(len(x))
        for part in self.parts:
            x, log_det = part(x)
            total = total + log_det
        return x, total

    def inverse(self, y: Tensor) -> Tensor:
        """All parts backwards."""
        for part in reversed(self.parts):
            assert isinstance(part, Bijection)
            y = part.inverse(y)
        return y

    def initialize(self, x: Tensor) -> Tensor:
        """Each part sees the batch as the parts before it leave it."""
        for part in self.parts:
            assert isinstance(part, Bijection)
            x = part.initialize(x)
        return x


class _Gather(torch.autograd.Function):
    """``x[:, order]`` whose gradient is a gather too: autograd's own scatters, which is slow."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, order: Tensor, inverse_order: Tensor) -> Tensor:
        return x.index_select(1, order)  # several times faster than x[:, order] on a CPU

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.index_select(1, ctx.saved_tensors[0]), None, None


def _gather(x: Tensor, order: Tensor, inverse_order: Tensor) -> Tensor:
    y: Tensor = _Gather.apply(x, order, inverse_order)
    return y


class Permutation(Bijection):
    """``y[:, i] = x[:, order[i]]``: volume-preserving."""

    order: Tensor
    inverse_order: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)
        self.register_buffer("inverse_order", order.argsort())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reorder dimension 1."""
        return _gather(x, self.order, self.inverse_order), x.new_zeros(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        """Order dimension 1 as it was."""
        return y.index_select(1, self.inverse_order)


class Flatten(Bijection):
    """``(B, C, H, W)`` -> ``(B, C * H * W)``."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images to vectors."""
        return x.flatten(1), x.new_zeros(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        """Vectors to images."""
        return y.view(-1, *self.shape)


class Squeeze(Bijection):
    """``(B, C, H, W)`` -> ``(B, 4C, H/2, W/2)``: each 2x2 square of pixels becomes four channels.

    Channel ``4 c + k`` holds pixel ``k`` (row by row) of the square in channel ``c``.

    References:
        Dinh et al. 2017, "Density estimation using Real NVP", section 3.6.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Space to channels; ``H`` and ``W`` are even."""
        return F.pixel_unshuffle(x, 2), x.new_zeros(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        """Channels to space."""
        return F.pixel_shuffle(y, 2)


class ActNorm(Bijection):
    """``y = (x + bias) * exp(log_scale)`` per index of dimension 1, first normalising the data.

    References:
        Kingma & Dhariwal 2018, "Glow", section 3.1.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))
        self.log_scale = nn.Parameter(torch.zeros(dim))

    def _like(self, parameter: Tensor, x: Tensor) -> Tensor:
        return parameter.view(-1, *[1] * (x.dim() - 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale."""
        y = (x + self._like(self.bias, x)) * self._like(self.log_scale, x).exp()
        pixels = math.prod(x.shape[2:])
        return y, (pixels * self.log_scale.sum()).expand(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        """Scale and shift back."""
        return y * self._like(-self.log_scale, y).exp() - self._like(self.bias, y)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> Tensor:
        """Zero mean and unit variance of ``y`` on this batch."""
        values = x.transpose(0, 1).flatten(1)
        self.bias.copy_(-values.mean(1))
        # A pixel that never changes would otherwise be blown up without bound.
        self.log_scale.copy_(-values.std(1).clamp(min=1e-3).log())
        return super().initialize(x)


class AffineCoupling(Bijection):
    """The second half is scaled and shifted by what a network reads in the first.

    ``y1 = x1``, ``y2 = x2 * exp(s(x1)) + t(x1)`` with ``s = bound * tanh(raw / bound)``, so that no layer
    scales by more than ``exp(bound)`` and the inverse stays accurate in float32.

    Args:
        net: ``(B, d, ...)`` -> ``(B, 2 (D - d), ...)``, the raw log-scale and the shift; its last layer starts
            at zero, so that the coupling starts as the identity.
        split: ``d``, the size of the first half.
        bound: the largest log-scale.

    References:
        Dinh et al. 2017, "Density estimation using Real NVP", eq. 7-8.
    """

    def __init__(self, net: nn.Sequential, split: int, bound: float) -> None:
        super().__init__()
        self.net, self.split, self.bound = net, split, bound
        last = net[-1]
        assert isinstance(last, nn.Linear | nn.Conv2d)
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)

    def _scale_and_shift(self, x1: Tensor) -> tuple[Tensor, Tensor]:
        # Under autocast the network answers in bfloat16: eight bits are too few for a sum of log-scales.
        raw, shift = self.net(x1).to(x1.dtype).chunk(2, dim=1)
        return self.bound * torch.tanh(raw / self.bound), shift

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One pass of the network gives map and log-determinant."""
        x1, x2 = x[:, : self.split], x[:, self.split :]
        log_scale, shift = self._scale_and_shift(x1)
        y2 = x2 * log_scale.exp() + shift
        return torch.cat([x1, y2], dim=1), log_scale.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """As cheap as the map: the first half is there unchanged."""
        y1, y2 = y[:, : self.split], y[:, self.split :]
        log_scale, shift = self._scale_and_shift(y1)
        return torch.cat([y1, (y2 - shift) * (-log_scale).exp()], dim=1)
