"""The processes that train one model together, each on its own device with its share of every batch.

These are plain collectives, no ``DistributedDataParallel``: that hooks into one backward of one forward of
the wrapped module, and here a generator yields several losses, each of which is differentiated by the
parameters of its own group alone (``backward(inputs=...)``), by forwards of any part of the model.

Tensors travel between the devices (NCCL on CUDA, gloo on the CPU); what the host has to know travels through
a gloo group of its own. A process that waits there for another's evaluation keeps no device waiting, so that
NCCL's timeout goes on meaning what it is for: that something is broken.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from genlab import torchrun
from genlab.errors import ConfigError, TrainingError

_BACKENDS = {"cuda": "nccl", "cpu": "gloo"}
_PATIENCE = timedelta(days=7)
"""How long one process may evaluate or draw while the others wait; one that *dies* is noticed at once."""
T = TypeVar("T")


class PeerError(TrainingError):
    """Another process of the run is gone, and this one can't go on without it."""


@dataclass(frozen=True)
class Processes:
    """All processes of a run, as one of them sees them; a run of one process is the simplest case.

    Every method but :meth:`check_batch` and :meth:`seed` has to be called by all processes, in the same
    order; with one process none of them does anything.

    Raises:
        PeerError: in all of them: a process is gone.
        SystemExit: the same, where that process has said why.
    """

    rank: int = 0
    size: int = 1
    _hosts: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, prints, draws and evaluates."""
        return self.rank == 0

    def check_batch(self, batch_size: int) -> None:
        """Nothing, where every process gets as many images of a batch as any other.

        Raises:
            ConfigError: it is not so, and the mean over processes would not be the mean over images.
        """
        below = batch_size // self.size * self.size
        if below == batch_size:
            return
        near = [str(size) for size in (below, below + self.size) if size]
        raise ConfigError(
            f"trainer.batch_size={batch_size} is what {self.size} processes share, in equal parts; take "
            f"{' or '.join(near)}"
        )

    def seed(self, seed: int, step: int = 0) -> int:
        """The seed of this process for random numbers drawn from ``step`` on; the first one's is ``seed``."""
        if self.first:
            return seed
        # Mixed, lest the second process of seed 0 draw what the first one of seed 1 draws.
        return int(np.random.SeedSequence((seed, self.rank, step)).generate_state(1, np.uint64)[0])

    # ------------------------------------------------------------------ between devices

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Put the mean over the processes into floating-point ``tensors``: one collective for each type."""

        def mean(flat: Tensor) -> None:
            dist.all_reduce(flat)  # a sum: gloo knows no mean
            flat /= self.size

        self._together(tensors, mean)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """The gradient of the whole batch, where losses are means over images.

        The same parameters have to have gradients in every process.
        """
        if self.size > 1:
            self.average(p.grad for p in parameters if p.grad is not None)

    def average_buffers(self, model: nn.Module) -> None:
        """Make running statistics, gathered from the share of each process, those of all."""
        if self.size > 1:
            self.average(buffer for buffer in model.buffers() if buffer.is_floating_point())

    def copy_from_first(self, model: nn.Module) -> None:
        """Give every process the parameters and buffers of the first one."""
        self._together([*model.parameters(), *model.buffers()], lambda flat: dist.broadcast(flat, 0))

    @torch.no_grad()
    def _together(self, tensors: Iterable[Tensor], collective: Callable[[Tensor], object]) -> None:
        if self.size == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        for tensor in tensors:
            by_type[tensor.dtype].append(tensor)
        for alike in by_type.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            with _peers():
                collective(flat)
            parts = flat.split([tensor.numel() for tensor in alike])
            torch._foreach_copy_(alike, [part.view_as(x) for part, x in zip(parts, alike, strict=True)])

    # ------------------------------------------------------------------ between hosts

    def gather(self, value: T) -> list[T]:
        """The value of each process by rank, tensors on the CPU."""
        values = [value] * self.size
        if self.size > 1:
            with _peers():
                dist.all_gather_object(values, value, group=self._hosts)
        return values

    def from_first(self, value: T) -> T:
        """The value of the first process; the others wait for it, however long it takes."""
        values = [value]
        if self.size > 1:
            with _peers():
                dist.broadcast_object_list(values, src=0, group=self._hosts)
        return values[0]

    def greatest(self, values: Iterable[float]) -> list[float]:
        """The greatest of all processes for each of ``values``."""
        held = torch.tensor(list(values), dtype=torch.float64)
        if self.size > 1:
            with _peers():
                dist.all_reduce(held, dist.ReduceOp.MAX, group=self._hosts)
        return held.tolist()

    def wait(self) -> None:
        """Until all processes have come here."""
        self.greatest([0])

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """The block in the first process of each machine and, once it has ended there, in the others.

        So that what is missing is fetched once.
        """
        started = torchrun.launch()
        later = self.size > 1 and started is not None and started.local_rank > 0
        if later:
            self.wait()
        yield
        if not later:
            self.wait()

    def leave(self) -> None:
        """Part, once all have come here; what the first process then does, it does alone."""
        if self.size > 1:
            self.wait()
            dist.destroy_process_group()


ALONE = Processes()


# --------------------------------------------------------------------------------------- for parts of models


def num_processes() -> int:
    """How many processes are training together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of ``values`` over the processes: for statistics that training goes on from, and no gradient."""
    if num_processes() > 1:
        with _peers():
            dist.all_reduce(values)
    return values


def of_first_process(values: Tensor) -> Tensor:
    """The ``values`` of the first process."""
    if num_processes() > 1:
        with _peers():
            dist.broadcast(values, 0)
    return values


# --------------------------------------------------------------------------------------- beginning


def join(device: torch.device, distributed: bool) -> Processes:
    """The processes that torchrun started beside this one, each with a device of its own; this one joins them.

    Raises:
        ConfigError: ``distributed`` and torchrun go together, and here is one without the other; or the
            devices don't go round.
    """
    started = torchrun.launch()
    if started is None and distributed:
        raise ConfigError(
            "hardware=distributed is for processes that torchrun starts: torchrun --nproc-per-node=2 -m genlab "
            "train ... hardware=distributed; in one process take hardware=auto"
        )
    if started is None or started.size == 1:
        return ALONE
    if not distributed:
        raise ConfigError(
            f"torchrun started {started.size} processes, and each would train a model of its own; add "
            "hardware=distributed"
        )
    _check(device, started)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _peers():
        own = device if device.type == "cuda" else None
        dist.init_process_group(_BACKENDS[device.type], device_id=own)
        hosts = dist.new_group(backend="gloo", timeout=_PATIENCE)
    assert isinstance(hosts, dist.ProcessGroup)
    return Processes(started.rank, started.size, hosts)


def _check(device: torch.device, started: torchrun.Launch) -> None:
    if device.type not in _BACKENDS:
        raise ConfigError(f"hardware.device={device}: processes work together on cuda or cpu; take one of them")
    if device.type != "cuda":
        return
    if started.local_size > torch.cuda.device_count():
        raise ConfigError(
            f"torchrun started {started.local_size} processes, and there are {torch.cuda.device_count()} CUDA "
            "devices; take as many with --nproc-per-node, or hardware.device=cpu"
        )
    if device.index != started.local_rank:
        raise ConfigError(f"hardware.device={device}: each process has a device of its own; take cuda or auto")


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """A collective of the block fails when a peer is gone; one that has said why needs no echo."""
    try:
        yield
    except RuntimeError as error:
        if torchrun.anyone_spoke():
            raise SystemExit(TrainingError.exit_code) from None
        reason = str(error).strip().splitlines()[0]
        raise PeerError(f"another process of this run is gone, or can't be reached: {reason}") from error


class Agreement:
    """The greatest number that any process has named, settled about once a second.

    To settle it costs a message and waits for the slowest, so it is not done at every step; how many steps a
    second has is settled with it, lest one process ask when another does not.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes, self._interval, self._calls = processes, 1, 0
        self._time = time.perf_counter()

    def settled(self, own: int, now: bool = False) -> int:
        """What is settled, 0 until it is; ``now`` is for moments that all processes share."""
        if self._processes.size == 1:
            return own
        self._calls += 1
        if not now and self._calls < self._interval:
            return 0
        number, seconds = self._processes.greatest([own, time.perf_counter() - self._time])
        self._interval = max(1, min(2 * self._interval, int(self._calls / max(seconds, 1e-9))))
        self._calls, self._time = 0, time.perf_counter()
        return int(number)
