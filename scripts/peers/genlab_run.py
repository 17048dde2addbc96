"""A run of genlab as its users have it, by its Trainer, with its logs and checkpoints, an epoch at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from genlab import hardware
from genlab.assemble import load_splits, model_builder
from genlab.callbacks.base import Callback, Snapshot
from genlab.config import parse
from genlab.data import data_spec
from genlab.logger import RunLogger
from genlab.models.base import Model
from genlab.run_folder import RunFolder
from genlab.trainer import Trainer
from genlab.verbs import TrainConfig
from peers.contest import Setting
from peers.data import composed


class Pause(Callback):
    """Ends training with each epoch, so that others have their turn; `fit` goes on from there."""

    stop = False

    def on_epoch_end(self, snapshot: Snapshot) -> None:
        self.stop = True

    @property
    def should_stop(self) -> bool:
        return self.stop


class Run:
    """What ``genlab train`` with ``overrides`` sets up; ``change`` may put another network into the model."""

    def __init__(
        self, setting: Setting, overrides: Sequence[str], change: Callable[[Model], None] | None
    ) -> None:
        values = composed((*setting.dataset, *overrides))
        settings = parse(TrainConfig, values)
        self.device = hardware.select(settings.hardware)
        torch.manual_seed(settings.seed)
        model = model_builder(settings.model)(data_spec(settings.dataset))
        if change is not None:
            change(model)
        self.device.prepare(model)
        folder = RunFolder(Path(tempfile.mkdtemp(dir=setting.folder)))
        folder.create(values)
        data = load_splits(settings.dataset, self.device)
        self.pause, logger = Pause(None), RunLogger(folder)
        callbacks = {"pause": self.pause}
        self.trainer = Trainer(model, data, settings.trainer, self.device, folder, logger, callbacks, 0)
        self.batch = next(data.train.epoch(settings.trainer.batch_size, seed=0))

    def epoch(self, term: str) -> float:
        """An epoch with all that ends it; the last logged mean of ``term``."""
        self.pause.stop = False
        self.trainer.fit()
        return self.trainer.metrics[f"train/{term}"]

    def step(self, steps: int, term: str) -> float:
        """``steps`` iterations on one batch."""
        self.trainer.model.train()
        for _ in range(steps):
            done = self.trainer.iteration(self.batch, self.trainer.step)
        return float(done[0][1][term])
