"""Bytes from elsewhere: with time limits, with progress, and never half a file under its final name."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import secrets
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("genlab.data")

STALL_SECONDS = 10
"""How long to wait for a connection, or for its next bytes."""
COMMAND_SECONDS = 300
"""How long one command of a package manager may take: 31 MB at 110 kB/s fit."""
MAX_BYTES = 2 * 1024**3
"""More than any file of any set here: what exceeds it is broken or hostile."""


class UnavailableError(Exception):
    """Why a file can't be had from one place; the next place is tried."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name in the folder of ``path``, which takes its place if the block succeeds.

    The name is unique, so that two processes at the same file don't meet; the last one wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
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
        UnavailableError: no connection, an HTTP error, a stall, a short or a wrong file.
    """
    digest = hashlib.md5(usedforsecurity=False)
    request = urllib.request.Request(url, headers={"User-Agent": "genlab"})
    try:
        with urllib.request.urlopen(request, timeout=STALL_SECONDS) as reply, path.open("xb") as file:
            size = reply.length
            with progress(f"downloading {url}", size) as advance:
                while block := reply.read(1 << 18):
                    file.write(block)
                    digest.update(block)
                    advance(len(block))
                    if file.tell() > MAX_BYTES:
                        raise UnavailableError(f"{url}: more than {MAX_BYTES} bytes")
            received = file.tell()
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"{url}: {reason_of(error)}") from error
    if size is not None and received != size:
        raise UnavailableError(f"{url}: broke off after {received} of {size} bytes")
    if digest.hexdigest() != md5:
        raise UnavailableError(f"{url}: wrong checksum (md5 {digest.hexdigest()}, not {md5})")


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
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def gist(text: str) -> str:
    """The start of ``text`` on one line."""
    return textwrap.shorten(text, 240, placeholder=" ...")
