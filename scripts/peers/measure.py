"""All measurements of a family, as plain values for JSON."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import Any

from peers.contest import Setting
from peers.limits import Limits
from peers.rounds import compete
from peers.serve import MEMORY, OPERATIONS
from peers.settings import family_of
from peers.worker import Worker


def measured(name: str, setting: Setting, args: Any) -> dict[str, Any]:
    """The rows of each task, limits and operations where they are asked for, memory, and who is missing."""
    family = family_of(name, args)
    limits = Limits(setting.device) if family.limited else None
    workers, missing, tasks = [], {}, {}
    with ExitStack() as stack:  # however it ends, no process is left to wait for
        for contestant in family.entries(setting, family.size):
            try:
                workers.append(stack.enter_context(closing(Worker(contestant, name, args))))
            except ImportError as error:
                missing[contestant] = str(error)
        for task in args.tasks:
            if any(task in worker.tasks for worker in workers):
                tasks[task] = compete(workers, task, args.rounds, limits.measure if limits else lambda: None)
        return {
            "title": family.title,
            "tasks": tasks,
            "missing": missing,
            "rates": limits.rates if limits else {},
            "operations": workers[0].ask(OPERATIONS) if family.limited else 0,
            "memory": {worker.name: worker.ask(MEMORY) for worker in workers},
        }
