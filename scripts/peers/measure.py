"""All measurements of a family, as plain values for JSON."""

from __future__ import annotations

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
    workers, missing = started(list(family.entries(setting, family.size)), name, args)
    limits = Limits(setting.device) if family.limited else None
    tasks = {}
    try:
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
    finally:
        for worker in workers:
            worker.close()


def started(names: list[str], family: str, args: Any) -> tuple[list[Worker], dict[str, str]]:
    """Those whose packages are here; of the others, why they are not."""
    workers, missing = [], {}
    for name in names:
        try:
            workers.append(Worker(name, family, args))
        except ImportError as error:
            missing[name] = str(error)
    return workers, missing
