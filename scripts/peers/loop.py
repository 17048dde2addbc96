"""Contestants that train by a plain loop."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from torch import Tensor, nn

from peers.contest import Contestant, Size, Task


class Batches(Protocol):
    """Batches of images, in another order each time they are asked for."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Tensor]: ...


def size_of(*networks: nn.Module) -> int:
    return sum(p.numel() for network in networks for p in network.parameters())


def looped(
    name: str, networks: tuple[nn.Module, ...], step: Callable[[Tensor], float], batches: Batches, size: Size
) -> Contestant:
    """A loop as tutorials write it: ``step`` with each of ``batches``, or over and over with the first."""
    first, count = next(iter(batches)), len(batches)

    def over(some: Iterable[Tensor]) -> float:
        return [step(x) for x in some][-1]

    tasks = {
        "epoch": Task(lambda: over(batches), count, count * size.batch),
        "step": Task(lambda: over(itertools.repeat(first, size.steps)), size.steps, size.steps * size.batch),
    }
    return Contestant(name, tasks, size_of(*networks))
