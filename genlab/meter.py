"""Loss terms, gathered on the device and read once per window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from genlab.distributed import ALONE, Processes
from genlab.errors import TrainingError


class Meter:
    """Keeps the terms of each step as one small tensor, so that the step never waits for the host.

    What it tells are means over ``processes``: a term that is not finite in one of them ends all.
    """

    def __init__(self, processes: Processes = ALONE) -> None:
        self._processes = processes
        self._names: dict[str, list[str]] = {}
        self._rows: dict[str, list[tuple[int, Tensor]]] = {}

    def add(self, group: str, step: int, terms: Mapping[str, Tensor]) -> None:
        """Take the scalar ``terms`` of an update of ``group``; their names stay the same until :meth:`read`."""
        self._names.setdefault(group, list(terms))
        row = torch.stack([terms[name].float() for name in self._names[group]])
        self._rows.setdefault(group, []).append((step, row))

    @property
    def empty(self) -> bool:
        """Whether nothing was added since the last :meth:`read`."""
        return not self._rows

    def check(self) -> dict[str, Tensor]:
        """Wait for the device; the terms held, ``(steps, terms)`` of each group on the CPU.

        All processes have to come here with the same steps behind them.

        Raises:
            TrainingError: a term is not finite; the first one is named, with its step and group.
        """
        stacked = {group: torch.stack([row for _, row in rows]) for group, rows in self._rows.items()}
        self._processes.average(stacked.values())
        for group, values in stacked.items():
            steps = (step for step, _ in self._rows[group])
            self._rows[group] = list(zip(steps, values.unbind(), strict=True))
        held = {group: values.cpu() for group, values in stacked.items()}
        wrong = [
            (self._rows[group][i][0], group, self._names[group][j], values[i, j].item())
            for group, values in held.items()
            for i, j in (~values.isfinite()).nonzero()[:1].tolist()
        ]
        if not wrong:
            return held
        step, group, name, value = min(wrong, key=lambda found: found[0])  # groups poison one another
        raise TrainingError(
            f"the term '{name}' is {value} at step {step} (group '{group}'); lower trainer.optimizer.lr or set "
            "trainer.clip_grad_norm; the last good checkpoint, if there is one, is kept"
        )

    def read(self) -> dict[str, float]:
        """The mean of each term since the last call; raises as :meth:`check` does."""
        means: dict[str, float] = {}
        for group, values in self.check().items():
            means.update(zip(self._names[group], values.double().mean(0).tolist(), strict=True))
        self._names, self._rows = {}, {}  # another stage may have other terms
        return means

    def state_dict(self) -> dict[str, Any]:
        """What is held, so that a resumed run reports the same means."""
        return {"names": self._names, "rows": self._rows}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take up what :meth:`state_dict` gave."""
        self._names = dict(state["names"])
        self._rows = {
            group: [(step, row.to(device)) for step, row in rows] for group, rows in state["rows"].items()
        }
