"""Gated PixelCNN: an autoregressive distribution over grids of codes."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from genlab.config import Count, ProperFraction, config


@config
class PixelCNNConfig:
    """``num_layers`` gated layers of ``channels`` planes, with kernels of an odd ``kernel_size``."""

    name: Literal["pixelcnn"] = "pixelcnn"
    channels: Count = 64
    num_layers: Count = 6
    kernel_size: Annotated[int, Ge(3)] = 3
    dropout: ProperFraction = 0.0
    """Share of the planes that are dropped in training."""

    def __post_init__(self) -> None:
        """A kernel has a middle."""
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size}: it must be odd")


class _Causal(nn.Conv2d):
    """A convolution that sees the future of no position, by its shape and padding: there is no mask to forget.

    ``pad`` is ``(left, right, top, bottom)``; below zero it cuts off.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: tuple[int, int], pad: tuple[int, ...]
    ) -> None:
        super().__init__(in_channels, out_channels, kernel)
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.pad))


def _gate(x: Tensor) -> Tensor:
    """``(B, 2C, H, W)`` -> ``(B, C, H, W)``."""
    a, b = x.chunk(2, dim=1)
    return a.tanh() * b.sigmoid()


class GatedLayer(nn.Module):
    """One layer of both stacks: ``vertical`` knows the rows above, ``horizontal`` also what is to the left.

    The ``first`` layer reads the codes themselves, and none at its own position; those after it read features
    that know nothing of their own position, and may see them there.

    References:
        van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders", figure 2.
    """

    def __init__(self, channels: int, kernel_size: int, first: bool) -> None:
        super().__init__()
        reach, own, cut = kernel_size // 2, int(not first), -int(first)
        wide = 2 * channels
        self.first = first
        self.vertical = _Causal(channels, wide, (reach + own, kernel_size), (reach, reach, reach, cut))
        self.horizontal = _Causal(channels, wide, (1, reach + own), (reach, cut, 0, 0))
        self.link = nn.Conv2d(wide, wide, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, vertical: Tensor, horizontal: Tensor) -> tuple[Tensor, Tensor]:
        """Both ``(B, C, H, W)`` -> the same."""
        above = self.vertical(vertical)
        left = self.out(_gate(self.horizontal(horizontal) + self.link(above)))
        return _gate(above), left if self.first else horizontal + left


class PixelCNN(nn.Module):
    """``p(codes) = prod_i p(code_i | codes before i)`` in raster order, of grids of ``num_codes`` codes.

    References:
        van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders".
    """

    def __init__(self, config: PixelCNNConfig, num_codes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_codes, config.channels)
        self.layers = nn.ModuleList(
            GatedLayer(config.channels, config.kernel_size, first=index == 0)
            for index in range(config.num_layers)
        )
        self.head = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(config.channels, config.channels, 1),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Conv2d(config.channels, num_codes, 1),
        )

    def forward(self, codes: Tensor) -> Tensor:
        """Codes ``(B, H, W)``, int64 -> logits ``(B, K, H, W)`` of each, given those before it."""
        return self.from_embedded(self.embedding(codes).movedim(-1, 1))

    def from_embedded(self, x: Tensor) -> Tensor:
        """Embedded codes ``(B, C, H, W)`` -> logits ``(B, K, H, W)``."""
        vertical = horizontal = x
        for layer in self.layers:
            vertical, horizontal = layer(vertical, horizontal)
        logits: Tensor = self.head(horizontal)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def log_prob(self, codes: Tensor) -> Tensor:
        """Nats per grid ``(B,)``."""
        return -F.cross_entropy(self(codes), codes, reduction="none").flatten(1).sum(1)

    @torch.no_grad()
    def sample(
        self, n: int, shape: tuple[int, int], generator: Generator | None = None, temperature: float = 1.0
    ) -> Tensor:
        """``n`` grids ``(n, H, W)``, int64, one code after another; ``temperature`` divides the logits."""
        codes = torch.zeros(n, *shape, dtype=torch.long, device=self.embedding.weight.device)
        for row, column in ((row, column) for row in range(shape[0]) for column in range(shape[1])):
            logits = self(codes[:, : row + 1])[:, :, row, column]
            probabilities = (logits / temperature).softmax(1)
            codes[:, row, column] = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
        return codes


def bits_per_code(nats: Tensor, shape: tuple[int, int]) -> Tensor:
    """Nats per grid -> bits per code.

    >>> bits_per_code(torch.tensor(8 * math.log(2)), (2, 4)).round(decimals=4)
    tensor(1.)
    """
    return nats / (math.prod(shape) * math.log(2))
