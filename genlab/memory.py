"""Work in pieces that fit the memory of a device, and what fits no memory at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from genlab.errors import DataError

log = logging.getLogger(__name__)

T = TypeVar("T")


def check_room(num_bytes: int, what: str) -> None:
    """Refuse what the host's memory has no room for before any of it is allocated.

    Raises:
        DataError: ``what`` needs ``num_bytes``, and fewer are free.
    """
    free = _free_bytes()
    if free is not None and num_bytes > free:
        raise DataError(
            f"{what}: {num_bytes / 1e9:.1f} GB of images, and {free / 1e9:.1f} GB of memory are free; make "
            "them smaller (dataset.image_size) or fewer"
        )


def _free_bytes() -> int | None:
    """What can be had without swapping, as Linux estimates it; all there is elsewhere, if that is known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def piece(device: torch.device, num_bytes: int, default: int) -> int:
    """How many things to compute at once, of which each takes ``num_bytes`` meanwhile.

    On CUDA what fills half of the free memory: large pieces keep a GPU busy. Elsewhere ``default``: a processor
    is no faster on pieces that its cache does not hold. For work whose results are the same in any pieces;
    random numbers drawn piece by piece would make them the machine's.
    """
    if device.type != "cuda":
        return default
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(default, (free + unused) // 2 // num_bytes)


def lowered(work: Callable[[int], T], size: int) -> T:
    """``work(size)``; where memory runs out, that of half the size, and so on down to 1.

    Raises:
        torch.OutOfMemoryError: there is no room for one.
    """
    while True:
        try:
            return work(size)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        size //= 2  # out of the handler, which would keep alive what was computed
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning("out of memory: %d at once instead of %d", size, 2 * size)
