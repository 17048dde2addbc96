"""A plugin, a RealNVP that does something bad: ``plugins=[saboteur] model.name=saboteur +model.deed=kill``."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from genlab.config import Index, config
from genlab.models.realnvp import RealNVP, RealNVPConfig
from genlab.registry import MODELS
from genlab.types import Batch, Update


def _signal(number: int) -> None:
    os.kill(os.getpid(), number)


def _signal_once(number: int) -> None:
    done = Path(f"signal_{number}")
    if not done.exists():
        done.touch()
        _signal(number)


def _raise(error: Exception) -> None:
    raise error


DEEDS = {
    "none": lambda: None,
    "interrupt": lambda: _signal(signal.SIGINT),
    "terminate": lambda: _signal(signal.SIGTERM),
    "kill": lambda: _signal(signal.SIGKILL),
    "kill_once": lambda: _signal_once(signal.SIGKILL),
    "preempt_once": lambda: _signal_once(signal.SIGUSR2),
    "cuda_memory": lambda: _raise(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")),
    "memory": lambda: torch.empty(10**15),
    "disk": lambda: _raise(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.csv")),
    "bug": lambda: _raise(ZeroDivisionError("of mine")),
}


@config
class SaboteurConfig(RealNVPConfig):
    """``deed`` is done in the step ``at``, or when the model is looked at; a run that is resumed behaves."""

    name: Literal["saboteur"] = "saboteur"
    deed: str = "none"
    at: Index = 5
    looking: bool = False


@MODELS.register("saboteur")
class Saboteur(RealNVP):
    """Trains as RealNVP does but for its deed."""

    Config = SaboteurConfig
    config: SaboteurConfig

    def _due(self, here: bool) -> bool:
        return here and not any("resume=" in argument for argument in sys.argv)

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        due = self._due(self.training and step == self.config.at and not self.config.looking)
        if due and self.config.deed != "not_finite":
            DEEDS[self.config.deed]()
        for update in super().updates(batch, stage, step):
            if due and self.config.deed == "not_finite":
                logs = {**update.logs, "log_det": update.logs["log_det"] * torch.nan}
                yield replace(update, logs=logs)
            else:
                yield update

    def sample(self, *arguments: object, **options: object) -> Tensor:
        if self._due(self.config.looking):
            DEEDS[self.config.deed]()
        return super().sample(*arguments, **options)
