"""How far log p(x) is from what it is on average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from genlab.config import config
from genlab.data import DatasetConfig
from genlab.errors import ConfigError
from genlab.models.base import Model
from genlab.ood.base import Score, View, needs_density
from genlab.registry import SCORES


@config
class TypicalityConfig:
    """``batch_sizes``: of the batches that are scored as a whole, beside single images."""

    batch_sizes: tuple[Annotated[int, Ge(2)], ...] = (2, 10)


@SCORES.register("typicality")
class Typicality(Score):
    """``-|mean log p(x) + H|`` of an image, or of a batch whose images come from one set.

    ``H``, the mean negative log-density of training images, stands for the model's entropy. Images that are
    more likely than training images are no more typical than those that are less.

    References:
        Nalisnick et al. 2019, "Detecting out-of-distribution inputs to deep generative models using
        typicality".
    """

    Config = TypicalityConfig
    options: TypicalityConfig
    entropy: Tensor

    def obstacle(self, model: type[Model], dataset: DatasetConfig) -> str | None:
        """A density of pixels or codes."""
        return needs_density(model)

    def fit(self, train: View) -> None:
        """The entropy, nats per image."""
        self.entropy = -train.log_density().mean()

    def __call__(self, view: View) -> Mapping[str, Tensor]:
        """One of single images ``(N,)``, and ``typicality_of_m`` ``(N // m,)`` for each size of a batch.

        Raises:
            ConfigError: fewer images than a batch takes.
        """
        log_density, name = view.log_density(), f"{view.prefix}typicality"
        if max(self.options.batch_sizes, default=1) > len(log_density):
            sizes = list(self.options.batch_sizes)
            raise ConfigError(
                f"evaluation.options.typicality.batch_sizes={sizes}: of {view.name} there are "
                f"{len(log_density)} images; take smaller batches or more images"
            )
        scores = {name: typicality(log_density, self.entropy)}
        for size in self.options.batch_sizes:
            scores[f"{name}_of_{size}"] = typicality(log_density, self.entropy, size)
        return scores


def typicality(log_density: Tensor, entropy: Tensor, size: int = 1) -> Tensor:
    """``-|mean + entropy|`` of batches of ``size`` in order, nats per image: ``(N,)`` -> ``(N // size,)``.

    >>> typicality(torch.tensor([-5.0, -7.0, -9.0]), torch.tensor(6.0))
    tensor([-1., -1., -3.])
    >>> typicality(torch.tensor([-5.0, -7.0, -9.0]), torch.tensor(6.0), size=2)
    tensor([-0.])
    """
    groups = log_density[: len(log_density) // size * size].view(-1, size)
    return -(groups.mean(1) + entropy).abs()
