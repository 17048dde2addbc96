"""A callback outside the package: how sharp the samples are, epoch by epoch.

genlab train --config-dir conf plugins=[my_callbacks] callbacks=sharpness model=vae trainer.epochs=1
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from genlab.callbacks.base import Callback, EpochsConfig, Snapshot
from genlab.config import Count, config
from genlab.likelihood import to_unit
from genlab.registry import CALLBACKS
from genlab.types import Samples


@config
class SharpnessConfig(EpochsConfig):
    """Settings of :class:`Sharpness`; ``every`` and ``at`` say at which epochs."""

    n: Count = 64
    """Samples, and held-out images to compare them with."""


@CALLBACKS.register("sharpness")
class Sharpness(Callback):
    """The mean step from pixel to pixel, of samples and of held-out images; blurred samples have less."""

    Config = SharpnessConfig
    config: SharpnessConfig

    def on_epoch_end(self, snapshot: Snapshot) -> Mapping[str, float] | None:
        """Logged as ``sharpness/samples`` and ``sharpness/images``."""
        due = self.config.due(snapshot.epoch, snapshot.num_epochs)
        if not due or not isinstance(snapshot.model, Samples):
            return None
        images = snapshot.held_out.batch(slice(self.config.n)).x
        return {"samples": sharpness(snapshot.model.sample(len(images))), "images": sharpness(images)}


def sharpness(x: Tensor) -> float:
    """The mean absolute difference of neighbours along a row, of uint8 ``(B, C, H, W)`` on [0, 1]."""
    return to_unit(x).diff(dim=-1).abs().mean().item()
