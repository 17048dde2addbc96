"""What a score is, and what it is computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from genlab.config import config
from genlab.data import DatasetConfig
from genlab.data.device import DeviceDataset
from genlab.hardware import Hardware
from genlab.metrics.base import per_image
from genlab.models.base import Model
from genlab.types import Batch, HasCodeLikelihood, HasLikelihood

Density = Literal["pixels", "codes"]


class View:
    """The images of one set as the models see them; what is measured is measured once.

    Args:
        name: of the set, for progress.
        data: the images.
        models: in ``eval()``, all of one kind; the first is the one in question, the others its ensemble.
        background: a model of the same kind, trained on perturbed images; ``None`` where there is none.
        hardware: where the models are.
        seed: of the noise in each measurement: the same for every model, set and score.
        limit: images at most; ``slow_limit`` those of measurements that take long, where that is fewer.
        batch_size: images at once, ``slow_limit`` or not.
    """

    def __init__(
        self,
        name: str,
        data: DeviceDataset,
        models: Sequence[Model],
        background: Model | None,
        hardware: Hardware,
        *,
        seed: int,
        limit: int | None,
        slow_limit: int | None,
        batch_size: int,
    ) -> None:
        self.name, self.data, self.models, self.background = name, data, models, background
        self.hardware, self.seed, self.batch_size = hardware, seed, batch_size
        self.limit = limit
        self.slow_limit = min((n for n in (limit, slow_limit) if n is not None), default=None)
        self._measured: dict[Any, Tensor] = {}

    @property
    def model(self) -> Model:
        """The model in question."""
        return self.models[0]

    @property
    def prefix(self) -> str:
        """Begins the name of every score of a density that is one of codes, not of pixels."""
        return "" if isinstance(self.model, HasLikelihood) else "code_"

    def log_density(self, member: int = 0) -> Tensor:
        """Nats per image of one of the models, float64 ``(N,)`` on the CPU: of pixels, or else of codes."""
        return self.measure(
            f"log density of {member}", log_density_of(self.models[member]), self.models[member]
        )

    def background_log_density(self) -> Tensor:
        """The same of the background model."""
        assert self.background is not None
        return self.measure("background", log_density_of(self.background), self.background)

    def measure(
        self,
        key: str,
        function: Callable[[Batch], Tensor],
        model: Model | None = None,
        *,
        slow: bool = False,
        batch_size: int | None = None,
    ) -> Tensor:
        """``function`` of the images, batch by batch: float64 ``(N, ...)`` on the CPU, kept under ``key``.

        Without gradients and with a seed of its own, so that what is measured does not depend on what was
        measured before.

        Args:
            key: what it is, for progress and for the next who asks.
            function: of a batch on the device, with a result for each image.
            model: whose forward pass it is; the model in question by default.
            slow: whether ``slow_limit`` images are enough.
            batch_size: where another than the evaluation's suits it.
        """
        if key not in self._measured:
            limit = self.slow_limit if slow else self.limit
            model, size = model or self.model, batch_size or self.batch_size
            with self.hardware.isolated(model, self.seed):
                label = f"{key}, {self.name}"
                self._measured[key] = per_image(function, model, self.data, self.hardware, size, limit, label)
        return self._measured[key]


def log_density_of(model: Model) -> Callable[[Batch], Tensor]:
    """Nats per image ``(B,)`` under ``model``: of pixels, or else of codes."""

    def density(batch: Batch) -> Tensor:
        if isinstance(model, HasLikelihood):
            return model.log_prob(batch.x, batch.y)
        assert isinstance(model, HasCodeLikelihood)
        return model.code_log_prob(batch.x)

    return density


def density_of(model: type[Model]) -> Density | None:
    """What a model of this class has a density of; ``None`` where it has none."""
    if hasattr(model, "log_prob"):
        return "pixels"
    return "codes" if hasattr(model, "code_log_prob") else None


@config
class NoOptions:
    """Nothing to set."""


class Score:
    """A number for each image, higher where it looks more like the training images; built as ``cls(options)``.

    A registered class may set ``slow`` (it is left out unless asked for, and sees fewer images) and ``Config``
    (its options).
    """

    slow: bool = False
    Config: type[Any] = NoOptions

    def __init__(self, options: Any) -> None:
        self.options = options

    def obstacle(self, model: type[Model], dataset: DatasetConfig) -> str | None:
        """Why models of this class can't be scored so on images of ``dataset``: ``None`` where they can.

        Words that end the sentence "score 'x' ...": "needs a likelihood, and GAN has none".
        """
        return None

    def missing(self, view: View) -> str | None:
        """What else the score needs and ``view`` lacks, in such words, with the way to give it."""
        return None

    def fit(self, train: View) -> None:
        """Learn from training images what is typical; called once, before any image is scored."""

    def __call__(self, view: View) -> Mapping[str, Tensor]:
        """Scores by name, float64 ``(N,)`` each: most classes have one, of the name they are registered by."""
        raise NotImplementedError


def needs_density(model: type[Model]) -> str | None:
    """The :meth:`Score.obstacle` of scores that begin with a density of pixels or of codes."""
    return None if density_of(model) else f"needs a density, and {model.__name__} has none"


def needs_likelihood(model: type[Model]) -> str | None:
    """The :meth:`Score.obstacle` of scores that begin with a likelihood of pixels."""
    return None if hasattr(model, "log_prob") else f"needs a likelihood, and {model.__name__} has none"
