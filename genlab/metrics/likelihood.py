"""Log-likelihood and its bounds on the splits of the model's own dataset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from genlab.config import Count, Seed, config
from genlab.data import DatasetConfig
from genlab.data.device import DeviceDataset
from genlab.likelihood import LEVELS, bits_per_dim
from genlab.metrics.base import (
    Evaluation,
    Result,
    Subject,
    batches,
    per_image,
    require_likelihood,
    require_splits,
)
from genlab.models.base import Model
from genlab.registry import EVALUATIONS
from genlab.types import Batch, BoundTerms, HasBound, HasLikelihood


@config
class LikelihoodConfig:
    """Settings of :class:`LikelihoodEvaluation`; ``max_images`` bounds each split (``null``: all of it).

    ``importance_samples`` are the sizes ``m`` of the importance-weighted bounds of latent-variable models.
    """

    name: Literal["likelihood"] = "likelihood"
    splits: tuple[Literal["train", "val", "test"], ...] = ("train", "test")
    max_images: Count | None = 10_000
    batch_size: Count = 500
    importance_samples: tuple[Count, ...] = (5, 50)
    seed: Seed = 0


@EVALUATIONS.register("likelihood")
class LikelihoodEvaluation(Evaluation):
    """Mean log p(x) with its standard error, and bits/dim; of a latent-variable model, the bounds on it.

    NELBO, KL and reconstruction are those of the ELBO at weight 1, whatever the model was trained on. All
    bounds come from the same samples: each is the mean over as many groups of ``m`` as the largest ``m`` holds.
    """

    Config = LikelihoodConfig
    config: LikelihoodConfig

    def check(self, model: type[Model], dataset: DatasetConfig) -> None:
        """The model must have a likelihood, and every split images."""
        require_likelihood("likelihood", model)
        require_splits(self.config.splits, dataset)

    def run(self, subject: Subject) -> Result:
        """Rows for each split."""
        rows: list[dict[str, Any]] = []
        metrics: dict[str, float] = {}
        scores: dict[str, Tensor] = {}
        for split in self.config.splits:
            data, name = getattr(subject.data, split), f"{subject.dataset} {split}"
            if isinstance(subject.model, HasBound) and self.config.importance_samples:
                terms = self._bounds(subject, data)
                rows += [{"set": name, "nats per image": key, **_cells(v)} for key, v in terms.items()]
                metrics |= _bound_metrics(f"likelihood/{split}", terms)
                scores[split] = -terms[f"IWAE-{max(self.config.importance_samples)}"]
            else:
                scores[split] = self._log_prob(subject, data)
                rows.append({"set": name, **summarise(scores[split], subject.model)})
            mean = scores[split].mean()
            metrics[f"likelihood/{split}/log_prob"] = mean.item()
            if subject.model.levels == LEVELS:
                bits = bits_per_dim(mean, subject.model.spec.dim).item()
                metrics[f"likelihood/{split}/bits_per_dim"] = bits
        notes = [protocol(subject.model)]
        if isinstance(subject.model, HasBound):
            notes.append("IWAE-m: the negative importance-weighted bound of m samples; -log p(x) is below all")
        title = f"Likelihood under {subject.run_name}"
        return Result(title, rows, notes, metrics, scores, "log p(x), nats per image")

    def _bounds(self, subject: Subject, data: DeviceDataset) -> dict[str, Tensor]:
        """The terms of every bound, float64 ``(N,)`` each."""
        assert isinstance(subject.model, HasBound)
        parts = []
        config = self.config
        for batch in batches(subject.model, data, config.batch_size, config.max_images, "bounds"):
            with subject.hardware.autocast():
                observed = subject.model.observe(batch.x)
                terms = subject.model.bound_terms(observed, max(config.importance_samples))
            parts.append(bounds(terms, config.importance_samples))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _log_prob(self, subject: Subject, data: DeviceDataset) -> Tensor:
        """Nats per image, float64 ``(N,)`` on the CPU."""
        model, size, limit = subject.model, self.config.batch_size, self.config.max_images

        def log_prob(batch: Batch) -> Tensor:
            assert isinstance(model, HasLikelihood)
            return model.log_prob(batch.x, batch.y)

        return per_image(log_prob, model, data, subject.hardware, size, limit, "log p(x)")


def bounds(terms: BoundTerms, sizes: tuple[int, ...]) -> dict[str, Tensor]:
    """NELBO, KL, reconstruction and IWAE-m for each ``m`` of ``sizes``, float64 ``(B,)``.

    Nats per image, on the CPU. Of ``M`` samples, IWAE-m is the mean over ``M // m`` groups, an unbiased
    estimate of the same bound.
    """
    reconstruction, kl = terms.reconstruction.double().cpu(), terms.kl.double().cpu()
    log_weights = -reconstruction - kl
    found = {
        "NELBO": -log_weights.mean(0),
        "KL": kl.mean(0),
        "reconstruction": reconstruction.mean(0),
    }
    for m in sorted(set(sizes)):
        groups = log_weights[: len(log_weights) // m * m].unflatten(0, (-1, m))
        found[f"IWAE-{m}"] = -(groups.logsumexp(1) - math.log(m)).mean(0)
    return found


def _cells(values: Tensor) -> dict[str, Any]:
    return {"mean": values.mean().item(), "± s.e.": standard_error(values), "images": len(values)}


def _bound_metrics(prefix: str, terms: Mapping[str, Tensor]) -> dict[str, float]:
    names = {name: f"{prefix}/{name.lower().replace('-', '_')}" for name in terms}
    return {names[name]: values.mean().item() for name, values in terms.items()} | {
        f"{names[name]}_se": standard_error(values) for name, values in terms.items()
    }


def standard_error(values: Tensor) -> float:
    """Of the mean of ``values`` ``(N,)``; NaN of a single one."""
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan


def summarise(scores: Tensor, model: Model) -> dict[str, float]:
    """Mean and standard error of ``log p(x)``, nats per image ``(N,)``; bits/dim where there are any."""
    summary = {"images": len(scores), "log p(x)": scores.mean().item(), "± s.e.": standard_error(scores)}
    if model.levels != LEVELS:
        return summary
    return summary | {"bits/dim": bits_per_dim(scores.mean(), model.spec.dim).item()}


def protocol(model: Model) -> str:
    """What ``log_prob`` of ``model`` is, in words."""
    assert isinstance(model, HasLikelihood)
    kinds = {
        "exact": "exact",
        "unbiased": "unbiased estimate",
        "biased": "biased estimate",
        "bound": "lower bound",
    }
    scale = "of 256 levels" if model.levels == LEVELS else "of binarised pixels, which have no bits/dim"
    return f"log p(x) in nats per image {scale}: {kinds[model.likelihood]}; {model.protocol}"
