"""Interleaved timing: each round every contestant once, so that the machine's weather hits all alike."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from peers.contest import Contestant, Task


@dataclass
class Row:
    """A contestant at a task: the seconds of each round, and the loss or score that came out of the last."""

    name: str
    parameters: int
    steps: int
    images: int
    seconds: list[float] = field(default_factory=list)
    value: float = float("nan")


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No bars and no messages of contestants, which would tear each other; they are drawn all the same."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(task: Task, device: torch.device) -> tuple[float, float]:
    """Seconds until the device has done it, and what it returned."""
    synchronise(device)
    start = time.perf_counter()
    value = task.run()
    synchronise(device)
    return time.perf_counter() - start, value


def compete(
    contestants: list[Contestant], name: str, rounds: int, device: torch.device, between: Callable[[], None]
) -> list[dict]:
    """``rounds`` of task ``name`` after a warm-up of each contestant, and ``between`` after each round."""
    tasks = {c.name: c.tasks[name] for c in contestants if name in c.tasks}
    sizes = {c.name: c.parameters for c in contestants}
    rows = {key: Row(key, sizes[key], task.steps, task.images) for key, task in tasks.items()}
    with silence():
        for task in tasks.values():
            timed(task, device)
        for _ in range(rounds):
            for key, task in tasks.items():
                seconds, rows[key].value = timed(task, device)
                rows[key].seconds.append(seconds)
            between()
    return [asdict(row) for row in rows.values()]
