"""What the callbacks that draw figures have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from genlab.callbacks.base import Callback, EpochsConfig, Snapshot
from genlab.config import Count, config
from genlab.report.figures import as_image, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@config
class FigureConfig(EpochsConfig):
    """Shown in TensorBoard at these epochs and at the end, written to ``figures/`` at the end alone."""

    every: Count | None = 5


class FigureCallback(Callback):
    """Draws figures of what a model can do, and nothing of one that can't."""

    config: FigureConfig

    def draw(self, snapshot: Snapshot) -> Mapping[str, Figure]:
        """Figures by the name of their file and their tag."""
        raise NotImplementedError

    def on_epoch_end(self, snapshot: Snapshot) -> Mapping[str, float] | None:
        """Show the figures."""
        if self._due(snapshot):
            self._show(self.draw(snapshot), snapshot)
        return None

    def on_train_end(self, snapshot: Snapshot) -> None:
        """Write the figures, and show them where the last epoch has not."""
        figures = self.draw(snapshot)
        if not self._due(snapshot):
            self._show(figures, snapshot)
        for name, figure in figures.items():
            save(figure, snapshot.folder.folder("figures") / name)

    def _due(self, snapshot: Snapshot) -> bool:
        return self.config.due(snapshot.epoch, snapshot.num_epochs)

    def _show(self, figures: Mapping[str, Figure], snapshot: Snapshot) -> None:
        for name, figure in figures.items():
            snapshot.logger.images(name, as_image(figure), snapshot.step)
