"""What genlab keeps for the user beside their runs: a cache, and which runs that name code are their own."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path


def user_cache() -> Path:
    """``genlab`` in ``$XDG_CACHE_HOME``, by default ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "genlab"


def remember(folder: Path, words: Iterable[str]) -> None:
    """Note that the user had genlab make ``folder`` with these ``words``, which name code.

    It is noted in the user's cache, out of reach of whoever sends a folder. Where that can't be written,
    nothing is lost but that the words have to be said again.
    """
    with contextlib.suppress(OSError):
        note = _note(folder, words)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()


def is_own(folder: Path, words: Iterable[str]) -> bool:
    """Whether :func:`remember` was told so: a folder that was copied, moved or sent here is not."""
    try:
        return _note(folder, words).exists()
    except OSError:
        return False


def _note(folder: Path, words: Iterable[str]) -> Path:
    digest = hashlib.sha256("\0".join([str(folder.resolve()), *words]).encode(errors="surrogateescape"))
    return user_cache() / "own" / digest.hexdigest()
