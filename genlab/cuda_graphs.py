"""Whole iterations as CUDA graphs: recorded once for each kind, then replayed with new images."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from genlab.types import Batch

log = logging.getLogger(__name__)

_WARM_UP = 3  # iterations of a kind before it is recorded: libraries choose their kernels in them
_MAX_KINDS = 4  # each graph holds memory of its own, and a cyclical warm-up has as many kinds as steps

Terms: TypeAlias = list[tuple[str, dict[str, Tensor]]]
"""The group and the loss terms of each update of an iteration."""
Iterate: TypeAlias = Callable[[Batch], Terms]
Record: TypeAlias = Callable[[Callable[[], Terms]], tuple[Callable[[], None], Terms]]


@dataclass(frozen=True)
class _Recording:
    """A graph, the images that it reads, and the terms that it writes."""

    batch: Batch
    replay: Callable[[], None]
    terms: Terms

    def __call__(self, batch: Batch) -> Terms:
        self.batch.x.copy_(batch.x)
        if self.batch.y is not None and batch.y is not None:
            self.batch.y.copy_(batch.y)
        self.replay()
        return self.terms  # the same tensors each time, to be read before the next


class Graphs:
    """Launches a whole iteration at once, where Python would take longer to ask for its kernels than they run.

    A recording holds for all iterations of one kind: what is not on the device, such as a weight that changes
    with the step, has to be part of the kind. Learning rates are on the device.

    Args:
        record: what makes a graph of work, and its terms.
    """

    def __init__(self, record: Record | None = None) -> None:
        self._record = record or _record
        self._seen: Counter[Hashable] = Counter()
        self._recordings: dict[Hashable, _Recording] = {}
        self._stream = torch.cuda.Stream() if record is None else None
        self.works = True

    def run(self, iterate: Iterate, batch: Batch, kind: Hashable) -> Terms:
        """One iteration; the terms returned are overwritten by the next."""
        if kind is None or not self.works:
            return iterate(batch)
        if recording := self._recordings.get(kind):
            return recording(batch)
        self._seen[kind] += 1
        if self._seen[kind] <= _WARM_UP or len(self._recordings) == _MAX_KINDS:
            return self._aside(iterate, batch)
        try:
            self._recordings[kind] = self._recorded(iterate, batch)
        except RuntimeError as error:
            self.works = False  # a graph that came to nothing has computed nothing
            log.warning("no CUDA graph of this model, going on without: %s", str(error).partition("\n")[0])
            return iterate(batch)
        return self._recordings[kind](batch)

    def _aside(self, iterate: Iterate, batch: Batch) -> Terms:
        """On a stream of its own, as work is to be warmed up that will be recorded on one."""
        if self._stream is None:
            return iterate(batch)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            terms = iterate(batch)
        torch.cuda.current_stream().wait_stream(self._stream)
        return terms

    def _recorded(self, iterate: Iterate, batch: Batch) -> _Recording:
        static = Batch(batch.x.clone(), None if batch.y is None else batch.y.clone())
        replay, terms = self._record(lambda: iterate(static))
        return _Recording(static, replay, terms)


def _record(work: Callable[[], Terms]) -> tuple[Callable[[], None], Terms]:
    graph = torch.cuda.CUDAGraph()
    # By thread, as NCCL has a watchdog in another one.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        terms = work()
    return graph.replay, terms
