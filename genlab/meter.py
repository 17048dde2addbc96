"""Loss terms, gathered on the device and read once per window."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from genlab.errors import TrainingError


class Meter:
    """Keeps the terms of each step as one small tensor, so that the step never waits for the host."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}
        self._rows: dict[str, list[tuple[int, Tensor]]] = {}

    def add(self, group: str, step: int, terms: Mapping[str, Tensor]) -> None:
        """Take the scalar ``terms`` of one update of ``group``; their names stay the same over steps."""
        self._names.setdefault(group, list(terms))
        row = torch.stack([terms[name].float() for name in self._names[group]])
        self._rows.setdefault(group, []).append((step, row))

    def read(self) -> dict[str, float]:
        """The mean of each term since the last call.

        Raises:
            TrainingError: a term was not finite; the first one is named, with its step and group.
        """
        rows, self._rows = self._rows, {}
        means: dict[str, float] = {}
        for group, steps in rows.items():
            values = torch.stack([row for _, row in steps]).cpu()
            self._check(group, [step for step, _ in steps], values)
            means.update(zip(self._names[group], values.double().mean(0).tolist(), strict=True))
        return means

    def _check(self, group: str, steps: list[int], values: Tensor) -> None:
        if values.isfinite().all():
            return
        i, j = (~values.isfinite()).nonzero()[0].tolist()
        value = values[i, j].item()
        name = "nan" if math.isnan(value) else "infinite"
        raise TrainingError(
            f"the term '{self._names[group][j]}' is {name} at step {steps[i]} (group '{group}'); "
            "lower trainer.optimizer.lr or set trainer.clip_grad_norm"
        )
