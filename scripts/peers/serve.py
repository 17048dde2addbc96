"""What goes on in the process of a contestant: it is set up, and answers until nobody asks any more."""

from __future__ import annotations

import multiprocessing
import re
import resource
import shutil
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from peers.contest import Contestant
from peers.rounds import silence, timed
from peers.settings import family_of, setting_of

OPERATIONS, MEMORY = "operations", "memory"
"""What else can be asked for than a task."""


@dataclass(frozen=True)
class About:
    """What is said of a contestant at first: steps and images of each task, parameters."""

    tasks: dict[str, tuple[int, int]]
    parameters: int


def serve(pipe: Connection, name: str, family: str, args: Any) -> None:
    """Send an :class:`About`, or which package is missing; then an answer to each question."""
    multiprocessing.set_start_method(None, force=True)  # workers of data loaders start as they do elsewhere
    torch.set_num_threads(args.threads)
    setting = setting_of(args)
    try:
        with silence():
            chosen = family_of(family, args)
            try:
                contestant = chosen.entries(setting, chosen.size)[name]()
            except ImportError as error:
                pipe.send(str(error))
                return
            tasks = {key: (task.steps, task.images) for key, task in contestant.tasks.items()}
            pipe.send(About(tasks, contestant.parameters))
            while (question := _received(pipe)) is not None:
                pipe.send(_answer(contestant, question, setting.device))
    finally:
        shutil.rmtree(setting.folder, ignore_errors=True)


def _received(pipe: Connection) -> str | None:
    try:
        return str(pipe.recv())
    except EOFError:
        return None


def _answer(contestant: Contestant, question: str, device: torch.device) -> Any:
    if question == OPERATIONS:
        return contestant.operations() if contestant.operations else 0
    if question == MEMORY:
        return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _most_resident()
    return timed(contestant.tasks[question], device)


def _most_resident() -> int:
    """The most bytes that this process has held.

    On Linux getrusage(2) begins with what the parent has held, /proc with the process itself.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
    return int(kilobytes) * 1024
