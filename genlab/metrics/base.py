"""What an evaluation gets and gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genlab.data import DatasetConfig
from genlab.data.device import DeviceDataset, Splits
from genlab.errors import CapabilityError, ConfigError
from genlab.hardware import Hardware
from genlab.logger import RunLogger
from genlab.models.base import Model
from genlab.progress import tracked
from genlab.report.figures import histograms
from genlab.types import Batch


@dataclass(frozen=True)
class Subject:
    """A trained model in ``eval()``, its data, and the further sets that the evaluation asked for."""

    model: Model
    run_name: str
    dataset: str
    data: Splits
    others: Mapping[str, DeviceDataset]
    hardware: Hardware
    ensemble: Sequence[Model] = ()
    """Further models of the same kind, in ``eval()``."""
    runs: Mapping[str, Model] = field(default_factory=dict)
    """What :meth:`Evaluation.runs` named, trained, in ``eval()``."""


@dataclass(frozen=True)
class Table:
    """Further rows of a :class:`Result`; those that are not ``printed`` are for its JSON file alone."""

    title: str
    rows: Sequence[Mapping[str, Any]]
    printed: bool = True


@dataclass(frozen=True)
class Result:
    """A table for people, numbers for machines, values for histograms.

    ``metrics`` go to ``summary.json``, TensorBoard and sweeps by their names; ``scores`` are distributions
    by the name of the set; ``further`` are tables beside the main one. ``remarks`` are words that a metric is
    not to be read without, by its name: of which kind it is, of how many images.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str]
    metrics: Mapping[str, float]
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    score_name: str = ""
    further: Sequence[Table] = ()
    remarks: Mapping[str, Sequence[str]] = field(default_factory=dict, kw_only=True)


class Evaluation:
    """Something that ``genlab eval`` measures; built as ``cls(config)``."""

    takes_ensemble: bool = False
    """Whether it makes anything of further runs, ``genlab eval run=[a,b,c]``."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def datasets(self) -> Sequence[str]:
        """Names of the sets needed beside the model's own; they are fetched before any work."""
        return []

    def runs(self) -> Mapping[str, str]:
        """Folders of further runs that it needs, by the setting that names them; loaded before any work."""
        return {}

    @property
    def resize(self) -> bool:
        """Whether those sets are to be brought to the shape of the model's images."""
        return False

    def check(self, model: type[Model], dataset: DatasetConfig) -> None:
        """Whether a model of this class can be evaluated on its dataset at all, before any work.

        Raises:
            CapabilityError: it lacks the capability.
            ConfigError: the dataset lacks the images, or a setting doesn't fit.
        """

    def run(self, subject: Subject) -> Result:
        """Measure, with random numbers already seeded."""
        raise NotImplementedError

    def draw(self, result: Result, folder: Path) -> None:
        """Draw the figures of ``result`` into ``folder``: by default histograms of its scores."""
        if result.scores:
            histograms(result.scores, result.score_name, result.title, folder / self.config.name)

    def log(self, result: Result, logger: RunLogger, step: int) -> None:
        """Show ``result`` in TensorBoard, beside its metrics: by default histograms of its scores."""
        for name, scores in result.scores.items():
            logger.histogram(f"evaluation/{self.config.name}/{name}", scores, step)


def require_splits(splits: Sequence[str], dataset: DatasetConfig) -> None:
    """Raise :class:`ConfigError` unless each of ``splits`` has images."""
    if "val" in splits and not dataset.num_val:
        raise ConfigError("evaluation: val is asked for, and dataset.num_val=0 holds nothing out for it")


def batches(
    model: Model, data: DeviceDataset, batch_size: int, limit: int | None, label: str
) -> Iterator[Batch]:
    """The first ``limit`` images in order, with a bar of that ``label`` on a terminal.

    A batch is never larger than ``model`` takes at once.
    """
    batch_size = min(batch_size, model.max_batch)
    total = math.ceil(min(len(data), limit or len(data)) / batch_size)
    yield from tracked(data.in_order(batch_size, limit), label, total)


def per_image(
    function: Callable[[Batch], Tensor],
    model: Model,
    data: DeviceDataset,
    hardware: Hardware,
    batch_size: int,
    limit: int | None,
    label: str,
) -> Tensor:
    """``function`` of :func:`batches` at the precision of ``hardware``: float64 ``(N, ...)`` on the CPU."""
    parts = []
    for batch in batches(model, data, batch_size, limit, label):
        with hardware.autocast():
            parts.append(function(batch).double().cpu())
    return torch.cat(parts)


def require_likelihood(evaluation: str, model: type[Model]) -> None:
    """Raise :class:`CapabilityError` unless ``model`` has ``log_prob``."""
    if not hasattr(model, "log_prob"):
        raise CapabilityError(f"evaluation={evaluation} needs a likelihood, and {model.__name__} has none")
