"""A bar with loss, images/s and time left on a terminal; plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

import rich
from rich import progress

log = logging.getLogger(__name__)
T = TypeVar("T")


def tracked(steps: Iterable[T], label: str | None, total: int | None = None) -> Iterable[T]:
    """``steps``, of which there are ``total``, with a bar of that ``label`` on a terminal; without one none."""
    hidden = label is None or not rich.get_console().is_terminal
    return progress.track(steps, label or "", total, transient=True, disable=hidden)


class ConsoleHandler(logging.Handler):
    """Log records on the console that the bar is drawn on, so that neither tears the other."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message as it is, unwrapped."""
        rich.get_console().print(self.format(record), markup=False, highlight=False, soft_wrap=True)


def _consoles() -> list[ConsoleHandler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, ConsoleHandler)]


def is_hushed() -> bool:
    """Whether the console is left to one speaker, so that tables are for the files alone."""
    return any(console.filters for console in _consoles())


@contextmanager
def hushed(speaker: str) -> Iterator[None]:
    """Nothing reaches the console inside the block but warnings, and what the logger ``speaker`` says."""

    def passes(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.name == speaker

    consoles = _consoles()
    for console in consoles:
        console.addFilter(passes)
    try:
        yield
    finally:
        for console in consoles:
            console.removeFilter(passes)


class Progress:
    """Progress of one stage of training, in steps."""

    def __init__(self, stage: str, total: int, done: int) -> None:
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TextColumn("{task.fields[status]}"),
            progress.TimeRemainingColumn(),
            disable=not rich.get_console().is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(stage, total=total, completed=done, status="")
        self._total, self._done, self._first = total, done, done
        self._start = time.perf_counter()
        self._rate = 0.0

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, done: int, terms: Mapping[str, float], rate: float) -> None:
        """Redraw the bar at step ``done``."""
        self._done, self._rate = done, rate
        losses = "  ".join(f"{name} {value:.5g}" for name, value in terms.items() if name.startswith("loss"))
        self._bar.update(self._task, completed=done, status=f"{losses}  {rate:,.0f} images/s")

    def epoch(self, epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
        """One line for a finished epoch."""
        shown = [
            f"{name} {value:.5g}"
            for name, value in metrics.items()
            if name.split("/")[-1].startswith(("loss", "bits_per_dim"))
        ]
        seconds = time.perf_counter() - self._start
        left = seconds / max(1, self._done - self._first) * (self._total - self._done)
        minutes, seconds_left = divmod(round(left), 60)
        status = f"{self._rate:,.0f} images/s  {minutes}:{seconds_left:02d} left"
        log.info("epoch %d/%d  %s  %s", epoch, epochs, "  ".join(shown), status)
