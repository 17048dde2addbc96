"""Checkpoints that a crash can't break and a stranger can't arm.

A checkpoint is what ``torch.save`` writes, a zip archive, whose comment holds the SHA-256 of all bytes before
it: one file, renamed into place at once, that ``torch.load`` still reads. It holds tensors and plain values
only, and is loaded with ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from genlab import checkpoint_check
from genlab.errors import CheckpointError
from genlab.files import write_atomic

log = logging.getLogger(__name__)

FORMAT = 1
_LABEL = b"genlab sha256 "
_COMMENT_SIZE = len(_LABEL) + 64


def save(path: Path, state: Mapping[str, Any], keep: Path | None = None) -> None:
    """Write ``state`` (tensors and plain values) to ``path``; the checkpoint before it moves to ``keep``."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    # The archive ends with the length of its comment, which torch leaves at zero.
    body = buffer.getvalue()[:-2] + struct.pack("<H", _COMMENT_SIZE)
    digest = hashlib.sha256(body).hexdigest().encode()
    write_atomic(path, body + _LABEL + digest, keep)


def load(path: Path) -> dict[str, Any]:
    """Read one checkpoint, verified, onto the CPU.

    Raises:
        CheckpointError: it is not there, cut short, altered, of another format, or holds anything but
            tensors and plain values.
    """
    data = _verified(path)
    try:
        checkpoint_check.check(data)
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if isinstance(state, dict):
            checkpoint_check.check_state(state)
    except (pickle.UnpicklingError, checkpoint_check.ForeignObjectError):
        raise RefusedCheckpointError(
            f"checkpoint {path} is refused: it holds objects other than tensors and plain values, "
            "which could run code when loaded"
        ) from None
    except Exception as error:  # of what claims to be a checkpoint, torch and pickle raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"checkpoint {path} can't be read: {reason}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {path} is not of format {FORMAT}, which this version reads")
    return state


class RefusedCheckpointError(CheckpointError):
    """A checkpoint that tries to do more than hold values: no accident, so there is no falling back."""


def load_latest(paths: list[Path]) -> dict[str, Any]:
    """The first of ``paths`` that can be read; a broken one is named in a warning.

    Raises:
        CheckpointError: none can be read, or one tries to execute code.
    """
    problems = []
    for path in paths:
        try:
            state = load(path)
        except RefusedCheckpointError:
            raise
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            log.warning("%s; falling back to %s", problem, path.name)
        return state
    raise CheckpointError("; ".join(problems))


def _verified(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path} is not there") from None
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} can't be read: {error.strerror}") from None
    body, comment = data[:-_COMMENT_SIZE], data[-_COMMENT_SIZE:]
    if not comment.startswith(_LABEL):
        raise CheckpointError(f"checkpoint {path} is cut short or not genlab's")
    if hashlib.sha256(body).hexdigest().encode() != comment[len(_LABEL) :]:
        raise CheckpointError(f"checkpoint {path} has been altered: its checksum doesn't match")
    return data
