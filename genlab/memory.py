"""Work in pieces that fit the memory of a device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

log = logging.getLogger(__name__)

T = TypeVar("T")


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
