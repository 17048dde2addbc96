"""Held-out images and what a model makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from genlab.callbacks.base import Snapshot
from genlab.callbacks.figure import FigureCallback, FigureConfig
from genlab.config import Count, config
from genlab.registry import CALLBACKS
from genlab.report.mosaic import mosaic
from genlab.types import Reconstructs

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@config
class ReconstructionsConfig(FigureConfig):
    """The first ``n`` held-out images, in rows of ``columns``."""

    every: Count | None = 1
    n: Count = 20
    columns: Count = 10


@CALLBACKS.register("reconstructions")
class Reconstructions(FigureCallback):
    """Rows of images, each above the row of their reconstructions."""

    Config = ReconstructionsConfig
    config: ReconstructionsConfig

    def draw(self, snapshot: Snapshot) -> Mapping[str, Figure]:
        """``reconstructions``."""
        if not isinstance(snapshot.model, Reconstructs):
            return {}
        columns = min(self.config.columns, len(snapshot.held_out))
        num_rows = max(1, min(self.config.n, len(snapshot.held_out)) // columns)
        x = snapshot.held_out.batch(slice(0, num_rows * columns)).x
        pairs = torch.stack(
            [part.unflatten(0, (-1, columns)) for part in (x, snapshot.model.reconstruct(x))], 1
        )
        title = f"Held-out images and their reconstructions after epoch {snapshot.epoch}"
        rows = ["image", "reconstruction"] * num_rows
        return {"reconstructions": mosaic(pairs.flatten(0, 1), rows, (), title, group=2)}
