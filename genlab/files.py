"""Files that a crash can't break."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomic(path: Path, data: bytes, keep: Path | None = None) -> None:
    """Put ``data`` at ``path``, where there is all of it or what was there before; that moves to ``keep``."""
    with whole(path, keep) as part:
        part.write_bytes(data)


@contextmanager
def whole(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """The name of a file to write, beside ``path``, that is forced to disk and takes its place once written.

    For one writer at a time. The file that was there moves to ``keep``.

    Raises:
        OSError: it can't be written; the error names ``path``.
    """
    part = path.with_name(f".{path.name}.part")  # one name, so that a killed writer leaves no litter
    try:
        with naming(path, part):
            path.parent.mkdir(exist_ok=True)  # it may have been removed under a run that goes on
            yield part
            _sync(part, os.O_RDWR)
            if keep is not None and path.exists():
                path.replace(keep)
            part.replace(path)
        if os.name == "posix":  # elsewhere a folder can't be opened
            _sync(path.parent, os.O_RDONLY)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def naming(path: Path, part: Path | None = None) -> Iterator[None]:
    """Where an :class:`OSError` says that it is about ``path``: one from an open file says nothing, and one
    about ``part``, under which it is written, something that nobody has heard of."""
    try:
        yield
    except OSError as error:
        if error.filename is None or Path(os.fsdecode(error.filename)) == part:
            error.filename, error.filename2 = str(path), None
        raise


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
