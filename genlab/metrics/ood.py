"""Out-of-distribution detection: which score tells which set from the model's own images?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from pydantic import Field
from torch import Tensor

from genlab.config import Count, Seed, config, parse
from genlab.data import DatasetConfig
from genlab.data.device import DeviceDataset
from genlab.errors import CapabilityError, ConfigError
from genlab.logger import RunLogger
from genlab.metrics.base import Evaluation, Result, Subject, Table
from genlab.metrics.likelihood import protocol, standard_error, summarise
from genlab.models.base import Model
from genlab.ood.base import Score, View, density_of
from genlab.ood.detection import auroc_interval, detection
from genlab.registry import EVALUATIONS, SCORES
from genlab.report.figures import as_image, histograms, save
from genlab.report.ood import draw_extremes, roc_figure
from genlab.types import HasLikelihood

Scores = Mapping[str, Tensor]
"""Of each set, by its name."""


@config
class OODConfig:
    """Settings of :class:`OODEvaluation`.

    ``max_images`` bounds each set, ``slow_images`` each set of the scores that take long (``null``: all of it).
    ``options`` are those of each score, by its name.
    """

    name: Literal["ood"] = "ood"
    datasets: Annotated[tuple[str, ...], Field(min_length=1)] = ("fashion_mnist", "mnist", "kmnist", "noise")
    scores: Literal["auto", "all"] | Annotated[tuple[str, ...], Field(min_length=1)] = "auto"
    background: str | None = None
    max_images: Count | None = 10_000
    slow_images: Count | None = 200
    batch_size: Count = 500
    """Images at once."""
    resize: bool = False
    resamples: Annotated[int, Ge(2)] = 500
    extremes: Count = 10
    seed: Seed = 0
    options: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)


@dataclass(frozen=True)
class OODResult(Result):
    """All scores ``by_score`` and set, and the ``extremes`` of each set: its most and least likely images.

    ``extremes`` are uint8 ``(2, K, C, H, W)``, by the first score.
    """

    by_score: Mapping[str, Scores] = field(default_factory=dict)
    extremes: Mapping[str, Tensor] = field(default_factory=dict)


@EVALUATIONS.register("ood")
class OODEvaluation(Evaluation):
    """Every score against every set: AUROC with its bootstrap interval; AUPR and FPR at 95 % TPR beside it.

    The model's own test images are the positives. Each score's class names its source.
    """

    Config = OODConfig
    config: OODConfig
    takes_ensemble = True
    _possible: Mapping[str, Score]

    def datasets(self) -> tuple[str, ...]:
        """The sets to tell apart from the model's own."""
        return self.config.datasets

    def runs(self) -> Mapping[str, str]:
        """The background model's."""
        return {} if self.config.background is None else {"evaluation.background": self.config.background}

    @property
    def resize(self) -> bool:
        """As the settings say."""
        return self.config.resize

    def check(self, model: type[Model], dataset: DatasetConfig) -> None:
        """There must be something to score by, and every score that is named must be possible."""
        for name in self.config.options:
            self._build(name)  # those of scores that are left out are checked too
        scores = {name: self._build(name) for name in self._candidates()}
        obstacles = {name: score.obstacle(model, dataset) for name, score in scores.items()}
        for name, obstacle in obstacles.items():
            if obstacle and self._named:
                raise CapabilityError(f"evaluation.scores: '{name}' {obstacle}")
        if all(obstacles.values()):
            raise CapabilityError(f"evaluation=ood: there is nothing to score images by under {model.__name__}")
        self._possible = {name: score for name, score in scores.items() if not obstacles[name]}

    @property
    def _named(self) -> bool:
        return not isinstance(self.config.scores, str)

    def _candidates(self) -> Sequence[str]:
        if not isinstance(self.config.scores, str):
            return self.config.scores
        names = sorted(SCORES.names(), key=lambda name: name != "log_likelihood")  # what the others start from
        return [name for name in names if self.config.scores == "all" or not SCORES[name].slow]

    def _build(self, name: str) -> Score:
        cls = SCORES[name]
        score: Score = cls(parse(cls.Config, self.config.options.get(name, {}), f"evaluation.options.{name}"))
        return score

    def run(self, subject: Subject) -> OODResult:
        """A row for each score, a column for each set.

        Raises:
            ConfigError: a score was asked for by name and lacks what it needs, or the runs are not of a kind.
        """
        _require_one_kind(subject)
        own = f"{subject.dataset} test"
        train = self._view(f"{subject.dataset} train", subject.data.train, subject)
        sets = {own: subject.data.test, **subject.others}
        views = {name: self._view(name, data, subject) for name, data in sets.items()}
        by_score, remarks = self._scores(train, views)
        found = {score: list(self._compare(values, own)) for score, values in by_score.items()}
        details = [{"score": score, **measures} for score, sets in found.items() for measures in sets]
        densities = _densities({train.name: train, **views})
        means = {f"ood/{name}/{train.prefix}log_prob": v.mean().item() for name, v in densities.items()}
        summaries = [{"set": name, **_summary(v, subject.model)} for name, v in densities.items()]
        further = [Table("Log-densities", summaries)] if summaries else []
        first, scores = next(iter(by_score.items()))
        return OODResult(
            title=f"Out-of-distribution detection by {subject.run_name}: AUROC",
            rows=[{"score": score, **{m["set"]: _cell(m) for m in sets}} for score, sets in found.items()],
            notes=[*self._notes(subject), *remarks],
            metrics={f"ood/{d['score']}/{d['set']}/AUROC": d["AUROC"] for d in details} | means,
            scores=densities or scores,
            score_name=f"{train.prefix}log_likelihood, nats per image" if densities else first,
            further=[*further, Table("Every measure", details, printed=False)],
            by_score=by_score,
            extremes={name: self._extremes(views[name], values) for name, values in scores.items()},
        )

    def _view(self, name: str, data: DeviceDataset, subject: Subject) -> View:
        return View(
            name,
            data,
            (subject.model, *subject.ensemble),
            subject.runs.get("evaluation.background"),
            subject.hardware,
            seed=self.config.seed,
            limit=self.config.max_images,
            slow_limit=self.config.slow_images,
            batch_size=self.config.batch_size,
        )

    def _scores(self, train: View, views: Mapping[str, View]) -> tuple[Mapping[str, Scores], list[str]]:
        """Every score of every set, and what is to be said of them: what was left out, what overflowed."""
        missing = {name: score.missing(train) for name, score in self._possible.items()}
        absent = [f"'{name}' {reason}" for name, reason in missing.items() if reason]
        if absent and (self._named or len(absent) == len(missing)):
            raise ConfigError(f"evaluation.scores: {absent[0]}")
        by_score: dict[str, dict[str, Tensor]] = {}
        remarks = [f"left out: {reason}" for reason in absent]
        for score in (score for name, score in self._possible.items() if not missing[name]):
            score.fit(train)
            found = ((name, row, values) for name, view in views.items() for row, values in score(view).items())
            for set_name, row, values in found:
                by_score.setdefault(row, {})[set_name] = values.where(~values.isnan(), -math.inf)
                if undefined := int(values.isnan().sum()):
                    share = f"{undefined:,} of {len(values):,} images of {set_name}"
                    remarks.append(f"{row} is not a number, taken for the least typical, for {share}")
        return by_score, remarks

    def _compare(self, scores: Scores, own: str) -> Iterator[dict[str, Any]]:
        """The measures of each set but ``own``."""
        inside = scores[own]
        for name, outside in scores.items():
            if name == own:
                continue
            generator = torch.Generator().manual_seed(self.config.seed)
            low, high = auroc_interval(inside, outside, self.config.resamples, generator)
            images = min(len(inside), len(outside))
            yield {"set": name, **detection(inside, outside), "low": low, "high": high, "images": images}

    def _extremes(self, view: View, scores: Tensor) -> Tensor:
        order = scores.argsort(descending=True)
        count = min(self.config.extremes, len(order))
        chosen = torch.cat([order[:count], order[-count:]]).to(view.data.data_device)
        images: Tensor = view.data.batch(chosen).x.cpu().unflatten(0, (2, count))
        return images

    def _notes(self, subject: Subject) -> Iterator[str]:
        yield (
            f"scores are higher for images more like {subject.dataset}, whose test images are the positives: "
            "an AUROC below 0.5 says that the score takes the other set for more typical"
        )
        yield f"in brackets: 95 % of {self.config.resamples} bootstrap samples of the images"
        if self.config.slow_images and any(score.slow for score in self._possible.values()):
            slow = ", ".join(name for name, score in self._possible.items() if score.slow)
            yield f"of at most {self.config.slow_images:,} images of each set: {slow}"
        if isinstance(subject.model, HasLikelihood):
            yield protocol(subject.model)
        else:
            yield f"no density of pixels; {subject.model.protocol}"

    def draw(self, result: Result, folder: Path) -> None:
        """Draw a histogram for each score, the ROC curves, and the most and least likely images."""
        assert isinstance(result, OODResult)
        for name, scores in result.by_score.items():
            histograms(scores, name, _heading(result), folder / f"ood_{name}")
        save(roc_figure(result.by_score, _heading(result)), folder / "ood_roc")
        first = next(iter(result.by_score))
        draw_extremes(result.extremes, f"Most and least typical by {first}", folder / "ood_extremes")

    def log(self, result: Result, logger: RunLogger, step: int) -> None:
        """Beside histograms a precision-recall curve of each score and set, and the ROC curves as an image."""
        assert isinstance(result, OODResult)
        super().log(result, logger, step)
        for score, values in result.by_score.items():
            (_, inside), *others = values.items()  # the model's own set comes first
            for name, outside in others:
                logger.pr_curve(f"ood/{score}/{name}", inside, outside, step)
        logger.images("ood/roc", as_image(roc_figure(result.by_score, _heading(result))), step)


def _heading(result: OODResult) -> str:
    return result.title.removesuffix(": AUROC")


def _require_one_kind(subject: Subject) -> None:
    """Densities of pixels and of codes don't compare."""
    kind = density_of(type(subject.model))
    for other in (*subject.ensemble, *subject.runs.values()):
        if density_of(type(other)) != kind:
            names = f"{type(subject.model).__name__} and {type(other).__name__}"
            raise ConfigError(f"evaluation=ood: {names} have densities of different things; name others")


def _densities(views: Mapping[str, View]) -> Scores:
    """Log-densities of each set; none of a model that has no density."""
    return {name: view.log_density() for name, view in views.items() if density_of(type(view.model))}


def _summary(log_density: Tensor, model: Model) -> dict[str, float]:
    if isinstance(model, HasLikelihood):
        return summarise(log_density, model)
    mean, error = log_density.mean().item(), standard_error(log_density)
    return {"images": len(log_density), "log p(code)": mean, "± s.e.": error}


def _cell(detail: Mapping[str, Any]) -> str:
    return f"{detail['AUROC']:.3f} [{detail['low']:.3f}, {detail['high']:.3f}]"
