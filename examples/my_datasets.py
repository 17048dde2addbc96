"""A dataset outside the package: one white disc in each image, of which all factors are known.

genlab train --config-dir conf plugins=[my_datasets] model=vae dataset=discs trainer.epochs=1
"""

from __future__ import annotations

from typing import Literal

import torch

from genlab.config import Count, Seed, config
from genlab.data.formats import FORMATS
from genlab.data.images import Images, Split
from genlab.data.store import Store
from genlab.types import DataSpec


@FORMATS.register
@config
class Discs:
    """A disc of one of three sizes at a random place, which is the image's label."""

    kind: Literal["discs"]
    size: Count = 28
    """Pixels a side."""
    num_images: Count = 10_000
    """In each split."""
    seed: Seed = 0
    """Of places and sizes."""

    def files(self, split: Split) -> tuple[str, ...]:
        """None: the images are made. A set of files names them here, and reads ``store.content(name)``."""
        return ()

    def spec(self, store: Store) -> DataSpec:
        """Grey, with a label for each of the three sizes."""
        return DataSpec(1, self.size, self.size, num_classes=3)

    def read(self, split: Split, store: Store) -> Images:
        """Train and test differ."""
        generator = torch.Generator().manual_seed(2 * self.seed + (split == "test"))
        labels = torch.randint(3, (self.num_images,), generator=generator)
        centres = (0.3 + 0.4 * torch.rand(self.num_images, 2, generator=generator)) * self.size
        radius = (1 + labels) * self.size / 14
        axis = torch.arange(self.size) + 0.5
        x, y = (axis - centre[:, None] for centre in centres.T)
        inside = y.square()[:, :, None] + x.square()[:, None] < radius.square()[:, None, None]
        return Images(inside[:, None].to(torch.uint8) * 255, labels)
