"""Files that a crash can't break."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomic(path: Path, data: bytes, keep: Path | None = None) -> None:
    """Put ``data`` at ``path``: written beside it, forced to disk, renamed; the old file moves to ``keep``."""
    temporary = path.with_name(f".{path.name}.part")  # one name, so that a killed writer leaves no litter
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # elsewhere a folder can't be opened
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
