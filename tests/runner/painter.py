"""A plugin, a conditional model that paints the grey of its label: ``plugins=[painter] model.name=painter``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from genlab.config import Count, config
from genlab.models.base import Model
from genlab.registry import MODELS
from genlab.types import Batch, DataSpec, Stage, Update

STEP = 50
"""Grey levels from one label to the next; the noise of an image adds 0 to 9."""


@config
class PainterConfig:
    """``classes: null`` makes it unconditional."""

    name: Literal["painter"] = "painter"
    classes: Count | None = 3
    stages: Count = 1


@MODELS.register("painter")
class Painter(Model):
    """Its images depend on labels and noise, and on nothing that it learns."""

    Config = PainterConfig

    def __init__(self, config: PainterConfig, spec: DataSpec) -> None:
        super().__init__(spec)
        self.config, self.num_classes = config, config.classes
        self.weight = nn.Parameter(torch.ones(()))

    def stages(self) -> Sequence[Stage]:
        return [Stage(f"stage{i}", {"model": [self.weight]}) for i in range(self.config.stages)]

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        yield Update("model", self.weight.square(), {})

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        if y is None:
            y = torch.randint(self.num_classes or 1, (n,), generator=generator)
        levels = STEP * (y + 1) + torch.randint(10, (n,), generator=generator)
        return levels.to(torch.uint8).view(n, 1, 1, 1).repeat(1, *self.spec.shape)
