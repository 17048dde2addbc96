"""Distributions of log p(x) over epochs."""

from __future__ import annotations

from genlab.callbacks.base import Callback, EpochsConfig, Snapshot
from genlab.config import Count, config
from genlab.registry import CALLBACKS
from genlab.types import HasLikelihood


@config
class LogProbHistogramConfig(EpochsConfig):
    """The first ``num_images`` of the training and validation images at these epochs."""

    num_images: Count = 500


@CALLBACKS.register("log_prob_histogram")
class LogProbHistogram(Callback):
    """TensorBoard's histograms ``log_prob/train`` and ``log_prob/val``, in nats per image."""

    Config = LogProbHistogramConfig
    config: LogProbHistogramConfig

    def on_epoch_end(self, snapshot: Snapshot) -> None:
        """Log both histograms."""
        due = self.config.due(snapshot.epoch, snapshot.num_epochs)
        if not due or not isinstance(snapshot.model, HasLikelihood):
            return
        for name, data in (("train", snapshot.data.train), ("val", snapshot.data.val)):
            if len(data):
                batch = data.batch(slice(0, self.config.num_images))
                scores = snapshot.model.log_prob(batch.x, batch.y)
                snapshot.logger.histogram(f"log_prob/{name}", scores, snapshot.step)
