"""All measures of samples against real images, in the features of one extractor."""

from __future__ import annotations

import logging
import typing
from typing import Literal

import torch
from torch import Tensor

from genlab.config import Count, config
from genlab.data.device import DeviceDataset
from genlab.extractors.base import Extractor, Features, load_extractor
from genlab.fidelity.classes import class_accuracy, class_histogram, class_kl, modes
from genlab.fidelity.distances import frechet_distance, kernel_distance
from genlab.fidelity.features import real_features, sample_features
from genlab.fidelity.prdc import prdc
from genlab.models.base import Model
from genlab.types import DataSpec

log = logging.getLogger(__name__)

Measure = Literal["fid", "kid", "prdc", "classes"]
_FEWEST: dict[Measure, int] = {"fid": 2, "kid": 2, "prdc": 2, "classes": 1}  # images


@config
class QualityConfig:
    """Settings of :class:`Quality`: what the evaluation and the callback have in common.

    ``extractor`` is a registered name, or ``auto`` for the one that suits the images; ``weights`` a file for
    it. ``num_samples`` are measured against at most ``max_images`` real ones (``null``: all of them); ``k``
    is the number of neighbours in ``prdc``.
    """

    extractor: str = "auto"
    weights: str | None = None
    measures: tuple[Measure, ...] = typing.get_args(Measure)
    """What is computed."""
    num_samples: Count = 10_000
    max_images: Count | None = 10_000
    k: Count = 5
    batch_size: Count = 500
    """Images at once."""

    def __post_init__(self) -> None:
        """At least one measure, and images enough for it."""
        if not self.measures:
            raise ValueError("measures: name at least one of fid, kid, prdc, classes")
        fewest = max(_FEWEST[measure] for measure in self.measures)
        if "prdc" in self.measures:
            fewest = max(fewest, self.k + 1)  # an image's neighbours are others
        for name in ("num_samples", "max_images"):
            value = getattr(self, name)
            if value is not None and value < fewest:
                raise ValueError(f"{name}={value}: these measures take at least {fewest} images")


class Quality:
    """Measures samples as ``settings`` say.

    Args:
        settings: which measures, through what, of how many.
        spec: the images.
        dataset: what results call the set.
        device: the model's.

    Raises:
        ConfigError: the extractor is unknown, takes no such images, or its weights can't be had.
    """

    def __init__(self, settings: QualityConfig, spec: DataSpec, dataset: str, device: torch.device) -> None:
        self.settings = settings
        self.extractor = load(settings, spec, dataset).to(device)
        self._knows_classes = self.extractor.knows(dataset)
        self._warned = False

    def real(self, data: DeviceDataset, limit: int | None, label: str | None = None) -> Features:
        """Features of ``limit`` real images; see :func:`~genlab.fidelity.features.real_features`."""
        return real_features(self.extractor, data, limit, self.settings.batch_size, label)

    def samples(self, model: Model, label: str | None = None) -> tuple[Features, Tensor | None]:
        """Features of samples and their classes; see :func:`~genlab.fidelity.features.sample_features`."""
        return sample_features(
            self.extractor, model, self.settings.num_samples, self.settings.batch_size, label
        )

    def measure(self, real: Features, fake: Features, labels: Tensor | None = None) -> dict[str, float]:
        """The measures that ``settings`` name, as ``<measure>/<extractor>``.

        ``fid``, ``kid`` and ``kid_std``, ``precision``, ``recall``, ``density``, ``coverage``; of an extractor
        that knows the classes of the set ``modes`` and ``class_kl``, and ``class_accuracy`` where ``labels``
        ``(M,)`` say which of them each of ``fake`` should be of.
        """
        measures, values = self.settings.measures, dict[str, float]()
        if "fid" in measures:
            self._warn_of_few(len(real.values), len(fake.values))
            values["fid"] = frechet_distance(real.values, fake.values)
        if "kid" in measures:
            values["kid"], values["kid_std"] = kernel_distance(real.values, fake.values)
        if "prdc" in measures:
            values |= prdc(real.values, fake.values, self.settings.k)
        if "classes" in measures and self._knows_classes:
            values |= _class_measures(real, fake, labels)
        return {f"{name}/{self.extractor.name}": value for name, value in values.items()}

    def class_shares(self, **sets: Features) -> dict[str, list[float]]:
        """The share of each class in each of ``sets``, for a figure; none where classes aren't measured."""
        if "classes" not in self.settings.measures or not self._knows_classes:
            return {}
        logits = {name: features.logits for name, features in sets.items()}
        return {name: class_histogram(x).tolist() for name, x in logits.items() if x is not None}

    def _warn_of_few(self, num_real: int, num_fake: int) -> None:
        """Say once that a covariance of these many images is singular."""
        dim = self.extractor.num_features
        if not self._warned and min(num_real, num_fake) <= dim:
            self._warned = True
            log.warning(
                "FID of %s samples and %s real images in %s features: a covariance of so few is singular, "
                "and the distance far too large; take more of both than features",
                f"{num_fake:,}",
                f"{num_real:,}",
                f"{dim:,}",
            )


def load(settings: QualityConfig, spec: DataSpec, dataset: str) -> Extractor:
    """The extractor that ``settings`` name, on the CPU; raises as :class:`Quality` does."""
    with torch.random.fork_rng(devices=[]):  # it is filled with random numbers before it gets its weights
        return load_extractor(settings.extractor, spec, dataset, settings.weights)


def _class_measures(real: Features, fake: Features, labels: Tensor | None) -> dict[str, float]:
    if real.logits is None or fake.logits is None:
        return {}
    histogram = class_histogram(fake.logits)
    values = {
        "modes": float(modes(histogram)),
        "class_kl": class_kl(histogram, class_histogram(real.logits)),
    }
    if labels is not None:
        values["class_accuracy"] = class_accuracy(fake.logits, labels)
    return values
