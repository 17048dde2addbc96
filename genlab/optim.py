"""Optimizers of torch.optim by name, learning-rate schedules as pure functions of the step, and EMA."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterable, Sequence
from types import MethodType
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import Parameter

from genlab.config import Count, Fraction, Index, NonNegative, Positive, ProperFraction, config
from genlab.errors import ConfigError, did_you_mean


@config
class OptimizerConfig:
    """A class of ``torch.optim`` by ``name``; ``options`` are its further keywords.

    ``weight_decay`` is for matrices and kernels; biases, scales and other vectors are left alone.
    """

    name: str = "Adam"
    lr: Positive = 1e-3
    """Learning rate, which the schedule multiplies."""
    weight_decay: NonNegative = 0.0
    options: dict[str, Any] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the name and the options against torch's own signature."""
        keywords = inspect.signature(_optimizer_class(self.name)).parameters
        for key in self.options:
            if key not in keywords:
                raise ValueError(f"{self.name} has no option '{key}'{did_you_mean(key, keywords)}")

    def build(self, parameters: Iterable[Parameter], capturable: bool = False) -> torch.optim.Optimizer:
        """The optimizer; fused (one kernel for all parameters) where torch has it for the device.

        ``capturable``: its step is to be part of a CUDA graph, which finds the learning rate on the device.

        Raises:
            ConfigError: torch refuses the values of ``options``, or has no such optimizer for a CUDA graph.
        """
        cls, parameters = _optimizer_class(self.name), list(parameters)
        options: dict[str, Any] = {"lr": self.lr, **self.options}
        keywords = inspect.signature(cls).parameters
        if "fused" in keywords:
            options.setdefault("fused", all(p.device.type in ("cpu", "cuda") for p in parameters))
        if capturable and "capturable" not in keywords:
            raise ConfigError(
                f"hardware.cuda_graphs=true: torch.optim.{self.name} can't be recorded; set it false"
            )
        if capturable:
            options |= {"capturable": True, "lr": torch.tensor(self.lr, device=parameters[0].device)}
        groups: list[dict[str, Any]] = [{"params": parameters, "weight_decay": 0.0}]
        if self.weight_decay:
            matrices = [p for p in parameters if p.dim() >= 2]
            others = [p for p in parameters if p.dim() < 2]
            groups = [{"params": matrices, "weight_decay": self.weight_decay}, groups[0] | {"params": others}]
        try:
            return _without_dynamo(cls([group for group in groups if group["params"]], **options))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"trainer.optimizer: torch.optim.{self.name}: {error}") from None


def _without_dynamo(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Without the wrappers whose first call imports ``torch._dynamo``, which takes as long as all of torch.

    They keep an optimizer out of compiled code, and here none is in any. Hooks of a step are called as ever.
    """
    step = torch.no_grad()(inspect.unwrap(type(optimizer).step))
    optimizer.step = MethodType(torch.optim.Optimizer.profile_hook_step(step), optimizer)  # type: ignore
    return optimizer


for _name in ("add_param_group", "zero_grad", "load_state_dict", "state_dict"):
    if (_plain := getattr(getattr(torch.optim.Optimizer, _name), "__wrapped__", None)) is not None:
        setattr(_plain, "__dynamo_disable", _plain)  # where torch looks for the outcome of that import


def _optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    classes = {
        key: value
        for key, value in vars(torch.optim).items()
        if inspect.isclass(value)
        and issubclass(value, torch.optim.Optimizer)
        # LBFGS evaluates its loss again inside a step; SparseAdam takes sparse gradients; Muon matrices only.
        and key not in ("Optimizer", "LBFGS", "SparseAdam", "Muon")
    }
    if name not in classes:
        raise ValueError(f"unknown optimizer '{name}'{did_you_mean(name, classes)}")
    return classes[name]


@config
class Constant:
    """The learning rate of the optimizer, after ``warmup_steps`` of linear rise."""

    name: Literal["constant"] = "constant"
    warmup_steps: Index = 0

    def factor(self, step: int, total: int, steps_per_epoch: int) -> float:
        """What the learning rate is multiplied with at ``step`` (from 0) of ``total``."""
        return _warmup(step, self.warmup_steps)


@config
class Cosine:
    """Half a cosine from 1 to ``final_factor``, after ``warmup_steps`` of linear rise."""

    name: Literal["cosine"] = "cosine"
    warmup_steps: Index = 0
    final_factor: Fraction = 0.0

    def factor(self, step: int, total: int, steps_per_epoch: int) -> float:
        """What the learning rate is multiplied with at ``step`` (from 0) of ``total``."""
        if step < self.warmup_steps:
            return _warmup(step, self.warmup_steps)
        progress = (step - self.warmup_steps) / max(1, total - self.warmup_steps)
        return _anneal(1.0, self.final_factor, progress)


@config
class StepDecay:
    """Times ``gamma`` every ``step_size`` epochs, after ``warmup_steps`` of linear rise."""

    name: Literal["step"] = "step"
    warmup_steps: Index = 0
    step_size: Count = 5
    gamma: Positive = 0.2

    def factor(self, step: int, total: int, steps_per_epoch: int) -> float:
        """What the learning rate is multiplied with at ``step`` (from 0) of ``total``."""
        decay: float = self.gamma ** (step // steps_per_epoch // self.step_size)
        return decay * _warmup(step, self.warmup_steps)


@config
class OneCycle:
    """From ``initial_factor`` up to 1 during ``warmup_fraction`` of all steps, then down to ``final_factor``.

    References:
        Smith & Topin 2018, "Super-convergence".
    """

    name: Literal["one_cycle"] = "one_cycle"
    warmup_fraction: ProperFraction = 0.3
    initial_factor: Fraction = 0.04
    final_factor: Fraction = 4e-6

    def factor(self, step: int, total: int, steps_per_epoch: int) -> float:
        """What the learning rate is multiplied with at ``step`` (from 0) of ``total``."""
        peak = self.warmup_fraction * total
        if step < peak:
            return _anneal(self.initial_factor, 1.0, step / peak)
        return _anneal(1.0, self.final_factor, (step - peak) / max(1, total - 1 - peak))


Schedule = Annotated[Constant | Cosine | StepDecay | OneCycle, Field(discriminator="name")]


def _warmup(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / (warmup_steps + 1))


def _anneal(start: float, end: float, progress: float) -> float:
    """Half a cosine from ``start`` to ``end``."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


class EMA:
    """An exponential moving average of a model's parameters, as a model of its own.

    The first steps count more, ``decay = min(decay, (1 + n) / (10 + n))`` after ``n`` iterations, so that a
    short run is not an average of its initial weights.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._average = dict(zip(model.parameters(), self.model.parameters(), strict=True))

    def reset(self, model: nn.Module) -> None:
        """Start anew from ``model``."""
        self.model.load_state_dict(model.state_dict())

    @torch.no_grad()
    def update(self, parameters: Sequence[Parameter], decay: float, step: int) -> None:
        """Move the average of ``parameters``, which have stepped, towards them; at ``decay`` 0 all the way."""
        current: list[Tensor] = list(parameters)
        averages: list[Tensor] = [self._average[p] for p in parameters]
        decay = min(decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(averages, current, 1 - decay)

    @torch.no_grad()
    def copy_buffers(self, model: nn.Module) -> None:
        """Take over the buffers, running statistics for instance, before the average is looked at."""
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
