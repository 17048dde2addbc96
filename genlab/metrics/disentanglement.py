"""Are the dimensions of the code the factors of variation? On sets whose factors are known."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Generator, Tensor

from genlab.config import Count, NonNegative, Seed, config
from genlab.data import DatasetConfig
from genlab.data.device import DeviceDataset
from genlab.disentanglement.aggregate import mig_chen
from genlab.disentanglement.dci import dci
from genlab.disentanglement.fixed_factor import Points, beta_vae_score, factor_vae_score
from genlab.disentanglement.histograms import entropies, mig_hist20, modularity, mutual_information
from genlab.disentanglement.sap import sap_score
from genlab.disentanglement.score import MIN_STD, Score, active
from genlab.errors import ConfigError, DataError, GenlabError
from genlab.metrics.base import Evaluation, Result, Subject, require_splits
from genlab.models.base import Model
from genlab.nets.gaussian import DiagonalGaussian
from genlab.progress import tracked
from genlab.registry import EVALUATIONS
from genlab.report.heatmap import heatmap
from genlab.types import Encodes, HasPosterior

Measure = Literal["mig_hist20", "mig_chen", "sap", "dci", "factor_vae", "beta_vae", "modularity"]


@config
class DisentanglementConfig:
    """Settings of :class:`DisentanglementEvaluation`.

    ``max_images`` are encoded at random (``null``: all), and ``num_held_out`` further ones for the accuracies
    in ``sap`` and ``dci``, but at most a third of the split. The counts are those of Locatello et al. 2019;
    ``num_samples``, of ``mig_chen``, is that of Chen et al. 2018.
    """

    name: Literal["disentanglement"] = "disentanglement"
    split: Literal["train", "val", "test"] = "test"
    measures: tuple[Measure, ...] = typing.get_args(Measure)
    """Which of the scores."""
    max_images: Count | None = 10_000
    num_held_out: Count = 5000
    num_samples: Count = 10_000
    num_train: Count = 10_000
    num_eval: Count = 5000
    group_size: Annotated[int, Ge(2)] = 64
    min_std: NonNegative = MIN_STD
    batch_size: Count = 500
    """Images at once."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        """At least one measure."""
        if not self.measures:
            raise ValueError("measures: name at least one, evaluation.measures=[mig_hist20] for instance")


@dataclass(frozen=True)
class Encoded:
    """Images as the measures see them, on the CPU: codes float ``(N, D)``, factors int64 ``(N, F)``.

    ``posterior`` is ``q(z|x)`` on the model's device, ``None`` for a model without. The ``test`` images are
    others.
    """

    codes: Tensor
    factors: Tensor
    posterior: DiagonalGaussian | None
    test_codes: Tensor
    test_factors: Tensor


@dataclass(frozen=True, kw_only=True)
class DisentanglementResult(Result):
    """With the share of each factor's entropy that each dimension knows of, ``(D, F)``."""

    information: Tensor
    factor_names: Sequence[str]


@EVALUATIONS.register("disentanglement")
class DisentanglementEvaluation(Evaluation):
    """Scores of the codes against the known factors; each measure's function names its source."""

    Config = DisentanglementConfig
    config: DisentanglementConfig

    def check(self, model: type[Model], dataset: DatasetConfig) -> None:
        """The model must encode, the set have factors, and the split images."""
        if not hasattr(model, "encode"):
            raise ConfigError(f"evaluation=disentanglement needs codes, and {model.__name__} does not encode")
        if not dataset.factor_names:
            raise ConfigError(
                f"evaluation=disentanglement needs known factors of variation, and {dataset.name} has none; "
                "take dataset=dsprites or dsprites_rendered"
            )
        require_splits([self.config.split], dataset)

    def run(self, subject: Subject) -> DisentanglementResult:
        """One row for each score; MIG, SAP, completeness and informativeness also by factor."""
        names, encoded = self._encoded(subject)
        scores: dict[str, Score] = {}
        for measure in self.config.measures:
            scores |= MEASURES[measure](encoded, self.config)
        rows: list[dict[str, Any]] = []
        metrics: dict[str, float] = {}
        for name, score in scores.items():
            parts = dict(zip(names, score.per_factor, strict=bool(score.per_factor)))
            rows.append({"measure": name, "value": score.value, **parts})
            metrics[f"disentanglement/{name}"] = score.value
            metrics |= {f"disentanglement/{name}/{factor}": value for factor, value in parts.items()}
        num_active = int(active(encoded.codes, self.config.min_std).sum())
        metrics["disentanglement/active_dimensions"] = num_active
        information = mutual_information(encoded.codes, encoded.factors) / entropies(encoded.factors)
        return DisentanglementResult(
            title=f"Disentanglement of {subject.run_name}",
            rows=rows,
            notes=[*self._notes(subject, encoded, names, num_active), *_shapeless(scores, names)],
            metrics=metrics,
            information=information,
            factor_names=names,
        )

    def draw(self, result: Result, folder: Path) -> None:
        """Draw how much each dimension knows of each factor."""
        assert isinstance(result, DisentanglementResult)
        dims = [f"z{j}" for j in range(len(result.information))]
        label = "I(z; v) / H(v), 20 bins"
        heatmap(result.information, dims, result.factor_names, label, result.title, folder / self.config.name)

    def _encoded(self, subject: Subject) -> tuple[list[str], Encoded]:
        """The names of the factors that vary, and what the measures need of a random part of the split."""
        data: DeviceDataset = getattr(subject.data, self.config.split)
        if data.factors is None:
            raise DataError(f"dataset {subject.dataset}: its images came without their factors")
        train, test = self._chosen(len(data))
        index = torch.cat([train, test])
        factors = data.factors[index.to(data.factors.device)].cpu()
        varying = [k for k in range(factors.shape[1]) if len(factors[: len(train), k].unique()) > 1]
        mean, log_var = _encode(subject, data, index, self.config.batch_size)
        if len(varying) < 2 or mean.shape[1] < 2:
            raise ConfigError(
                "evaluation=disentanglement takes codes of two dimensions or more and two factors that vary; "
                f"here are {mean.shape[1]} and {len(varying)}, among {len(train)} images"
            )
        factors, n = factors[:, varying], len(train)
        posterior = None
        if log_var is not None:
            device = subject.hardware.device
            posterior = DiagonalGaussian(mean[:n].to(device), log_var[:n].to(device))
        encoded = Encoded(mean[:n], factors[:n], posterior, mean[n:], factors[n:])
        return [data.factor_names[k] for k in varying], encoded

    def _chosen(self, size: int) -> tuple[Tensor, Tensor]:
        """Which images to measure, and which further ones to hold out."""
        order = torch.randperm(size, generator=Generator().manual_seed(self.config.seed))
        held_out = min(self.config.num_held_out, size // 3)
        num_images = min(self.config.max_images or size, size - held_out)
        return order[:num_images], order[num_images : num_images + held_out]

    def _notes(
        self, subject: Subject, encoded: Encoded, names: Sequence[str], num_active: int
    ) -> Iterator[str]:
        """The protocol."""
        options, measures = self.config, self.config.measures
        num_images, num_dims = encoded.codes.shape
        values = [len(column.unique()) for column in encoded.factors.unbind(1)]
        factors = ", ".join(f"{name} ({count})" for name, count in zip(names, values, strict=True))
        yield (
            f"encoder means of {num_images:,} random {options.split} images of {subject.dataset}; "
            f"factors (values): {factors}; {num_active} of {num_dims} dimensions vary by at least "
            f"{options.min_std:g}"
        )
        if "mig_hist20" in measures:
            yield "mig_hist20: information of 20-bin histograms (Locatello et al. 2019)"
        if "mig_chen" in measures and encoded.posterior is None:
            yield "mig_chen is left out: it samples the posterior, and this model has none"
        elif "mig_chen" in measures:
            yield (
                f"mig_chen: entropies of the aggregate posterior of these images by at most "
                f"{options.num_samples:,} sampled codes (Chen et al. 2018, who take all 737,280)"
            )
        if "sap" in measures:
            yield f"sap: linear SVMs of one dimension, scored on {len(encoded.test_codes):,} further images"
        if "dci" in measures:
            yield (
                "dci: random forests of tuned depth (Eastwood & Williams 2018; not the boosted trees of "
                f"Locatello et al. 2019), scored on {len(encoded.test_codes):,} further images"
            )
        if {"factor_vae", "beta_vae"} & set(measures):
            yield (
                f"factor_vae, beta_vae: {options.num_train:,} points to learn from, {options.num_eval:,} to "
                f"score, groups of {options.group_size}; chance is {1 / len(names):.3f}"
            )


Measured = Callable[[Encoded, DisentanglementConfig], Mapping[str, Score]]


def _generator(options: DisentanglementConfig) -> Generator:
    """One for each measure, so that none depends on which others are taken."""
    return Generator().manual_seed(options.seed)


def _points(options: DisentanglementConfig) -> Points:
    """Of the scores that hold a factor fixed."""
    return Points(options.num_train, options.num_eval, options.group_size)


def _mig_chen(encoded: Encoded, options: DisentanglementConfig) -> dict[str, Score]:
    if encoded.posterior is None:
        return {}
    score = mig_chen(encoded.posterior, encoded.factors, options.num_samples, _generator(options))
    return {"mig_chen": score}


def _sap(encoded: Encoded, options: DisentanglementConfig) -> dict[str, Score]:
    score = sap_score(encoded.codes, encoded.factors, encoded.test_codes, encoded.test_factors)
    return {"sap": score}


def _dci(encoded: Encoded, options: DisentanglementConfig) -> dict[str, Score]:
    found = dci(encoded.codes, encoded.factors, encoded.test_codes, encoded.test_factors, options.seed)
    return {f"dci_{name}": score for name, score in vars(found).items()}


def _factor_vae(encoded: Encoded, options: DisentanglementConfig) -> dict[str, Score]:
    codes, factors = encoded.codes, encoded.factors
    score = factor_vae_score(codes, factors, _generator(options), _points(options), options.min_std)
    return {"factor_vae": score}


def _beta_vae(encoded: Encoded, options: DisentanglementConfig) -> dict[str, Score]:
    score = beta_vae_score(encoded.codes, encoded.factors, _generator(options), _points(options))
    return {"beta_vae": score}


MEASURES: Mapping[Measure, Measured] = {
    "mig_hist20": lambda encoded, _: {"mig_hist20": mig_hist20(encoded.codes, encoded.factors)},
    "mig_chen": _mig_chen,
    "sap": _sap,
    "dci": _dci,
    "factor_vae": _factor_vae,
    "beta_vae": _beta_vae,
    "modularity": lambda encoded, options: {
        "modularity": modularity(encoded.codes, encoded.factors, options.min_std)
    },
}


def _encode(
    subject: Subject, data: DeviceDataset, index: Tensor, batch_size: int
) -> tuple[Tensor, Tensor | None]:
    """Codes of the images at ``index``, and log-variances where there is a posterior: ``(N, D)`` on the CPU.

    Raises:
        GenlabError: codes that are not finite.
    """
    assert data.factors is not None
    parts = tracked(index.to(data.factors.device).split(batch_size), "codes")
    model = subject.model
    means: list[Tensor] = []
    log_vars: list[Tensor] = []
    with subject.hardware.autocast():
        for part in parts:
            x = data.batch(part).x
            if isinstance(model, HasPosterior):
                q = model.posterior(x)
                means.append(q.mean.float().cpu())
                log_vars.append(q.log_var.float().cpu())
            else:
                assert isinstance(model, Encodes)
                means.append(model.encode(x).float().cpu())
    mean = torch.cat(means)
    if not mean.isfinite().all():
        raise GenlabError(f"{subject.run_name}: codes are not finite; the model has diverged")
    return mean, torch.cat(log_vars) if log_vars else None


def _shapeless(scores: Mapping[str, Score], names: Sequence[str]) -> Iterator[str]:
    """What compares with the figures that Chen et al. published."""
    if "mig_chen" in scores and "shape" in names:
        parts = [v for name, v in zip(names, scores["mig_chen"].per_factor, strict=True) if name != "shape"]
        yield f"mig_chen without shape, which the code of Chen et al. leaves out: {sum(parts) / len(parts):.3f}"
