"""Samples on their way out of noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Ge

from genlab.callbacks.base import Snapshot
from genlab.callbacks.figure import FigureCallback, FigureConfig
from genlab.config import Count, config
from genlab.registry import CALLBACKS
from genlab.report.animation import Frame, as_picture, evenly, save_gif
from genlab.report.figures import grid
from genlab.report.mosaic import mosaic
from genlab.types import SamplesStepwise, SamplingStep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FRAMES = 60


@config
class SamplingStepsConfig(FigureConfig):
    """``n`` samples at ``columns`` of their steps; the GIF shows ``film`` samples (``null``: there is none)."""

    n: Count = 4
    columns: Annotated[int, Ge(2)] = 9
    film: Count | None = 16


@CALLBACKS.register("sampling_steps")
class SamplingSteps(FigureCallback):
    """Two rows for each sample: what there is of it at some steps, and the image that is foreseen in it.

    At the end ``figures/sampling_steps.gif`` shows the way from noise to images, of the same samples and more.
    """

    Config = SamplingStepsConfig
    config: SamplingStepsConfig

    def draw(self, snapshot: Snapshot) -> Mapping[str, Figure]:
        """``sampling_steps``."""
        if not isinstance(snapshot.model, SamplesStepwise):
            return {}
        shown = evenly(list(_steps(snapshot, self.config.n)), self.config.columns)
        pairs = torch.stack(
            [torch.stack([step.x, step.x0]) for step in shown], dim=2
        )  # (2, n, columns, C, H, W)
        classes = snapshot.model.num_classes
        names = [f"sample {i + 1}" if classes is None else f"class {i % classes}" for i in range(self.config.n)]
        rows = [label for name in names for label in (name, "foreseen")]
        heads = [f"{step.time:.2g}" for step in shown]
        title = (
            "Samples on their way from noise (time 1) to images (0), and the image foreseen at each time, "
            f"after epoch {snapshot.epoch}"
        )
        return {"sampling_steps": mosaic(pairs.transpose(0, 1).flatten(0, 1), rows, heads, title, group=2)}

    def on_train_end(self, snapshot: Snapshot) -> None:
        """Write the figure and the film."""
        super().on_train_end(snapshot)
        if self.config.film is None or not isinstance(snapshot.model, SamplesStepwise):
            return
        moments = [(step.time, step.x) for step in _steps(snapshot, self.config.film)]
        frames = [Frame(as_picture(grid(x)), f"time {time:.2f}") for time, x in evenly(moments, _FRAMES)]
        save_gif(frames, snapshot.folder.folder("figures") / "sampling_steps.gif")


def _steps(snapshot: Snapshot, n: int) -> Iterator[SamplingStep]:
    """The way of ``n`` samples, on the processor; of a conditional model, of one class after another."""
    model = snapshot.model
    assert isinstance(model, SamplesStepwise)
    y = None if model.num_classes is None else torch.arange(n, device=model.device) % model.num_classes
    for step in model.sample_steps(n, y):
        yield SamplingStep(step.time, step.x.cpu(), step.x0.cpu())
