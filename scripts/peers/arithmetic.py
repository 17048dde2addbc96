"""Contests of arithmetic alone: functions of the same two tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from peers.contest import Contestant, Entry, Task

Function = Callable[[Tensor, Tensor], float]


def entries(
    task: str,
    steps: int,
    given: Callable[[], tuple[Tensor, Tensor]],
    loads: Mapping[str, Callable[[], Function]],
) -> dict[str, Entry]:
    """A contestant for each of ``loads``, which imports its function; the task does it ``steps`` times."""

    def entry(name: str, load: Callable[[], Function]) -> Contestant:
        function = load()
        first, second = given()

        def run() -> float:
            return [function(first, second) for _ in range(steps)][-1]

        return Contestant(name, {task: Task(run, steps)})

    return {name: partial(entry, name, load) for name, load in loads.items()}
