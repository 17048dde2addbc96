"""What can go wrong, as one line that names the thing and the way out.

The command line prints the message of a :class:`GenlabError` without a traceback and exits with its
``exit_code``: 2 where the input is at fault, 1 where a run failed on its way.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable


class GenlabError(Exception):
    """Base of every error that genlab raises on purpose."""

    exit_code = 1

    def __str__(self) -> str:
        """One line that can be printed, whatever is named in it: files and servers choose their own words."""
        return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in super().__str__())


class ConfigError(GenlabError):
    """An unknown name or key, a wrong type, a value out of range."""

    exit_code = 2


class CapabilityError(ConfigError):
    """A model that lacks what is asked of it, whatever the settings: it has no likelihood, say."""


class DataError(GenlabError):
    """A dataset that can't be had, is corrupt, or doesn't fit the model."""

    exit_code = 2


class CheckpointError(GenlabError):
    """A run folder or checkpoint that is absent, broken or refused."""

    exit_code = 2


class TrainingError(GenlabError):
    """Training broke off: a non-finite loss, no memory, no room on the disk."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest of ``known``, otherwise the list of them.

    >>> did_you_mean("relnvp", ["realnvp", "vae"])
    "; did you mean 'realnvp'?"
    >>> did_you_mean("zzz", ["realnvp", "vae"])
    '; known: realnvp, vae'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known) or 'none'}"


def explain(error: Exception) -> GenlabError:
    """``error`` as a :class:`GenlabError`: itself, or what is known of its kind, or its type and message."""
    if isinstance(error, GenlabError):
        return error
    if isinstance(error, OSError):
        return _explain_os_error(error)
    text = str(error)
    starved = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if starved or "can't allocate memory" in text or "not enough memory" in text:
        return TrainingError(
            "out of memory; lower trainer.batch_size (evaluation.batch_size, batch_size for eval, sample) "
            "or the size of the model; the last good checkpoint, if there is one, is kept"
        )
    if "InvalidCxxCompiler" in text or type(error).__name__ == "CppCompileError":
        return ConfigError(
            "hardware.compile needs a working C++ compiler: install one, or take hardware.compile=none"
        )
    if "Expected more than 1 value per channel" in text:
        return ConfigError("batch norm takes batches of two images at least; raise trainer.batch_size")
    first = text.strip().splitlines()[0] if text.strip() else "no message"
    return GenlabError(
        f"unexpected {type(error).__name__}: {first} (error.txt in the run's folder, or "
        "GENLAB_TRACEBACK=1, shows where)"
    )


def _explain_os_error(error: OSError) -> GenlabError:
    where = f" {os.fsdecode(error.filename)}" if error.filename else ""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TrainingError(
            f"no room to write{where}: {reason}; free some, or set output_dir to another disk; "
            "the last good checkpoint, if there is one, is kept"
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENOENT):
        return ConfigError(f"can't write{where}: {reason}; name a folder of yours (output_dir)")
    return GenlabError(f"can't use{where}: {reason}")
