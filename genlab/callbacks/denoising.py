"""Noise on held-out images, and what a model sees through it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Gt, Le
from pydantic import Field

from genlab.callbacks.base import Snapshot
from genlab.callbacks.figure import FigureCallback, FigureConfig
from genlab.config import Count, config
from genlab.registry import CALLBACKS
from genlab.report.mosaic import mosaic
from genlab.types import Denoises

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Time = Annotated[float, Gt(0), Le(1)]


@config
class DenoisingConfig(FigureConfig):
    """The first ``n`` held-out images, with as much noise as at each of ``times``, from 0 to 1."""

    n: Count = 3
    times: tuple[Time, ...] = Field(default=(0.1, 0.3, 0.5, 0.7, 0.9), min_length=1)


@CALLBACKS.register("denoising")
class Denoising(FigureCallback):
    """For each image a row of it, one with noise, and one of what the model makes of that at once."""

    Config = DenoisingConfig
    config: DenoisingConfig

    def draw(self, snapshot: Snapshot) -> Mapping[str, Figure]:
        """``denoising``."""
        if not isinstance(snapshot.model, Denoises):
            return {}
        x = snapshot.held_out.batch(slice(0, self.config.n)).x
        columns = []
        for time in self.config.times:
            noise = torch.Generator(x.device).manual_seed(0)  # more of the same at each time
            columns.append(torch.stack([x, *snapshot.model.denoised(x, time, noise)], dim=1))
        images = torch.stack(columns, dim=2).flatten(0, 1)
        rows = ["image", "with noise", "denoised"] * len(x)
        heads = [f"time {time:.3g}" for time in self.config.times]
        title = (
            "Held-out images, with noise added (time 0: none; 1: nothing but noise), and what the model makes "
            f"of them in one step, after epoch {snapshot.epoch}"
        )
        return {"denoising": mosaic(images, rows, heads, title, group=3)}
