"""An evaluation outside the package: does the model draw its training images again?

genlab eval --config-dir conf plugins=[my_models,my_evaluations] evaluation=memorisation
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from genlab.config import Count, Seed, config
from genlab.data import DatasetConfig
from genlab.data.device import DeviceDataset
from genlab.errors import CapabilityError
from genlab.likelihood import to_unit
from genlab.metrics.base import Evaluation, Result, Subject
from genlab.models.base import Model
from genlab.registry import EVALUATIONS
from genlab.types import Samples


@config
class MemorisationConfig:
    """Settings of :class:`Memorisation`."""

    name: Literal["memorisation"] = "memorisation"
    num_samples: Count = 500
    """Samples, and as many test images to hold them against."""
    batch_size: Count = 500
    """Training images at once."""
    seed: Seed = 0
    """Of the samples."""


@EVALUATIONS.register("memorisation")
class Memorisation(Evaluation):
    """The distance from a sample to the nearest training image, beside that of a test image.

    Samples that lie much nearer than test images are copies.
    """

    Config = MemorisationConfig
    config: MemorisationConfig

    def check(self, model: type[Model], dataset: DatasetConfig) -> None:
        """The model must sample."""
        if not hasattr(model, "sample"):
            raise CapabilityError(f"evaluation=memorisation needs samples, and {model.__name__} draws none")

    def run(self, subject: Subject) -> Result:
        """One row for samples, one for test images."""
        assert isinstance(subject.model, Samples)
        test = subject.data.test.batch(slice(self.config.num_samples)).x
        images = {"samples": subject.model.sample(len(test)), "test": test}
        distances = {name: self._nearest(x, subject.data.train) for name, x in images.items()}
        rows = [
            {"images": name, "number": len(d), "mean distance": d.mean().item(), "smallest": d.min().item()}
            for name, d in distances.items()
        ]
        return Result(
            f"Nearest training image, {subject.run_name}",
            rows,
            ["Euclidean distance of pixels on [0, 1]"],
            {f"memorisation/{name}": d.mean().item() for name, d in distances.items()},
            distances,
            "distance to the nearest training image",
        )

    def _nearest(self, x: Tensor, train: DeviceDataset) -> Tensor:
        """Of uint8 ``(N, C, H, W)`` to all of ``train``: ``(N,)`` on the CPU."""
        flat = to_unit(x).flatten(1)
        parts = [
            torch.cdist(flat, to_unit(batch.x).flatten(1)).amin(1)
            for batch in train.in_order(self.config.batch_size)
        ]
        return torch.stack(parts).amin(0).cpu()
