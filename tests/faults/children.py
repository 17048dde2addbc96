"""Commands in processes of their own that can be killed, or that work under a fault.

A server imports genlab and torch once and forks a child for each command, which makes hundreds of them cheap.
"""

from __future__ import annotations

import datetime
import functools
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import hydra.core.utils
import pytest
from harness import CHECKOUT, Outcome

from genlab.cli import main

Fault = Callable[[], Any]
"""What a child does to itself before it runs its command."""

SECONDS = 600
"""After which a child is taken to hang."""
_THREE_DAYS = 3 * 86_400

_IMPORTED = [
    "children",
    "torch.utils.tensorboard",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "hydra._internal.hydra",
    "genlab.verbs",
    "genlab.sweep",
]
"""By the server, so that no child has to."""


@functools.cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    with pytest.MonkeyPatch.context() as patch:
        folders = [CHECKOUT, Path(__file__).parent, CHECKOUT / "tests" / "runner"]
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
        patch.setenv("OMP_NUM_THREADS", "1")  # threads that a fork leaves behind would be waited for
        forkserver.ensure_running()
    return context


def _run(arguments: Sequence[str], folder: str, environment: dict[str, str], fault: Fault | None) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
    sys.stdout = os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", buffering=1)
    sys.argv = ["genlab", *arguments]
    if fault is not None:
        fault()
    try:
        main()
    finally:
        sys.stdout.flush()


@dataclass
class Child:
    """A command under way, and the folder that it was started in."""

    process: BaseProcess
    folder: Path

    def kill(self, seconds: float) -> bool:
        """Kill it after so many seconds; whether it was still running."""
        self.process.join(seconds)
        running = self.process.is_alive()
        if running:
            self.process.kill()
        self.process.join(SECONDS)
        return running and self.process.exitcode == -signal.SIGKILL

    def finish(self) -> Outcome:
        """Wait for its end."""
        self.process.join(SECONDS)
        assert self.process.exitcode is not None, "it hangs"
        out, err = ((self.folder / name).read_text(errors="replace") for name in ("out", "err"))
        return Outcome(self.process.exitcode, out, err)


def start(*arguments: object, fault: Fault | None = None) -> Child:
    """``genlab`` with ``arguments`` in the current folder, where its output goes to ``out`` and ``err``."""
    folder = Path.cwd()
    parts = list(map(str, arguments)), str(folder), dict(os.environ), fault
    process = _context().Process(target=_run, args=parts)
    process.start()
    return Child(process, folder)


def run(*arguments: object, fault: Fault | None = None) -> Outcome:
    """``genlab`` with ``arguments``, to its end."""
    return start(*arguments, fault=fault).finish()


def undisturbed(folder: Path, *arguments: object) -> Path:
    """The run that ``arguments`` make in ``folder``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(*arguments, "hydra.run.dir=run").code == 0
    return folder / "run"


# ------------------------------------------------------------------ faults


@dataclass(frozen=True)
class Operation:
    """Something done to a file of the run: ``open`` to write, ``rename``, ``remove``, ``mkdir``, ``fsync``."""

    kind: str
    name: str

    @classmethod
    def read(cls, journal: Path) -> list[Operation]:
        """Those that :class:`Watch` has noted."""
        return [cls(*line.split("\t")) for line in journal.read_text().splitlines()]


@dataclass(frozen=True)
class Watch:
    """Notes every operation on files under ``root``; at number ``occurrence`` of ``fatal`` comes SIGKILL.

    The signal comes before the operation: what it would have done is not there.
    """

    root: Path
    journal: Path
    fatal: Operation | None = None
    occurrence: int = 0

    def __call__(self) -> None:
        journal = os.open(self.journal, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        left = [self.occurrence]

        def note(kind: str, path: object) -> None:
            if not isinstance(path, str | bytes | Path):
                return
            name = os.path.relpath(os.fsdecode(path), self.root)
            if name.startswith(".."):
                return
            operation = Operation(kind, re.sub(r"(events)\.out.*|\d{4}", r"\1", name))
            os.write(journal, f"{operation.kind}\t{operation.name}\n".encode())
            if operation == self.fatal:
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
                note("open", arguments[0])
            elif event in ("os.rename", "os.remove", "os.mkdir"):
                note(event.removeprefix("os."), arguments[0])

        fsync = os.fsync

        def noted_fsync(descriptor: int) -> None:
            note("fsync", Path(f"/proc/self/fd/{descriptor}").readlink())
            fsync(descriptor)

        os.fsync = noted_fsync  # type: ignore[assignment]
        sys.addaudithook(hook)


@dataclass(frozen=True)
class KilledWriting:
    """Killed by the kernel in the write in which a file grows beyond ``size`` bytes; it has that many then."""

    size: int

    def __call__(self) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


@dataclass(frozen=True)
class Clock:
    """A clock that is ``ahead`` by so many seconds; where it is ``jumping``, by three days more or less."""

    ahead: float = 0.0
    jumping: bool = False

    def __call__(self) -> None:
        """Set it, for Python's code: files get the time of the system."""
        real, draw = time.time, random.Random(0)

        def now() -> float:
            return real() + self.ahead + (draw.uniform(-_THREE_DAYS, _THREE_DAYS) if self.jumping else 0.0)

        class Date(datetime.datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return cls.fromtimestamp(now(), tz)

        time.time = now
        hydra.core.utils.datetime = Date  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Lost:
    """The file or folder ``path`` is removed when something is forced to disk for the time number ``at``."""

    path: Path
    at: int

    def __call__(self) -> None:
        """Watch what is forced to disk."""
        fsync, left = os.fsync, [self.at]

        def losing(descriptor: int) -> None:
            fsync(descriptor)
            if not left[0]:
                (shutil.rmtree if self.path.is_dir() else os.remove)(self.path)
            left[0] -= 1

        os.fsync = losing  # type: ignore[assignment]
