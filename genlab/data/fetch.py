"""Bytes from elsewhere: with time limits, with progress, and never half a file under its final name."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import secrets
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("genlab.data")

STALL_SECONDS = 10
"""How long to wait for a connection, or for its next bytes."""
COMMAND_SECONDS = 300
"""How long one command of a package manager may take: 31 MB at 110 kB/s fit."""
ANSWER_SECONDS = 60
"""How long a server may take until its answer begins: names looked up, redirects followed, headers sent."""
SLOWEST = 10_000
"""Bytes a second that a download must come to; the largest one here then takes five hours."""
MAX_BYTES = 1024**3
"""More than any file of any set here: what exceeds it is broken or hostile."""
DEFLATE_RATIO = 1032
"""The most bytes that one byte of a zip or gzip file can stand for."""
_DAY = 86_400


class UnavailableError(Exception):
    """Why a file can't be had from one place; the next place is tried."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name in the folder of ``path``, which takes its place if the block succeeds.

    The name is unique, so that two processes at the same file don't meet; the last one wins. What a killed
    one has left is removed after a day.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".*{path.name}.*.part"):
        with contextlib.suppress(OSError):  # its writer may be done with it just now
            if left.stat().st_mtime < time.time() - _DAY:
                left.unlink()
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], object]]:
    """Show ``what`` is under way: a bar on a terminal, otherwise a log line. Yields ``advance(bytes)``."""
    if not sys.stderr.isatty():
        log.info("%s", what)
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    amount = [] if total is None else [DownloadColumn()]
    columns = TextColumn("{task.description}"), BarColumn(), *amount, TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def download(url: str, path: Path, md5: str) -> None:
    """The file at ``url`` into the new file ``path``.

    Raises:
        UnavailableError: no connection, an HTTP error, a stall or a trickle, a short, endless or wrong file.
    """
    digest = hashlib.md5(usedforsecurity=False)
    request = urllib.request.Request(url, headers={"User-Agent": "genlab"})
    try:
        with _answer(request) as reply, path.open("xb") as file:
            size, begin = reply.length, time.monotonic()
            with progress(f"downloading {url}", size) as advance:
                while block := reply.read1(1 << 18):
                    file.write(block)
                    digest.update(block)
                    advance(len(block))
                    _check_pace(max(file.tell(), size or 0), file.tell(), time.monotonic() - begin)
            received = file.tell()
    except Exception as error:  # a server may send anything
        raise UnavailableError(f"{url}: {reason_of(error)}") from error
    if size is not None and received != size:
        raise UnavailableError(f"{url}: broke off after {received} of {size} bytes")
    if digest.hexdigest() != md5:
        raise UnavailableError(f"{url}: wrong checksum (md5 {digest.hexdigest()}, not {md5})")


def _answer(request: urllib.request.Request) -> http.client.HTTPResponse:
    """The server's answer, its headers read; where it doesn't come in time, whoever waits is left behind.

    A limit for each piece is none for the whole: a server may send a byte now and then, or header after header.
    """
    answer: Future[http.client.HTTPResponse] = Future()

    def ask() -> None:
        try:
            answer.set_result(urllib.request.urlopen(request, timeout=STALL_SECONDS))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    if not wait([answer], ANSWER_SECONDS).done:
        raise UnavailableError(f"no answer within {ANSWER_SECONDS} s")
    return answer.result()


def _check_pace(size: int, received: int, seconds: float) -> None:
    if size > MAX_BYTES:
        raise UnavailableError(f"more than {MAX_BYTES} bytes")
    if received < SLOWEST * (seconds - STALL_SECONDS):
        raise UnavailableError(f"{received} bytes in {seconds:.0f} s, slower than {SLOWEST} a second")


def run(command: Sequence[str], folder: Path, what: str) -> str:
    """Run ``command`` in ``folder``; what it wrote to stderr.

    Raises:
        UnavailableError: the program is missing, fails (what it wrote is the reason) or takes too long.
    """
    program = command[0]
    try:
        with progress(what):
            done = subprocess.run(
                command,
                cwd=folder,
                env=os.environ | {"LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=COMMAND_SECONDS,
                check=False,
            )
    except FileNotFoundError:
        raise UnavailableError(f"{program} is not on this machine") from None
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{program} took longer than {COMMAND_SECONDS} s") from None
    if done.returncode != 0:
        raise UnavailableError(f"{program}: {gist(done.stderr) or f'exit {done.returncode}'}")
    return done.stderr


def reason_of(error: BaseException) -> str:
    """What went wrong, without the numbers and wrappers of the operating system and urllib."""
    cause = getattr(error, "reason", None)
    if isinstance(cause, BaseException):
        return reason_of(cause)
    text = getattr(error, "strerror", None) or str(error)
    return gist("".join(c if c.isprintable() else " " for c in text)) or type(error).__name__


def gist(text: str) -> str:
    """The start of ``text`` on one line."""
    return textwrap.shorten(text, 240, placeholder=" ...")
