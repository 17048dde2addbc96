"""Two players and how they are trained, in each of several processes or in one."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from genlab import checkpoint
from genlab.callbacks.base import Callback
from genlab.config import parse
from genlab.data.device import DeviceDataset, Splits
from genlab.hardware import HardwareConfig, select
from genlab.logger import RunLogger
from genlab.models.base import Model
from genlab.run_folder import RunFolder
from genlab.trainer import Trainer
from genlab.trainer_config import TrainerConfig
from genlab.types import Batch, DataSpec, Stage, Update

SPEC = DataSpec(1, 4, 4)
SETTINGS = {
    "epochs": 3,
    "batch_size": 12,
    "optimizer": {"name": "AdamW", "lr": 0.02, "weight_decay": 0.1},
    "schedule": {"name": "one_cycle"},
    "clip_grad_norm": 0.05,
    "ema_decay": 0.9,
    "log_every": 3,
    "monitor": "loss_critic",
}
"""Three epochs of four steps."""


class Critics(Model):
    """Two players of double precision, without noise; the first batch and every batch leave a trace."""

    def __init__(self) -> None:
        super().__init__(SPEC)
        self.norm = nn.BatchNorm1d(16, affine=False)
        self.encoder = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 16))
        self.critic = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 1))
        self.mean = nn.Parameter(torch.zeros(16))
        self.double()

    def initialize(self, batch: Batch) -> None:
        with torch.no_grad():
            self.mean.copy_(self._flat(batch).mean(0))

    def stages(self) -> list[Stage]:
        critic = list(self.critic.parameters())
        return [Stage("train", {"critic": critic, "encoder": self.parameters_outside(self.critic)})]

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        x = self._flat(batch)
        if self.training:
            self.norm(x)
        fake = self.encoder(x - self.mean)
        real, false = self.critic(x), self.critic(fake.detach())
        loss = F.softplus(-real).mean() + F.softplus(false).mean()
        yield Update("critic", loss, {"real": real.mean()})
        if step % 2 == 0:
            yield Update("encoder", F.softplus(-self.critic(fake)).mean() + (fake - x).square().mean(), {})

    def _flat(self, batch: Batch) -> torch.Tensor:
        return batch.x.flatten(1).double() / 255


class Stopped(Critics):
    """Is told to stop in the second process, or in the only one, in its sixth step."""

    def updates(self, batch: Batch, stage: str, step: int) -> Iterator[Update]:
        if step == 5 and self.training and os.environ.get("RANK", "1") == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        yield from super().updates(batch, stage, step)


class Patience(Callback):
    """Stops after two epochs, and takes its time."""

    epochs = 0

    def on_epoch_end(self, snapshot: object) -> dict[str, float]:
        self.epochs += 1
        torch.rand(3)
        time.sleep(0.2)
        return {"epochs": self.epochs}

    @property
    def should_stop(self) -> bool:
        return self.epochs == 2


def small_set(num_val: int) -> Splits:
    cpu = torch.device("cpu")
    noise = torch.randint(100, (53 + num_val, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    images = noise + 10 * torch.arange(16).view(4, 4)
    sets = (images[:53], images[53:], images[:0])
    return Splits(*(DeviceDataset(part.to(torch.uint8), None, cpu, cpu) for part in sets))


def trained(
    folder: Path,
    kind: Callable[[], Model],
    settings: dict,
    num_val: int = 31,
    patient: bool = False,
    seed: int = 0,
) -> Trainer:
    """What ``genlab train`` does, in each process; goes on where there is a checkpoint."""
    torch.set_num_threads(1)
    hardware = select(HardwareConfig(device="cpu", distributed="RANK" in os.environ))
    torch.manual_seed(seed)
    config, run = parse(TrainerConfig, SETTINGS | settings, "trainer"), RunFolder(folder)
    first = hardware.processes.first
    run.folder("checkpoints")
    state = hardware.processes.from_first(checkpoint.load(run.last) if first and run.last.exists() else None)
    callbacks = {"patience": Patience(None)} if first and patient else {}
    logger = RunLogger(run) if first else None
    trainer = Trainer(kind(), small_set(num_val), config, hardware, run, logger, callbacks, seed)
    if state is not None:
        trainer.restore(state)
    trainer.fit()
    hardware.processes.leave()
    return trainer


def learned(folder: Path, kind: type[Model] = Critics, settings: dict | None = None, *rest: object) -> dict:
    """Train; what was learned, and told."""
    trainer = trained(folder, kind, settings or {}, *rest)
    told = {name: value for name, value in trainer.metrics.items() if name != "images_per_second"}
    assert trainer.ema is not None
    return {
        "model": dict(trainer.model.state_dict()),
        "ema": dict(trainer.ema.model.state_dict()),
        "metrics": told,
        "step": trainer.step,
        "drawn": getattr(trainer.model, "drawn", []),
    }
