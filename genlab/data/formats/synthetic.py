"""Images that no one took: controls for out-of-distribution detection."""

from __future__ import annotations

import math
from typing import Literal

import torch

from genlab.config import Count, Seed, config
from genlab.data.images import Images, Split
from genlab.data.store import Store
from genlab.memory import check_room
from genlab.types import DataSpec


@config
class Made:
    """What the made-up sets share: their size, and that they need no files."""

    channels: Count = 1
    """Planes of an image."""
    height: Count = 28
    """Pixels."""
    width: Count = 28
    """Pixels."""
    num_images: Count = 10_000
    """In each split."""

    def files(self, split: Split) -> tuple[str, ...]:
        """None."""
        return ()

    def shape(self) -> tuple[int, int, int, int]:
        """``(N, C, H, W)``. Raises :class:`DataError` where so many don't fit the memory."""
        shape = (self.num_images, self.channels, self.height, self.width)
        check_room(math.prod(shape), "dataset.format.num_images")
        return shape

    def spec(self, store: Store) -> DataSpec:
        """As declared; there are no labels."""
        return DataSpec(self.channels, self.height, self.width)


@config
class Noise(Made):
    """Every value drawn uniformly from 0 to 255: an entropy of 8 bits per dimension."""

    kind: Literal["noise"]
    seed: Seed = 0
    """The same seed makes the same images."""

    def read(self, split: Split, store: Store) -> Images:
        """Train and test differ."""
        generator = torch.Generator().manual_seed(2 * self.seed + (split == "test"))
        shape = self.shape()
        return Images(torch.randint(256, shape, generator=generator, dtype=torch.uint8))


@config
class Constant(Made):
    """Each image of a single grey level; train and test are the same."""

    kind: Literal["constant"]

    def read(self, split: Split, store: Store) -> Images:
        """Each run of 256 has all the levels, and any first few are spread over 0 to 255."""
        stride = 159  # odd, so coprime to 256; near 256 times the golden ratio, so evenly spread
        levels = (torch.arange(self.num_images) * stride % 256).to(torch.uint8)
        shape = self.shape()
        return Images(levels.view(-1, 1, 1, 1).expand(shape).contiguous())
