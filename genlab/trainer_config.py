"""How long to train, on what batches, with which optimizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from omegaconf import OmegaConf
from pydantic import Field

from genlab.config import Count, Index, Positive, ProperFraction, config, parse
from genlab.errors import ConfigError, did_you_mean
from genlab.optim import Constant, OptimizerConfig, Schedule
from genlab.types import Stage


@config
class TrainerConfig:
    """Settings of :class:`~genlab.trainer.Trainer`.

    ``stages`` and ``groups`` hold what differs for one stage or parameter group: any of ``epochs`` (stages
    only), ``optimizer``, ``schedule``, ``clip_grad_norm`` and ``ema_decay``, in part or in whole.
    ``batch_size`` is that of all processes together. ``monitor`` is the term of validation that decides which
    checkpoint is best; ``None``: the last one is. ``keep`` is the number of epochs whose weights stay beside
    those of the last and the best one.
    """

    epochs: Count = 10
    max_steps: Count | None = None
    batch_size: Count = 256
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    schedule: Schedule = Field(default_factory=Constant)
    clip_grad_norm: Positive | None = None
    ema_decay: ProperFraction | None = None
    log_every: Count = 50
    checkpoint_every: Count | None = None
    keep: Index = 0
    monitor: str | None = "loss"
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict)
    groups: dict[str, dict[str, Any]] = Field(default_factory=dict)

    def override(self, values: Mapping[str, Any], where: str) -> TrainerConfig:
        """This configuration with ``values`` merged over it."""
        merged = OmegaConf.merge(OmegaConf.create(asdict(self)), OmegaConf.create(dict(values)))
        plain = OmegaConf.to_container(merged)
        assert isinstance(plain, dict)
        if "name" in values.get("schedule", {}):
            plain["schedule"] = dict(values["schedule"])  # another schedule has other fields
        return parse(TrainerConfig, {str(key): value for key, value in plain.items()}, where)

    @property
    def averages(self) -> bool:
        """Whether any parameters are averaged."""
        overrides = [*self.stages.values(), *self.groups.values()]
        return any(values.get("ema_decay") for values in ({"ema_decay": self.ema_decay}, *overrides))

    def by_stage(self, stages: Sequence[Stage]) -> dict[str, TrainerConfig]:
        """The configuration of each stage by its name.

        Raises:
            ConfigError: ``stages`` or ``groups`` name what the model doesn't have.
        """
        names = [stage.name for stage in stages]
        groups = [group for stage in stages for group in stage.groups]
        for where, overrides, known in (("stages", self.stages, names), ("groups", self.groups, groups)):
            for name in overrides:
                if name not in known:
                    raise ConfigError(f"unknown key 'trainer.{where}.{name}'{did_you_mean(name, known)}")
        for name, values in self.groups.items():
            self.override(values, f"trainer.groups.{name}")
        return {name: self.override(self.stages.get(name, {}), f"trainer.stages.{name}") for name in names}
