"""Where a run computes: device, precision, compilation, threads."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from genlab.config import Count, config
from genlab.distributed import ALONE, Processes, join
from genlab.errors import ConfigError

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h

Compile = Literal["none", "default", "reduce-overhead", "max-autotune"]


@config
class HardwareConfig:
    """Settings of :class:`Hardware`.

    ``data_device`` is where images are held: ``device`` (beside the model), ``host`` (memory of the
    computer, pinned for CUDA), or ``auto`` (the device where they fit in half of its free memory).
    ``channels_last``: the order in which convolutional nets hold images; ``auto``: on the processor, where
    it is the faster one (docs/PERFORMANCE.md).
    ``cuda_graphs``: whole iterations are recorded and replayed, see :mod:`genlab.cuda_graphs`.
    ``distributed``: torchrun starts several processes, which train together, each on a device of its own.
    """

    device: str = "auto"
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: Compile = "none"
    cuda_graphs: bool = False
    channels_last: bool | Literal["auto"] = "auto"
    threads: Count | None = None
    data_device: Literal["auto", "device", "host"] = "auto"
    distributed: bool = False


@dataclass(frozen=True)
class Hardware:
    """A device and how to compute on it; made by :func:`select`."""

    device: torch.device
    config: HardwareConfig
    processes: Processes = ALONE

    def prepare(self, model: nn.Module) -> None:
        """Move ``model`` to the device, in place."""
        if self.config.channels_last:
            model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        else:
            model.to(self.device)

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of forward passes: bfloat16 where asked for."""
        if self.config.precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def data_device(self, num_bytes: int) -> torch.device:
        """Where ``num_bytes`` of images are to be held."""
        if self.config.data_device == "host" or self.device.type == "cpu":
            return torch.device("cpu")
        if self.config.data_device == "device" or self.device.type != "cuda":
            return self.device
        free, _ = torch.cuda.mem_get_info(self.device)
        return self.device if num_bytes < free / 2 else torch.device("cpu")

    @contextlib.contextmanager
    def isolated(self, model: nn.Module, seed: int) -> Iterator[None]:
        """``model`` in ``eval()``, no gradients, random numbers from ``seed``; all is put back at the end."""
        training, state = model.training, self.random_state()
        torch.manual_seed(seed)
        model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            model.train(training)
            self.set_random_state(state)

    def random_state(self) -> dict[str, torch.Tensor]:
        """The state of torch's generators, of the processor and of the device."""
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        if self.device.type == "mps":
            state["mps"] = torch.mps.get_rng_state()
        return state

    def set_random_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put back what :meth:`random_state` gave; a device of another kind keeps its own."""
        torch.set_rng_state(state["cpu"])
        if self.device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self.device)
        if self.device.type == "mps" and "mps" in state:
            torch.mps.set_rng_state(state["mps"])

    @property
    def name(self) -> str:
        """The device in words, for logs and reports."""
        count = "" if self.processes.size == 1 else f"{self.processes.size} x "
        return count + self._device_name

    @property
    def _device_name(self) -> str:
        how: list[str] = [self.config.precision]
        how += [f"compile={self.config.compile}"] if self.config.compile != "none" else []
        how += [name for name in ("cuda_graphs", "channels_last") if getattr(self.config, name)]
        names = {"cpu": f"CPU, {torch.get_num_threads()} threads", "mps": "mps"}
        name = names.get(self.device.type) or torch.cuda.get_device_name(self.device)
        return f"{name} ({', '.join(how)})"


def select(config: HardwareConfig) -> Hardware:
    """The device that ``config`` names, or the best one there is; sets threads and TF32 for the process.

    Where there are several processes, this one joins the others.

    Raises:
        ConfigError: a device that is unknown or absent, or bfloat16 where it can't be had, or processes that
            are not what ``config`` says.
    """
    device = _device(config.device)
    if config.precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError(
            f"hardware.precision=bf16: {torch.cuda.get_device_name(device)} has no bfloat16; take fp32"
        )
    if config.cuda_graphs and device.type != "cuda":
        raise ConfigError(f"hardware.cuda_graphs=true needs CUDA; the device is {device.type}: set it to false")
    if config.threads:
        torch.set_num_threads(config.threads)
    if device.type == "cpu":
        _keep_freed_memory()
    tf32 = config.precision == "tf32"
    if tf32 and device.type != "cuda":
        raise ConfigError("hardware.precision=tf32 needs CUDA; take fp32 or bf16")
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    chosen = replace(config, channels_last=_channels_last(config, device))
    return Hardware(device, chosen, join(device, config.distributed))


def _channels_last(config: HardwareConfig, device: torch.device) -> bool:
    return device.type == "cpu" if config.channels_last == "auto" else config.channels_last


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next step, where it would give large blocks back to the kernel.

    Fresh pages for every gradient cost the step of a small VAE a quarter of its time.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library has no such switch
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((_M_MMAP_THRESHOLD, 2**30), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26)):
            mallopt(option, value)


def compile_model(modules: Sequence[nn.Module], mode: Compile) -> None:
    """``torch.compile`` the ``forward`` of each module in place; its parameters keep their names.

    Compiled modules draw the random numbers that they draw otherwise.
    """
    if mode == "none":
        return
    import torch._inductor.config  # seconds, which other runs should not wait for

    torch._inductor.config.fallback_random = True
    for module in modules:
        module.compile(mode=mode)


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            f"hardware.device='{name}' is no device; take auto, cpu, cuda, cuda:1 or mps"
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"hardware.device={name}: no CUDA device here; take hardware=auto or hardware=cpu")
    if device == torch.device("cuda") and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"hardware.device={name}: there are {torch.cuda.device_count()} CUDA devices, from 0")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"hardware.device={name}: no Metal device here; take hardware=auto or hardware=cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"hardware.device='{name}' is not supported; take auto, cpu, cuda or mps")
    return device
