"""genlab's rows: the same run at each precision, set up by overrides of conf/ alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from genlab.models.base import Model
from peers.contest import Contestant, Entry, Setting, Size, Task
from peers.genlab_run import Run
from peers.limits import operations_of
from peers.loop import size_of

FAIR = ("dataset.num_val=0", "trainer.epochs=1000000", "trainer/schedule=constant", "trainer.ema_decay=null")
"""No loop that genlab is compared with validates, averages weights or schedules the learning rate."""


def entries(
    setting: Setting,
    size: Size,
    overrides: tuple[str, ...],
    term: str = "loss",
    change: Callable[[Model], None] | None = None,
    more: Callable[[Run], Mapping[str, Task]] = lambda run: {},
    suffix: str = "",
) -> dict[str, Entry]:
    """A contestant for each row of ``setting``, by its name and ``suffix``.

    ``term`` is the logged number that stands for the loss; ``more`` gives further tasks of a run.
    """
    count = len(setting.first(size))
    common = (*FAIR, f"trainer.batch_size={size.batch}", f"dataset.limit={count}", *overrides)

    def entry(name: str, hardware: tuple[str, ...]) -> Contestant:
        run = Run(setting, (*common, *hardware), change)
        tasks = {
            "epoch": Task(lambda: run.epoch(term), count // size.batch, count),
            "step": Task(lambda: run.step(size.steps, term), size.steps, size.steps * size.batch),
        }
        operations = partial(operations_of, run.trainer.model, run.batch)
        return Contestant(name, tasks | more(run), size_of(run.trainer.model), operations)

    return {name + suffix: partial(entry, name + suffix, row) for name, row in setting.rows.items()}
