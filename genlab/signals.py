"""SIGINT and SIGTERM end a run after the step at hand."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Remembers the signal that came; a second one ends the process as it would have without us."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self.signal = number
        signal.signal(number, signal.SIG_DFL)

    @property
    def exit_code(self) -> int:
        """130 for SIGINT, 143 for SIGTERM: what a shell expects."""
        return 128 + (self.signal or 0)


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Catch SIGINT and SIGTERM inside the block; outside the main thread nothing is caught."""
    caught = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, caught.handle) for number in numbers]
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
