"""What the device itself can do: matrix products and a copy; and what a step of a model asks of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from genlab.models.base import Model
from genlab.types import Batch
from peers.rounds import synchronise

REPEATS = 3
"""The best of these counts: a limit is what is reached when nothing is in the way."""


class Limits:
    """Floating-point operations and bytes per second, measured at each call of :meth:`measure`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.side, self.products = (2048, 1) if device.type == "cpu" else (8192, 10)
        self.rates: dict[str, list[float]] = {}

    def measure(self) -> None:
        a, b = (torch.randn(self.side, self.side, device=self.device) for _ in range(2))
        self._product("fp32", a, b, torch.matmul)
        self._product("bf16", a.bfloat16(), b.bfloat16(), torch.matmul)
        if self.device.type == "cpu" and torch.backends.mkldnn.is_available():
            # torch takes MKL for float32, which on some processors is not the faster of its two libraries.
            self._product("fp32 by oneDNN", a, b, _onednn)
        source = torch.ones(2**26, device=self.device)  # 256 MB, more than any cache
        target = torch.empty_like(source)
        self._note("copy", 2 * source.nbytes, lambda: target.copy_(source))  # read and written

    def _product(self, name: str, a: Tensor, b: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> None:
        operations = 2 * self.side**3 * self.products
        self._note(name, operations, lambda: [product(a, b) for _ in range(self.products)])

    def _note(self, name: str, amount: int, work: Callable[[], object]) -> None:
        def once() -> float:
            synchronise(self.device)
            start = time.perf_counter()
            work()
            synchronise(self.device)
            return time.perf_counter() - start

        once()  # warms up
        self.rates.setdefault(name, []).append(amount / min(once() for _ in range(REPEATS)))


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


def operations_of(model: Model, batch: Batch) -> int:
    """Floating-point operations of all matrix products and convolutions of one batch, forward and backward.

    Counted on torch's device without numbers: from the sizes alone, whatever carries them out in earnest.
    """
    shadow = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter:
        for update in shadow.updates(Batch(batch.x.to("meta")), shadow.stages()[0].name, 0):
            update.loss.backward()
    return counter.get_total_flops()
