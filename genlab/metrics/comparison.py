"""What any model can be compared by: FID, bits per dimension, OOD detection and the time that samples take."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from genlab.config import Count, Seed, config
from genlab.data import DatasetConfig
from genlab.data.device import DeviceDataset
from genlab.errors import CapabilityError, ConfigError
from genlab.likelihood import LEVELS
from genlab.metrics.base import Evaluation, Result, Subject, Table
from genlab.metrics.fid import FIDConfig, FIDEvaluation
from genlab.metrics.likelihood import LikelihoodConfig, LikelihoodEvaluation
from genlab.metrics.ood import OODConfig, OODEvaluation
from genlab.models.base import Model
from genlab.progress import tracked
from genlab.registry import EVALUATIONS
from genlab.report.measures import describe
from genlab.types import HasLikelihood, Samples

_PARTS: Mapping[str, type[Evaluation]] = {
    "fid": FIDEvaluation,
    "likelihood": LikelihoodEvaluation,
    "ood": OODEvaluation,
}


@config
class SamplingConfig:
    """How many samples are timed, and how many are drawn at once."""

    num_images: Count = 1000
    batch_size: Count = 500
    """Samples drawn at once."""


@config
class ComparisonConfig:
    """Settings of :class:`Comparison`: those of each part (``null`` leaves it out); ``seed`` is of the timed
    samples."""

    name: Literal["comparison"] = "comparison"
    fid: FIDConfig | None = Field(default_factory=FIDConfig)
    likelihood: LikelihoodConfig | None = Field(default_factory=LikelihoodConfig)
    ood: OODConfig | None = Field(default_factory=OODConfig)
    sampling: SamplingConfig | None = Field(default_factory=SamplingConfig)
    seed: Seed = 0

    def __post_init__(self) -> None:
        """At least one part."""
        if not any((self.fid, self.likelihood, self.ood, self.sampling)):
            raise ValueError("fid, likelihood, ood and sampling are all null: leave one of them")


@dataclass(frozen=True, kw_only=True)
class ComparisonResult(Result):
    """With the result of each part."""

    parts: Mapping[str, Result]


@EVALUATIONS.register("comparison")
class Comparison(Evaluation):
    """The parts that a model can do, each as if it were run alone; what it can't do is said in the notes.

    Samples are timed until they are in the memory of the computer, after a batch that is not.
    """

    Config = ComparisonConfig
    config: ComparisonConfig
    _parts: Mapping[str, Evaluation]
    _left_out: Sequence[str]

    def check(self, model: type[Model], dataset: DatasetConfig) -> None:
        """The model must be capable of something, and the settings of that fit."""
        settings = {name: getattr(self.config, name) for name in _PARTS}
        parts = {name: _PARTS[name](values) for name, values in settings.items() if values is not None}
        obstacles = {name: _obstacle(name, part, model, dataset) for name, part in parts.items()}
        self._parts = {name: part for name, part in parts.items() if obstacles[name] is None}
        self._left_out = [reason for reason in obstacles.values() if reason is not None]
        if not self._parts and not (self.config.sampling and hasattr(model, "sample")):
            raise CapabilityError(f"evaluation=comparison: there is nothing to compare {model.__name__} by")

    def datasets(self) -> Sequence[str]:
        """Those of its parts."""
        return [name for part in self._parts.values() for name in part.datasets()]

    def runs(self) -> Mapping[str, str]:
        """Those of its parts."""
        return {key: name for part in self._parts.values() for key, name in part.runs().items()}

    @property
    def resize(self) -> bool:
        """As the part says that has further sets."""
        return any(part.resize for part in self._parts.values())

    def run(self, subject: Subject) -> ComparisonResult:
        """A row for each measure; the parts' own tables follow."""
        results = {}
        for name, part in self._parts.items():
            with subject.hardware.isolated(subject.model, part.config.seed):
                results[name] = part.run(subject)
        if self.config.sampling and isinstance(subject.model, Samples):
            results["sampling"] = _sampling(subject, self.config.sampling)
        metrics = {key: value for result in results.values() for key, value in result.metrics.items()}
        remarks = {key: self._remarks(key, subject) for key in metrics}
        return ComparisonResult(
            title=f"{subject.run_name}, trained on {subject.dataset}",
            rows=list(_rows(metrics, remarks)),
            notes=[
                *(f"{name}: {note}" for name, result in results.items() for note in result.notes),
                *(f"left out: {reason}" for reason in self._left_out),
            ],
            metrics=metrics,
            scores={
                f"{name}/{key}": values
                for name, result in results.items()
                for key, values in result.scores.items()
            },
            further=[table for result in results.values() for table in _tables(result)],
            remarks=remarks,
            parts=results,
        )

    def _remarks(self, metric: str, subject: Subject) -> list[str]:
        """Of which kind a figure is, and of how many images."""
        model, c = subject.model, self.config
        match metric.split("/"):
            case ["likelihood", split, *_]:
                assert isinstance(model, HasLikelihood)
                assert c.likelihood is not None
                binary = [] if model.levels == LEVELS else ["binarised"]
                return [model.likelihood, *binary, _images(getattr(subject.data, split), c.likelihood)]
            case ["ood", *_]:
                assert c.ood is not None
                return [_images(subject.data.test, c.ood)]
            case ["sampling", *_]:
                return []
        assert c.fid is not None
        return [f"{c.fid.num_samples:,} samples"]

    def draw(self, result: Result, folder: Path) -> None:
        """Draw the figures of the parts."""
        assert isinstance(result, ComparisonResult)
        for name, part in self._parts.items():
            part.draw(result.parts[name], folder)


def _obstacle(name: str, part: Evaluation, model: type[Model], dataset: DatasetConfig) -> str | None:
    """What the model lacks for ``part``; ``None`` where it lacks nothing."""
    try:
        part.check(model, dataset)
    except CapabilityError as error:
        return str(error)
    except ConfigError as error:
        raise ConfigError(f"{error}; evaluation.{name}=null leaves it out") from None
    return None


def _sampling(subject: Subject, settings: SamplingConfig) -> Result:
    model, total = subject.model, settings.num_images
    assert isinstance(model, Samples)
    size = min(settings.batch_size, model.max_batch, total)

    def draw(n: int) -> None:
        with subject.hardware.autocast():
            model.sample(n).cpu()  # the copy waits for the device

    draw(size)
    start = time.perf_counter()
    for begin in tracked(range(0, total, size), "timed samples"):
        draw(min(size, total - begin))
    seconds = 1000 * (time.perf_counter() - start) / total
    note = f"{total:,} images, {size:,} at once after as many to warm up, on {subject.hardware.name}"
    return Result("Sampling", [], [note], {"sampling/seconds_per_1000": seconds})


def _rows(metrics: Mapping[str, float], remarks: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Any]]:
    for key, value in metrics.items():
        if not (measure := describe(key)).detail:
            yield {"measure": measure.label(remarks[key]), "value": value, "better": measure.better}


def _tables(result: Result) -> list[Table]:
    return [*([Table(result.title, result.rows)] if result.rows else []), *result.further]


def _images(data: DeviceDataset, settings: LikelihoodConfig | OODConfig) -> str:
    return f"{min(len(data), settings.max_images or len(data)):,} images"
