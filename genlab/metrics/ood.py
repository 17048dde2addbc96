"""Out-of-distribution detection: which set does the model find more likely?"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_specificity_at_sensitivity,
)

from genlab.config import Count, Seed, config
from genlab.data import DatasetConfig
from genlab.metrics.base import Evaluation, Result, Subject, require_likelihood
from genlab.metrics.likelihood import log_probs, protocol, summarise
from genlab.models.base import Model
from genlab.registry import EVALUATIONS


@config
class OODConfig:
    """Settings of :class:`OODEvaluation`; ``max_images`` bounds each set (``null``: all of it)."""

    name: Literal["ood"] = "ood"
    datasets: tuple[str, ...] = ("mnist", "kmnist", "noise")
    max_images: Count | None = 10_000
    batch_size: Count = 500
    resize: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        """At least one set."""
        if not self.datasets:
            raise ValueError("datasets: name at least one set, evaluation.datasets=[mnist] for instance")


@EVALUATIONS.register("ood")
class OODEvaluation(Evaluation):
    """log p(x) as a detector: AUROC, AUPR and FPR at 95 % TPR of each set against the test images.

    References:
        Nalisnick et al. 2019, "Do deep generative models know what they don't know?"; the measures as in
        Hendrycks & Gimpel 2017, "A baseline for detecting misclassified and out-of-distribution examples".
    """

    Config = OODConfig
    config: OODConfig

    def datasets(self) -> tuple[str, ...]:
        """The sets to tell apart from the model's own."""
        return self.config.datasets

    @property
    def resize(self) -> bool:
        """As the settings say."""
        return self.config.resize

    def check(self, model: type[Model], dataset: DatasetConfig) -> None:
        """The model must have a likelihood."""
        require_likelihood("ood", model)

    def run(self, subject: Subject) -> Result:
        """One row for the training and test images, and one for each set."""
        own = {split: getattr(subject.data, split) for split in ("train", "test")}
        sets = {f"{subject.dataset} {split}": data for split, data in own.items()} | dict(subject.others)
        scores = {
            name: log_probs(subject, data, self.config.batch_size, self.config.max_images)
            for name, data in sets.items()
        }
        rows: list[dict[str, Any]] = []
        metrics: dict[str, float] = {}
        for name, values in scores.items():
            summary = summarise(values, subject.model)
            detected = {}
            if name in subject.others:
                detected = detection(scores[f"{subject.dataset} test"], values)
            rows.append({"set": name, **summary, **detected})
            metrics |= {f"ood/{name}/{key}": value for key, value in detected.items()}
            metrics[f"ood/{name}/log_prob"] = summary["log p(x)"]
        notes = [
            f"the score is log p(x), higher means more like {subject.dataset}; its test images are the "
            "positives, so an AUROC below 0.5 says that the model finds the other set more likely",
            "FPR95: share of the other set that passes when 95 % of the test images do",
            protocol(subject.model),
        ]
        title = f"Out-of-distribution detection by {subject.run_name}"
        return Result(title, rows, notes, metrics, scores, "log p(x), nats per image")


def detection(inside: Tensor, outside: Tensor) -> dict[str, float]:
    """AUROC, AUPR and FPR at 95 % TPR of scores that should be higher ``inside``, ``(N,)`` and ``(M,)``.

    >>> detection(torch.tensor([-1e4, -1.1e4]), torch.tensor([-2e4, -3e4]))
    {'AUROC': 1.0, 'AUPR': 1.0, 'FPR95': 0.0}
    """
    scores = torch.cat([inside, outside])
    # torchmetrics passes scores outside [0, 1] through a sigmoid, which is 0 for any log-likelihood; all
    # three measures depend on the order alone, so ranks in (0, 1) say the same.
    distinct, rank = scores.unique(return_inverse=True)
    ranks = (rank + 1).double() / (len(distinct) + 1)
    target = torch.cat([torch.ones(len(inside)), torch.zeros(len(outside))]).long()
    specificity, _ = binary_specificity_at_sensitivity(ranks, target, min_sensitivity=0.95)
    return {
        "AUROC": binary_auroc(ranks, target).item(),
        "AUPR": binary_average_precision(ranks, target).item(),
        "FPR95": 1 - specificity.item(),
    }
