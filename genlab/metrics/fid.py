"""How good samples are: FID, KID, precision and recall, density and coverage, and classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genlab.config import Seed, config
from genlab.data import DatasetConfig, data_spec
from genlab.errors import CapabilityError
from genlab.fidelity.features import chosen
from genlab.fidelity.quality import Quality, QualityConfig, load
from genlab.metrics.base import Evaluation, Result, Subject, require_splits
from genlab.models.base import Model
from genlab.registry import EVALUATIONS
from genlab.report.figures import save
from genlab.report.measures import describe
from genlab.report.quality import class_bars


@config
class FIDConfig(QualityConfig):
    """Settings of :class:`FIDEvaluation`; ``split`` has the real images."""

    name: Literal["fid"] = "fid"
    split: Literal["train", "val", "test"] = "test"
    seed: Seed = 0
    """Of the samples."""


@dataclass(frozen=True, kw_only=True)
class FIDResult(Result):
    """With the shares of classes by set, where there are classes."""

    classes: Mapping[str, Sequence[float]]


@EVALUATIONS.register("fid")
class FIDEvaluation(Evaluation):
    """Samples against real images in the features of a network; each measure's function names its source.

    Training images, as many as samples, are measured in the same way: they show what a model could reach
    that has the data's own distribution.
    """

    Config = FIDConfig
    config: FIDConfig

    def check(self, model: type[Model], dataset: DatasetConfig) -> None:
        """The model must sample, the split have images, and the extractor suit them."""
        if not hasattr(model, "sample"):
            raise CapabilityError(f"evaluation=fid needs samples, and {model.__name__} does not sample")
        require_splits([self.config.split], dataset)
        load(self.config, data_spec(dataset), dataset.label)

    def run(self, subject: Subject) -> FIDResult:
        """A row for each measure: of the samples, and beside it of training images."""
        model, data = subject.model, subject.data
        quality = Quality(self.config, model.spec, subject.dataset, subject.hardware.device)
        with subject.hardware.autocast():
            fake, labels = quality.samples(model, "samples")
        real = quality.real(getattr(data, self.config.split), self.config.max_images, "real images")
        metrics = quality.measure(real, fake, labels)
        columns = {"samples": {"images": len(fake.values), **_cells(metrics)}}
        if self.config.split != "train":
            train, count = data.train, self.config.num_samples
            features = quality.real(train, count, "training images")
            known = None if labels is None or train.labels is None else train.labels[chosen(train, count)]
            reference = quality.measure(real, features, known)
            columns["training images"] = {"images": len(features.values), **_cells(reference)}
        return FIDResult(
            title=(
                f"Samples of {subject.run_name} against {len(real.values):,} {self.config.split} images of "
                f"{subject.dataset}"
            ),
            rows=[
                {"measure": name, **{column: cells.get(name) for column, cells in columns.items()}}
                for name in columns["samples"]
            ],
            notes=list(self._notes(quality, subject.dataset)),
            metrics=metrics,
            classes=quality.class_shares(**{"samples": fake, f"{self.config.split} images": real}),
        )

    def draw(self, result: Result, folder: Path) -> None:
        """Draw the shares of classes, where there are any."""
        assert isinstance(result, FIDResult)
        if result.classes:
            save(class_bars(result.classes, result.title), folder / "classes")

    def _notes(self, quality: Quality, dataset: str) -> Iterator[str]:
        """The protocol."""
        extractor, options = quality.extractor, self.config
        accuracy = getattr(extractor, "test_accuracy", None)
        stated = "" if accuracy is None else f", a classifier of {accuracy:.2%} test accuracy"
        yield (
            f"in {extractor.num_features:,} features of {extractor.name}{stated}; figures of another "
            "extractor, or of other counts of images, do not compare"
        )
        if options.split != "train":
            yield "training images in place of samples: what a model with the data's own distribution reaches"
        if "kid" in options.measures:
            yield "KID: the mean over 100 subsets of at most 1,000 images, times 1000"
        if "prdc" in options.measures:
            yield f"precision, recall, density, coverage: of the {options.k} nearest neighbours"
        if "classes" in options.measures and extractor.knows(dataset):
            yield (
                f"modes: of {extractor.num_classes} classes, those that have a sample; class KL: of the "
                "classes' shares among samples from those among real images, in nats"
            )


def _cells(metrics: Mapping[str, float]) -> dict[str, float]:
    """``metrics`` by what the table calls them."""
    cells: dict[str, float] = {}
    for key, value in metrics.items():
        measure = describe(key)
        if measure.name == "modes":
            cells["modes"] = int(value)
        elif measure.name == "KID":
            cells["KID x 1000"] = 1000 * value
        elif not measure.detail:
            cells[measure.name] = value
    return cells
