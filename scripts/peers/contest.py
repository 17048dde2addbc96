"""What takes part in a comparison: contestants with tasks that do real work, and the setting they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class Task:
    """Work to be timed: ``steps`` iterations over ``images`` images; ``run`` returns the last loss or score."""

    run: Callable[[], float]
    steps: int = 1
    images: int = 0


@dataclass(frozen=True)
class Contestant:
    """Somebody's way to do the tasks of a family; ``parameters`` are those of its networks.

    ``operations`` counts the floating-point operations of a step, where that is asked for.
    """

    name: str
    tasks: Mapping[str, Task]
    parameters: int = 0
    operations: Callable[[], int] | None = None


Entry = Callable[[], Contestant]
"""Sets a contestant up; raises ImportError where its package is not installed."""


@dataclass(frozen=True)
class Size:
    """How much there is to do: images of an epoch, of a batch, and iterations of the task ``step``."""

    images: int
    batch: int
    steps: int


@dataclass(frozen=True)
class Setting:
    """What is the same for all: the images, uint8 ``(N, 1, 28, 28)`` on the CPU, and the device.

    ``dataset`` are the overrides with which genlab reads these images; ``rows`` its rows in the tables, each
    with the overrides of its hardware; ``folder`` is for what contestants write.
    """

    images: Tensor
    dataset: tuple[str, ...]
    device: torch.device
    rows: Mapping[str, tuple[str, ...]]
    folder: Path

    def first(self, size: Size) -> Tensor:
        """The first images, as many as make whole batches: so nobody has a smaller last one."""
        return self.images[: min(size.images, len(self.images)) // size.batch * size.batch]
