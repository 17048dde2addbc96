"""Interleaved timing: each round every contestant once, so that the machine's weather hits all alike."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from peers.contest import Task

if TYPE_CHECKING:
    from peers.worker import Worker


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
    workers: Sequence[Worker], task: str, rounds: int, between: Callable[[], None]
) -> list[dict[str, Any]]:
    """``rounds`` of ``task`` after a warm-up of each worker that has it, and ``between`` after each round."""
    workers = [worker for worker in workers if task in worker.tasks]
    rows = {worker.name: Row(worker.name, worker.parameters, *worker.tasks[task]) for worker in workers}
    for worker in workers:
        worker.timed(task)
    for _ in range(rounds):
        for worker in workers:
            seconds, rows[worker.name].value = worker.timed(task)
            rows[worker.name].seconds.append(seconds)
        between()
    return [asdict(row) for row in rows.values()]
