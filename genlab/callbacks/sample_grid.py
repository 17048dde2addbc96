"""Grids of samples over epochs."""

from __future__ import annotations

from genlab.callbacks.base import Callback, Snapshot
from genlab.config import Count, config
from genlab.registry import CALLBACKS
from genlab.report.figures import grid, save_grid
from genlab.types import Samples


@config
class SampleGridConfig:
    """``n`` samples every so many epochs; ``figures`` are the grids drawn at the end."""

    every: Count = 1
    n: Count = 25
    figures: tuple[Count, ...] = (9, 16, 25)


@CALLBACKS.register("sample_grid")
class SampleGrid(Callback):
    """To TensorBoard at every such epoch, to ``figures/`` at the end; the noise is always the same."""

    Config = SampleGridConfig
    config: SampleGridConfig

    def on_epoch_end(self, snapshot: Snapshot) -> None:
        """Log one grid."""
        if snapshot.epoch % self.config.every or not isinstance(snapshot.model, Samples):
            return
        samples = snapshot.model.sample(self.config.n)
        snapshot.logger.images("samples", grid(samples), snapshot.step)

    def on_train_end(self, snapshot: Snapshot) -> None:
        """Draw the figures."""
        if not isinstance(snapshot.model, Samples) or not self.config.figures:
            return
        samples = snapshot.model.sample(max(self.config.figures))
        for n in self.config.figures:
            save_grid(samples[:n], snapshot.folder.folder("figures") / f"samples_{n}.png")
