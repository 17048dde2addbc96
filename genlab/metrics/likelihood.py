"""Log-likelihood and bits per dimension on the splits of the model's own dataset."""

from __future__ import annotations

import math
from typing import Any, Literal

import rich
import torch
from rich.progress import track
from torch import Tensor

from genlab.config import Count, Seed, config
from genlab.data import DatasetConfig
from genlab.data.device import DeviceDataset
from genlab.errors import ConfigError
from genlab.likelihood import bits_per_dim
from genlab.metrics.base import Evaluation, Result, Subject, require_likelihood
from genlab.models.base import Model
from genlab.registry import EVALUATIONS
from genlab.types import HasLikelihood


@config
class LikelihoodConfig:
    """Settings of :class:`LikelihoodEvaluation`; ``max_images`` bounds each split (``null``: all of it)."""

    name: Literal["likelihood"] = "likelihood"
    splits: tuple[Literal["train", "val", "test"], ...] = ("train", "test")
    max_images: Count | None = 10_000
    batch_size: Count = 500
    seed: Seed = 0


@EVALUATIONS.register("likelihood")
class LikelihoodEvaluation(Evaluation):
    """Mean log p(x) with its standard error, and bits/dim."""

    Config = LikelihoodConfig
    config: LikelihoodConfig

    def check(self, model: type[Model], dataset: DatasetConfig) -> None:
        """The model must have a likelihood, and every split images."""
        require_likelihood("likelihood", model)
        if "val" in self.config.splits and not dataset.num_val:
            raise ConfigError("evaluation.splits has val, and dataset.num_val=0 holds nothing out for it")

    def run(self, subject: Subject) -> Result:
        """One row for each split."""
        rows: list[dict[str, Any]] = []
        metrics: dict[str, float] = {}
        scores: dict[str, Tensor] = {}
        for split in self.config.splits:
            data = getattr(subject.data, split)
            scores[split] = log_probs(subject, data, self.config.batch_size, self.config.max_images)
            summary = summarise(scores[split], subject.model.spec.dim)
            rows.append({"set": f"{subject.dataset} {split}", **summary})
            metrics[f"likelihood/{split}/log_prob"] = summary["log p(x)"]
            metrics[f"likelihood/{split}/bits_per_dim"] = summary["bits/dim"]
        title = f"Likelihood under {subject.run_name}"
        return Result(title, rows, [protocol(subject.model)], metrics, scores, "log p(x), nats per image")


def log_probs(subject: Subject, data: DeviceDataset, batch_size: int, limit: int | None) -> Tensor:
    """Nats per image of the first ``limit`` images, float64 ``(N,)`` on the CPU."""
    assert isinstance(subject.model, HasLikelihood)
    total = math.ceil(min(len(data), limit or len(data)) / batch_size)
    batches = track(
        data.in_order(batch_size, limit),
        description="log p(x)",
        total=total,
        transient=True,
        disable=not rich.get_console().is_terminal,
    )
    with subject.hardware.autocast():
        scores = [subject.model.log_prob(batch.x, batch.y).double().cpu() for batch in batches]
    return torch.cat(scores)


def summarise(scores: Tensor, dim: int) -> dict[str, float]:
    """Mean, standard error and bits/dim of ``log p(x)`` in nats per image ``(N,)``."""
    error = scores.std().item() / math.sqrt(len(scores)) if len(scores) > 1 else math.nan
    return {
        "images": len(scores),
        "log p(x)": scores.mean().item(),
        "± s.e.": error,
        "bits/dim": bits_per_dim(scores.mean(), dim).item(),
    }


def protocol(model: Model) -> str:
    """What ``log_prob`` of ``model`` is, in words."""
    assert isinstance(model, HasLikelihood)
    kinds = {"exact": "exact", "unbiased": "unbiased estimate", "bound": "lower bound"}
    return f"log p(x) in nats per image of 256 levels: {kinds[model.likelihood]}; {model.protocol}"
