"""One iteration of training: the updates that a model asks for, each stepped before the next is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from genlab.cuda_graphs import Graphs, Terms
from genlab.errors import CheckpointError, TrainingError
from genlab.hardware import Hardware
from genlab.models.base import Model
from genlab.optim import EMA
from genlab.trainer_config import TrainerConfig
from genlab.types import Batch, Stage, Update

_OF_HARDWARE = ("lr", "fused", "foreach", "capturable")
"""Options of an optimizer that say where and how it runs: a resumed run may do so elsewhere."""


@dataclass
class Group:
    """A parameter group of the current stage with its optimizer."""

    name: str
    parameters: list[Parameter]
    config: TrainerConfig
    optimizer: torch.optim.Optimizer

    def set_lr(self, step: int, total: int, steps_per_epoch: int) -> None:
        """The learning rate of ``step`` of ``total``, a pure function that a resume can't get wrong."""
        lr = self.config.optimizer.lr * self.config.schedule.factor(step, total, steps_per_epoch)
        for parameters in self.optimizer.param_groups:
            if isinstance(parameters["lr"], Tensor):  # read by recorded kernels, which know its place only
                parameters["lr"].fill_(lr)
            else:
                parameters["lr"] = lr

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state, and whose it is."""
        return {"name": self.config.optimizer.name, "state": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave.

        Raises:
            CheckpointError: it is another optimizer's, or of parameters of other shapes.
        """
        if state["name"] != self.config.optimizer.name:
            raise CheckpointError(
                f"trainer.optimizer.name={self.config.optimizer.name}: the run was trained with "
                f"{state['name']}, and a resumed run keeps its optimizer"
            )
        own = [
            {key: group[key] for key in _OF_HARDWARE if key in group} for group in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict(state["state"])
        for group, values in zip(self.optimizer.param_groups, own, strict=True):
            group.update(values)
        for parameter, known in self.optimizer.state.items():
            known.update({name: self._fitted(parameter, name, value) for name, value in known.items()})

    def _fitted(self, parameter: Tensor, name: str, value: Any) -> Any:
        """``value``, laid out as the parameter: fused kernels look at memory, at neither shape nor layout."""
        if not isinstance(value, Tensor):
            return value
        if value.shape == parameter.shape:
            return _laid_out_as(parameter, value)
        if name != "step" and any(group.get("fused") for group in self.optimizer.param_groups):
            raise CheckpointError(
                f"the checkpoint doesn't fit the model: the optimizer's '{name}' has shape "
                f"{tuple(value.shape)}, and its parameter {tuple(parameter.shape)}"
            )
        return value

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])


class Iteration:
    """What is done with every batch of a stage.

    Args:
        model: on the device; parameters outside the stage are frozen here.
        stage: whose groups are stepped.
        config: of the whole run, for what differs between groups.
        stage_config: of the stage.
        hardware: for the precision, and whether iterations are recorded as CUDA graphs.
        ema: the averaged weights, where any are averaged.
        total_steps: of the stage, for the learning rate.
        steps_per_epoch: the same.
    """

    def __init__(
        self,
        model: Model,
        stage: Stage,
        config: TrainerConfig,
        stage_config: TrainerConfig,
        hardware: Hardware,
        ema: EMA | None,
        total_steps: int,
        steps_per_epoch: int,
    ) -> None:
        self.model, self.stage, self.hardware, self.ema = model, stage, hardware, ema
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.graphs = Graphs() if hardware.config.cuda_graphs else None
        self.groups = self._build_groups(config, stage_config)

    def _build_groups(self, config: TrainerConfig, stage_config: TrainerConfig) -> dict[str, Group]:
        self.model.requires_grad_(False)
        groups = {}
        for name, parameters in self.stage.groups.items():
            for parameter in parameters:
                parameter.requires_grad_(True)
            own = stage_config.override(config.groups.get(name, {}), f"trainer.groups.{name}")
            groups[name] = Group(
                name, parameters, own, own.optimizer.build(parameters, self.graphs is not None)
            )
        return groups

    def __call__(self, batch: Batch, step: int) -> Terms:
        """Train on ``batch`` at ``step`` of the stage; returns the group and the loss terms of each update."""
        for group in self.groups.values():
            group.set_lr(step, self.total_steps, self.steps_per_epoch)
        iterate = partial(self._iterate, step=step)
        if self.graphs is None:
            done = iterate(batch)
        else:
            done = self.graphs.run(iterate, batch, self.model.graph_key(self.stage.name, step))
        if self.ema is not None:
            for name in dict(done):  # only now: the model may have clipped what has stepped
                group = self.groups[name]
                self.ema.update(group.parameters, group.config.ema_decay or 0.0, step)
        return done

    def _iterate(self, batch: Batch, step: int) -> Terms:
        updates = self.model.updates(batch, self.stage.name, step)
        done: Terms = []
        while (update := self._next(updates)) is not None:
            group = self.groups[update.group]
            group.optimizer.zero_grad(set_to_none=True)
            update.loss.backward(inputs=group.parameters)
            self.hardware.processes.average_gradients(group.parameters)
            norm = _gradient_norm(group)
            group.optimizer.step()
            done.append((group.name, {**update.terms(self.alone), self.tag("grad_norm", group.name): norm}))
        return done

    def _next(self, updates: Iterator[Update]) -> Update | None:
        with self.hardware.autocast():
            return next(updates, None)

    @property
    def alone(self) -> bool:
        """Whether the stage has one group."""
        return len(self.groups) == 1

    def tag(self, name: str, group: str) -> str:
        """``name``, and the group's where the stage has several."""
        return name if self.alone else f"{name}_{group}"


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """``value`` with its numbers in the order in which the parameter's lie in memory.

    A run may go on with ``hardware.channels_last`` the other way.
    """
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _gradient_norm(group: Group) -> Tensor:
    """The norm of all gradients together, before they are clipped."""
    gradients = [p.grad for p in group.parameters if p.grad is not None]
    if not gradients:
        raise TrainingError(f"no gradient reaches the parameters of group '{group.name}'")
    norm = nn.utils.get_total_norm(gradients)
    if group.config.clip_grad_norm is not None:
        nn.utils.clip_grads_with_norm_(group.parameters, group.config.clip_grad_norm, norm)
    return norm
