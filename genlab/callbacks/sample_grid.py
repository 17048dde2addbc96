"""Grids of samples over epochs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genlab.callbacks.base import Callback, EpochsConfig, Snapshot
from genlab.config import Count, config
from genlab.registry import CALLBACKS
from genlab.report.animation import Frames, over_epochs, save_gif
from genlab.report.figures import grid, save, save_grid
from genlab.report.mosaic import mosaic
from genlab.types import Samples

_MAX_CLASSES = 64  # rows; Omniglot has 964 classes


@config
class SampleGridConfig(EpochsConfig):
    """``n`` samples at these epochs, ``per_class`` of each class where a model draws classes on demand.

    ``figures`` are the grids of samples drawn at the end; ``gif`` says whether there is one of all epochs.
    """

    n: Count = 25
    per_class: Count = 10
    figures: tuple[Count, ...] = (9, 16, 25)
    gif: bool = True


@CALLBACKS.register("sample_grid")
class SampleGrid(Callback):
    """At every such epoch to TensorBoard and to ``figures/samples/``, always of the same noise.

    At the end ``figures/`` gets the samples of the last weights, and what the frames show one after another.
    """

    Config = SampleGridConfig
    config: SampleGridConfig

    def on_epoch_end(self, snapshot: Snapshot) -> None:
        """Log one grid and keep it as a frame."""
        due = self.config.due(snapshot.epoch, snapshot.num_epochs)
        if not due or not isinstance(snapshot.model, Samples):
            return
        picture = self._picture(snapshot)
        snapshot.logger.images("samples", picture, snapshot.step)
        _frames(snapshot).save(picture, snapshot.epoch, snapshot.step)

    def _picture(self, snapshot: Snapshot) -> Tensor:
        """One grid, uint8 ``(3, H, W)``, of a size that many of them are kept in."""
        assert isinstance(snapshot.model, Samples)
        if snapshot.model.num_classes is None:
            images, columns = snapshot.model.sample(self.config.n), math.ceil(self.config.n**0.5)
        else:
            images, columns = _by_class(snapshot, self.config.per_class).flatten(0, 1), self.config.per_class
        side = 640 // max(columns, len(images) // columns)
        return grid(images, columns, min(side, 112))

    def on_train_end(self, snapshot: Snapshot) -> None:
        """Draw the figures."""
        if not isinstance(snapshot.model, Samples):
            return
        figures = snapshot.folder.folder("figures")
        if self.config.figures:
            samples = snapshot.model.sample(max(self.config.figures))
            for n in self.config.figures:
                save_grid(samples[:n], figures / f"samples_{n}.png")
        if snapshot.model.num_classes is not None:
            images = _by_class(snapshot, self.config.per_class)
            rows = [str(label) for label in range(len(images))]
            title = f"Samples by class after epoch {snapshot.epoch}"
            save(mosaic(images, rows, (), title), figures / "samples_by_class")
        self._draw_epochs(snapshot)

    def _draw_epochs(self, snapshot: Snapshot) -> None:
        """The frames as a GIF, and three of them side by side."""
        frames, figures = _frames(snapshot), snapshot.folder.folder("figures")
        if self.config.gif:
            save_gif(frames.read(snapshot.epoch, limit=100), figures / "samples.gif")
        three = frames.read(snapshot.epoch, limit=3)
        if len(three) > 1:
            save(over_epochs(three, snapshot.folder), figures / "samples_over_epochs")


def _frames(snapshot: Snapshot) -> Frames:
    """Those of the stage; its name tells them apart where epochs are counted anew in each of several."""
    several = len(snapshot.model.stages()) > 1
    folder = snapshot.folder.folder("figures/samples")
    return Frames(folder, prefix=f"{snapshot.stage}_" if several else "")


def _by_class(snapshot: Snapshot, per_class: int) -> Tensor:
    """Samples ``(num_classes, per_class, C, H, W)``, of the same noise in every row."""
    assert isinstance(snapshot.model, Samples)
    assert snapshot.model.num_classes is not None
    device = snapshot.held_out.device
    rows = []
    for label in range(min(snapshot.model.num_classes, _MAX_CLASSES)):
        noise = torch.Generator(device).manual_seed(torch.initial_seed())
        y = torch.full((per_class,), label, device=device)
        rows.append(snapshot.model.sample(per_class, y, noise))
    return torch.stack(rows)
