"""Distributions of parameters over epochs."""

from __future__ import annotations

from genlab.callbacks.base import Callback, EpochsConfig, Snapshot
from genlab.config import Count, config
from genlab.registry import CALLBACKS


@config
class WeightsConfig(EpochsConfig):
    """These epochs."""

    every: Count | None = 5


@CALLBACKS.register("weights")
class Weights(Callback):
    """TensorBoard's histograms ``weights/<name of the parameter>``, averaged where training averages."""

    Config = WeightsConfig
    config: WeightsConfig

    def on_epoch_end(self, snapshot: Snapshot) -> None:
        """Log all of them."""
        if self.config.due(snapshot.epoch, snapshot.num_epochs):
            for name, parameter in snapshot.model.named_parameters():
                snapshot.logger.histogram(f"weights/{name}", parameter, snapshot.step)
