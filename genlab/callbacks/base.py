"""What a callback sees and may do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from genlab.config import Count, config
from genlab.data import DatasetConfig
from genlab.data.device import DeviceDataset, Splits
from genlab.logger import RunLogger
from genlab.models.base import Model
from genlab.run_folder import RunFolder


@dataclass(frozen=True)
class Snapshot:
    """A moment of training. ``model`` carries the averaged weights where there are any, in ``eval()``."""

    model: Model
    data: Splits
    folder: RunFolder
    logger: RunLogger
    stage: str
    epoch: int
    num_epochs: int
    """Epochs of this stage, where nothing ends it sooner; ``epoch`` counts up to it."""
    step: int
    metrics: Mapping[str, float]
    """The newest numbers by name, ``val/loss`` for instance."""

    @property
    def held_out(self) -> DeviceDataset:
        """Images that training has not seen: the validation images, the test images where there are none."""
        return self.data.val if len(self.data.val) else self.data.test


@config
class EpochsConfig:
    """Epochs at which something happens: ``every`` so many (``null``: none), and those that ``at`` names.

    Of ``every`` so many there are ``most`` in a stage (``null``: all), so that a long run does not fill the
    disk: where there would be more, a tenth of them are the first, and the others lie evenly over the stage.
    """

    every: Count | None = 1
    at: tuple[Count | Literal["first", "middle", "last"], ...] = ()
    most: Count | None = 100

    def due(self, epoch: int, num_epochs: int) -> bool:
        """Whether ``epoch`` of ``num_epochs``, counted from 1, is among them.

        >>> [epoch for epoch in range(1, 11) if EpochsConfig(every=4, at=("first", "last")).due(epoch, 10)]
        [1, 4, 8, 10]
        >>> [epoch for epoch in range(1, 1001) if EpochsConfig(most=10).due(epoch, 1000)]
        [1, 112, 224, 336, 448, 560, 672, 784, 896]
        """
        words = {"first": 1, "middle": (num_epochs + 1) // 2, "last": num_epochs}
        named = {words[at] if isinstance(at, str) else at for at in self.at}
        if epoch in named or self.every is None or epoch % self.every:
            return epoch in named
        turn, turns = epoch // self.every, num_epochs // self.every
        if self.most is None or turns <= self.most:
            return True
        first = self.most // 10
        return turn <= first or turn % math.ceil(turns / (self.most - first)) == 0


class Callback:
    """Called at the end of epochs; random state is set aside and put back around every call."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def check(self, model: type[Model], dataset: DatasetConfig) -> None:
        """Whether it can work with a model of this class on its dataset, before any work.

        Raises:
            ConfigError: it can't; the message says what to set.
        """

    def on_stage_start(self, stage: str) -> None:
        """Before the first epoch of a stage; not called when a run is resumed inside it."""

    def on_epoch_end(self, snapshot: Snapshot) -> Mapping[str, float] | None:
        """After the validation of an epoch; ``snapshot.epoch`` counts from 1.

        Numbers that it returns are logged as ``<name of the callback>/<name>``; the last ones are among the
        final metrics of the run.
        """
        return None

    def on_train_end(self, snapshot: Snapshot) -> None:
        """After the last epoch."""

    @property
    def should_stop(self) -> bool:
        """Whether training is to end after this epoch."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Plain values to keep in the checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
