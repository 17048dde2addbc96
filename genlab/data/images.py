"""Images in memory, and the conversions that every set may be asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")

_CHUNK = 4096  # images converted at once: the floats of a whole set would not fit small machines


@dataclass(frozen=True)
class Images:
    """``images``: uint8 ``(N, C, H, W)``, contiguous; ``labels``: int64 ``(N,)``. Both on the CPU."""

    images: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Tensor | slice) -> Images:
        """The images at ``index``, with their labels."""
        labels = None if self.labels is None else self.labels[index].contiguous()
        return Images(self.images[index].contiguous(), labels)


def fixed_order(n: int, seed: int = 0) -> Tensor:
    """A permutation of ``0..n-1`` that is the same everywhere and always; int64 ``(n,)``.

    The indices sorted by a hash of them: no library's generator, whose stream may change with its
    version, decides which images are test images.
    """
    keys = [hashlib.sha256(f"{seed}:{i}".encode()).digest() for i in range(n)]
    return torch.tensor(sorted(range(n), key=keys.__getitem__), dtype=torch.int64)


def part_of(n: int, split: Split, test_fraction: float) -> Tensor:
    """Which of ``n`` images are in ``split``: ascending int64 indices, by a permutation of their own."""
    order, num_test = fixed_order(n), max(1, round(n * test_fraction))
    part = order[:num_test] if split == "test" else order[num_test:]
    return part.sort().values


def to_gray(images: Tensor) -> Tensor:
    """Luma (ITU-R BT.601, rounded as PIL does): uint8 ``(N, 3, H, W)`` to ``(N, 1, H, W)``."""
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(1, 3, 1, 1)

    def luma(x: Tensor) -> Tensor:
        weighted = (x.int() * weights).sum(dim=1, keepdim=True)
        return ((weighted + 0x8000) >> 16).to(torch.uint8)

    return _by_chunks(luma, images)


def to_square(images: Tensor, size: int) -> Tensor:
    """The central square, resized with antialiasing: uint8 ``(N, C, H, W)`` to ``(N, C, size, size)``."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = images[..., top : top + side, left : left + side]
    if side == size:
        return square.contiguous()

    def resize(x: Tensor) -> Tensor:
        y = F.interpolate(x.float(), size=(size, size), mode="bilinear", antialias=True)
        return y.round_().clamp_(0, 255).to(torch.uint8)

    return _by_chunks(resize, square)


def _by_chunks(convert: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return torch.cat([convert(chunk) for chunk in torch.split(images, _CHUNK)])
