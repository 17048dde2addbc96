"""A process for each contestant: memory, imports and settings of one are no affair of another's."""

from __future__ import annotations

import multiprocessing
from typing import Any

from peers.serve import serve


class Worker:
    """A contestant in a process of its own, which waits while others have their turn.

    Raises:
        ImportError: its package is not installed.
        RuntimeError: the process ended; it has printed why.
    """

    def __init__(self, name: str, family: str, args: Any) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.name, (self._pipe, theirs) = name, spawn.Pipe()
        self._process = spawn.Process(target=serve, args=(theirs, name, family, args))
        self._process.start()
        theirs.close()
        about = self._answer()
        if isinstance(about, str):
            self.close()
            raise ImportError(about)
        self.tasks, self.parameters = about.tasks, about.parameters

    def timed(self, task: str) -> tuple[float, float]:
        """The seconds that ``task`` took, and the loss or score that came out."""
        seconds, value = self.ask(task)
        return seconds, value

    def ask(self, question: str) -> Any:
        """The answer to ``serve.OPERATIONS`` or ``serve.MEMORY``, or a task done."""
        self._pipe.send(question)
        return self._answer()

    def _answer(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError:
            self.close()
            raise RuntimeError(f"{self.name}: its process ended") from None

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()
