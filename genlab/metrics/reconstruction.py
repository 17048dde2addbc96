"""How well a model gives its images back."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from genlab.config import Count, Seed, config
from genlab.data import DatasetConfig
from genlab.data.device import DeviceDataset
from genlab.errors import ConfigError
from genlab.likelihood import to_unit
from genlab.metrics.base import Evaluation, Result, Subject, batches, require_splits
from genlab.models.base import Model
from genlab.registry import EVALUATIONS
from genlab.types import Reconstructs

_WINDOW = 11  # pixels: the side of SSIM's window


@config
class ReconstructionConfig:
    """Settings of :class:`ReconstructionEvaluation`; ``max_images`` bounds each split (``null``: all of it)."""

    name: Literal["reconstruction"] = "reconstruction"
    splits: tuple[Literal["train", "val", "test"], ...] = ("train", "test")
    max_images: Count | None = 10_000
    batch_size: Count = 500
    """Images at once."""
    seed: Seed = 0
    """Of what is drawn."""


@EVALUATIONS.register("reconstruction")
class ReconstructionEvaluation(Evaluation):
    """Mean squared error per pixel, PSNR and SSIM of what a model reconstructs.

    References:
        Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity".
    """

    Config = ReconstructionConfig
    config: ReconstructionConfig

    def check(self, model: type[Model], dataset: DatasetConfig) -> None:
        """The model must reconstruct, and every split have images."""
        if not hasattr(model, "reconstruct"):
            raise ConfigError(f"evaluation=reconstruction needs reconstructions, and {model.__name__} has none")
        require_splits(self.config.splits, dataset)

    def run(self, subject: Subject) -> Result:
        """One row for each split."""
        rows: list[dict[str, Any]] = []
        metrics: dict[str, float] = {}
        scores: dict[str, Tensor] = {}
        for split in self.config.splits:
            scores[split], ssim = self._measure(subject, getattr(subject.data, split))
            summary = summarise(scores[split], ssim)
            rows.append({"set": f"{subject.dataset} {split}", "images": len(ssim), **summary})
            metrics |= {f"reconstruction/{split}/{key.lower()}": value for key, value in summary.items()}
        title = f"Reconstruction by {subject.run_name}"
        return Result(title, rows, _notes(subject.model), metrics, scores, "mean squared error per pixel")

    def _measure(self, subject: Subject, data: DeviceDataset) -> tuple[Tensor, Tensor]:
        """:func:`compare` for the images of a split in order, on the CPU."""
        assert isinstance(subject.model, Reconstructs)
        parts = []
        for batch in batches(
            subject.model, data, self.config.batch_size, self.config.max_images, "reconstruction"
        ):
            with subject.hardware.autocast():
                reconstructed = subject.model.reconstruct(batch.x)
            parts.append([values.cpu() for values in compare(batch.x, reconstructed)])
        error, ssim = (torch.cat(values).double() for values in zip(*parts, strict=True))
        return error, ssim


def squared_error(x: Tensor, reconstructed: Tensor) -> Tensor:
    """Mean over the pixels of uint8 ``(B, C, H, W)`` on [0, 1]: ``(B,)``.

    >>> white = torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
    >>> squared_error(white, white - 51)
    tensor([0.0400])
    """
    return (to_unit(x) - to_unit(reconstructed)).square().flatten(1).mean(1)


def compare(x: Tensor, reconstructed: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error per pixel on [0, 1] and SSIM, ``(B,)`` each, of uint8 ``(B, C, H, W)``.

    SSIM is NaN for images that are smaller than its window of 11x11 pixels.
    """
    # torchmetrics takes seconds to import, which a training that ends with this should not begin with.
    from torchmetrics.functional.image import structural_similarity_index_measure

    error = squared_error(x, reconstructed)
    if min(x.shape[-2:]) < _WINDOW:
        return error, torch.full_like(error, math.nan)
    ssim = structural_similarity_index_measure(
        to_unit(reconstructed), to_unit(x), sigma=1.5, kernel_size=_WINDOW, data_range=1.0, reduction="none"
    )
    assert isinstance(ssim, Tensor)
    return error, ssim.view(-1)


def summarise(error: Tensor, ssim: Tensor) -> dict[str, float]:
    """Means of :func:`compare`, and the PSNR in dB of the mean error; what is not finite is left out.

    >>> summarise(torch.tensor([0.25, 0.75]), torch.tensor([0.5, 1.0]))
    {'MSE': 0.5, 'PSNR': 3.010..., 'SSIM': 0.75}
    """
    mse = error.mean().item()
    psnr = -10 * math.log10(mse) if mse else math.inf
    values = {"MSE": mse, "PSNR": psnr, "SSIM": ssim.mean().item()}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _notes(model: Model) -> list[str]:
    notes = ["MSE per pixel on [0, 1]; PSNR in dB, of the mean MSE; SSIM of 11x11 Gaussian windows"]
    if min(model.spec.height, model.spec.width) < _WINDOW:
        notes.append(f"no SSIM: the images are smaller than its window of {_WINDOW}x{_WINDOW} pixels")
    return notes
