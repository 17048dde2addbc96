"""An end to training that no longer helps."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from genlab.callbacks.base import Callback, Snapshot
from genlab.config import Count, NonNegative, config
from genlab.errors import ConfigError, did_you_mean
from genlab.registry import CALLBACKS

log = logging.getLogger(__name__)


@config
class EarlyStoppingConfig:
    """Stop after ``patience`` epochs without a fall of ``monitor`` by more than ``min_delta``."""

    monitor: str = "val/loss"
    patience: Count = 10
    min_delta: NonNegative = 0.0


@CALLBACKS.register("early_stopping")
class EarlyStopping(Callback):
    """Ends a stage whose monitored number has stopped falling."""

    Config = EarlyStoppingConfig
    config: EarlyStoppingConfig

    def __init__(self, config: EarlyStoppingConfig) -> None:
        super().__init__(config)
        self._best, self._waited = math.inf, 0

    def on_stage_start(self, stage: str) -> None:
        """Another stage has losses of its own."""
        self._best, self._waited = math.inf, 0

    def on_epoch_end(self, snapshot: Snapshot) -> None:
        """Compare with the best so far."""
        name = self.config.monitor
        if name not in snapshot.metrics:
            hint = did_you_mean(name, snapshot.metrics)
            raise ConfigError(f"unknown callbacks.early_stopping.monitor '{name}'{hint}")
        if snapshot.metrics[name] < self._best - self.config.min_delta:
            self._best, self._waited = snapshot.metrics[name], 0
            return
        self._waited += 1
        if self.should_stop:
            log.info("early stopping: %s has not fallen for %d epochs", name, self._waited)

    @property
    def should_stop(self) -> bool:
        """Whether patience is at its end."""
        return self._waited >= self.config.patience

    def state_dict(self) -> dict[str, Any]:
        """Best value and epochs waited."""
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on waiting."""
        if state:
            self._best, self._waited = state["best"], state["waited"]
