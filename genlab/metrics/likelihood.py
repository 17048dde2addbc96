"""Log-likelihood and its bounds on the splits of the model's own dataset."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
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
    Table,
    batches,
    per_image,
    require_likelihood,
    require_splits,
)
from genlab.models.base import Model
from genlab.registry import EVALUATIONS
from genlab.report.step_terms import draw_step_terms
from genlab.types import Batch, BoundTerms, HasBound, HasLikelihood, HasStepTerms


@config
class LikelihoodConfig:
    """Settings of :class:`LikelihoodEvaluation`; ``max_images`` bounds each split (``null``: all of it).

    ``importance_samples`` are the sizes ``m`` of the importance-weighted bounds of latent-variable models.
    """

    name: Literal["likelihood"] = "likelihood"
    splits: tuple[Literal["train", "val", "test"], ...] = ("train", "test")
    max_images: Count | None = 10_000
    batch_size: Count = 500
    """Images at once."""
    importance_samples: tuple[Count, ...] = (5, 50)
    seed: Seed = 0


@dataclass(frozen=True)
class StepsResult(Result):
    """Of a bound over the steps of a chain, the summands of each split: bits/dim, float64 ``(K + 1,)``.

    What they are is said by :class:`~genlab.types.HasStepTerms`.
    """

    steps: Mapping[str, Tensor] = field(default_factory=dict)
    strata: Sequence[tuple[int, int]] = ()


@EVALUATIONS.register("likelihood")
class LikelihoodEvaluation(Evaluation):
    """Mean log p(x) with its standard error, and bits/dim; of a latent-variable model, the bounds on it.

    NELBO, KL and reconstruction are those of the ELBO at weight 1, whatever the model was trained on. All
    bounds come from the same samples: each is the mean over as many groups of ``m`` as the largest ``m`` holds.
    A bound over the steps of a chain is shown term by term, and drawn against the step.
    """

    Config = LikelihoodConfig
    config: LikelihoodConfig

    def check(self, model: type[Model], dataset: DatasetConfig) -> None:
        """The model must have a likelihood, and every split images."""
        require_likelihood("likelihood", model)
        require_splits(self.config.splits, dataset)

    def run(self, subject: Subject) -> Result:
        """Rows for each split."""
        model = subject.model
        steps: dict[str, Tensor] = {}
        rows: list[dict[str, Any]] = []
        metrics: dict[str, float] = {}
        scores: dict[str, Tensor] = {}
        for split in self.config.splits:
            data, name = getattr(subject.data, split), f"{subject.dataset} {split}"
            if isinstance(model, HasBound) and self.config.importance_samples:
                terms = self._bounds(subject, data)
                rows += [{"set": name, "nats per image": key, **_cells(v)} for key, v in terms.items()]
                metrics |= _bound_metrics(f"likelihood/{split}", terms)
                scores[split] = -terms[f"IWAE-{max(self.config.importance_samples)}"]
            elif isinstance(model, HasStepTerms) and model.likelihood == "bound":
                steps[split] = self._step_terms(subject, data)
                scores[split] = -steps[split].sum(1)
                rows.append({"set": name, **summarise(scores[split], model)})
            else:
                scores[split] = self._log_prob(subject, data)
                rows.append({"set": name, **summarise(scores[split], model)})
            mean = scores[split].mean()
            metrics[f"likelihood/{split}/log_prob"] = mean.item()
            if model.levels == LEVELS:
                metrics[f"likelihood/{split}/bits_per_dim"] = bits_per_dim(mean, model.spec.dim).item()
        notes = [protocol(model)]
        if isinstance(model, HasBound) and self.config.importance_samples:
            notes.append("IWAE-m: the negative importance-weighted bound of m samples; -log p(x) is below all")
        title = f"Likelihood under {subject.run_name}"
        result = Result(title, rows, notes, metrics, scores, "log p(x), nats per image")
        return result if not steps else _with_steps(result, steps, subject)

    def draw(self, result: Result, folder: Path) -> None:
        """Draw a histogram of each set's ``log p(x)``, and the terms of a bound over steps."""
        super().draw(result, folder)
        if isinstance(result, StepsResult):
            draw_step_terms(result.steps, result.strata, result.title, folder / f"{self.config.name}_steps")

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
        model = subject.model
        assert isinstance(model, HasLikelihood)
        return self._per_image(lambda batch: model.log_prob(batch.x, batch.y), subject, data)

    def _step_terms(self, subject: Subject, data: DeviceDataset) -> Tensor:
        """The summands of the bound, nats per image, float64 ``(N, K + 1)`` on the CPU."""
        model = subject.model
        assert isinstance(model, HasStepTerms)
        return self._per_image(lambda batch: model.step_terms(batch.x), subject, data)

    def _per_image(self, function: Callable[[Batch], Tensor], subject: Subject, data: DeviceDataset) -> Tensor:
        size, limit = self.config.batch_size, self.config.max_images
        return per_image(function, subject.model, data, subject.hardware, size, limit, "log p(x)")


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


def step_terms(summands: Tensor) -> dict[str, Tensor]:
    """The three kinds of terms ``(N,)`` among the summands of a bound over steps ``(N, K + 1)``."""
    return {
        "reconstruction": summands[:, 0],
        "diffusion": summands[:, 1:-1].sum(1),
        "prior": summands[:, -1],
    }


def _with_steps(result: Result, summands: Mapping[str, Tensor], subject: Subject) -> StepsResult:
    """``result``, and what the ``summands`` of each split's bound, nats per image ``(N, K + 1)``, add to it."""
    model = subject.model
    assert isinstance(model, HasStepTerms)
    strata, dim = model.strata, model.spec.dim
    _, last = strata[-1]
    symbols = {"reconstruction": "L_0", "diffusion": f"L_1 to L_{last - 1}", "prior": f"L_{last}"}
    in_bits = {split: bits_per_dim(-values.mean(0), dim) for split, values in summands.items()}
    metrics = dict(result.metrics)
    kinds: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    for split, values in summands.items():
        prefix, name = f"likelihood/{split}", f"{subject.dataset} {split}"
        terms = step_terms(values)
        metrics |= _bound_metrics(prefix, terms)
        for kind, term in terms.items():
            bits = metrics[f"{prefix}/{kind}_bits_per_dim"] = bits_per_dim(-term.mean(), dim).item()
            nats = {"nats per image": term.mean().item(), "± s.e.": standard_error(term)}
            kinds.append({"set": name, "term": f"{symbols[kind]}, {kind}", **nats, "bits/dim": bits})
        *parts, _ = in_bits[split].tolist()
        for (first, last), bits in zip(strata, parts, strict=True):
            steps.append({"set": name, "first step": first, "last step": last, "bits/dim": bits})
    further = [
        Table("Terms of the bound on -log p(x)", kinds),
        Table("Terms of its steps", steps, printed=False),
    ]
    extended = {"metrics": metrics, "further": further, "steps": in_bits, "strata": strata}
    return StepsResult(**{**vars(result), **extended})


def _cells(values: Tensor) -> dict[str, Any]:
    return {"mean": values.mean().item(), "± s.e.": standard_error(values), "images": len(values)}


def _bound_metrics(prefix: str, terms: Mapping[str, Tensor]) -> dict[str, float]:
    names = {name: f"{prefix}/{name.lower().replace('-', '_')}" for name in terms}
    return {names[name]: values.mean().item() for name, values in terms.items()} | {
        f"{names[name]}_se": standard_error(values) for name, values in terms.items()
    }


def standard_error(values: Tensor) -> float:
    """Of the mean of ``values`` ``(N,)``; NaN of a single one.

    >>> standard_error(torch.tensor([1.0, 1.0, 1.0, 5.0]))  # 2, the standard deviation, over the root of 4
    1.0
    """
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
