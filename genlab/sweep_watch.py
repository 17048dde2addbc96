"""What is said of a sweep while it runs: one line when it begins, and one for every job that ends."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf


def count_jobs(hydra: HydraConf | DictConfig) -> int | None:
    """How many jobs the sweep of this command has; ``None`` where its sweeper alone knows."""
    trials = OmegaConf.select(hydra, "sweeper.n_trials")  # type: ignore[arg-type]
    if trials is not None:
        return int(trials)
    params = OmegaConf.select(hydra, "sweeper.params")  # type: ignore[arg-type]
    given = _parsed([*(f"{key}={value}" for key, value in (params or {}).items()), *sys.argv[1:]])
    if given is None or hydra.runtime.choices.get("hydra/sweeper") != "basic":
        return None
    swept = [override for override in _by_key(given).values() if override.is_sweep_override()]
    try:
        return math.prod(len(list(override.sweep_string_iterator())) for override in swept)
    except (HydraException, ValueError):
        return None  # glob(*), for which the folders of options are needed


def settings_of_job(hydra: HydraConf) -> str:
    """What tells this job from the others of its sweep: ``beta=4, seed=1``."""
    given = _by_key(_parsed(sys.argv[1:]) or [])
    shown = [
        f"{override.key_or_group.rpartition('.')[2]}={override.get_value_element_as_str()}"
        for key, override in _by_key(_parsed(hydra.overrides.task) or []).items()
        if key not in given or given[key].is_sweep_override()
    ]
    return ", ".join(shown)


def _by_key(overrides: Sequence[Override]) -> dict[str, Override]:
    """As Hydra takes them: of a key that comes twice, the second."""
    return {override.get_key_element(): override for override in overrides}


def _parsed(arguments: Sequence[str]) -> list[Override] | None:
    """The overrides among ``arguments``; ``None`` where one can't be read."""
    overrides = [a for a in arguments if not a.startswith("-") and ("=" in a or a.startswith("~"))]
    try:
        return OverridesParser.create().parse_overrides(overrides)
    except HydraException:
        return None


@dataclass(frozen=True)
class Tally:
    """How far a sweep is: jobs that have ended, that run beside this one, and all, where that is known.

    ``mean_seconds`` is what a job takes.
    """

    ended: int
    running: int
    total: int | None
    mean_seconds: float

    def end(self, now: datetime) -> datetime | None:
        """When the last job will have ended; ``None`` where that can't be known, or none is left."""
        left = (self.total or 0) - self.ended
        return now + timedelta(seconds=self.mean_seconds * left / (self.running + 1)) if left > 0 else None


def line(number: int, settings: str, outcome: str, seconds: float, tally: Tally, now: datetime) -> str:
    """One line about the job ``number``, which took so many ``seconds`` and has ended ``now``.

    >>> now = datetime(2024, 5, 4, 23, 0)
    >>> line(1, "beta=4", "ok: val/loss 3.2", 1800.0, Tally(2, 0, 4, 1800.0), now)
    '2/4  job 1 ok: val/loss 3.2  (beta=4)  1,800 s  ends about Sun 00:00'
    """
    count = f"{tally.ended}/{tally.total}" if tally.total else str(tally.ended)
    parts = [count, f"job {number} {outcome}", *([f"({settings})"] if settings else []), _seconds(seconds)]
    if (end := tally.end(now)) is not None:
        parts.append(f"ends about {end:{'%H:%M' if end.date() == now.date() else '%a %H:%M'}}")
    return "  ".join(parts)


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 10 else f"{value:,.0f} s"


def main_metric(metrics: Mapping[str, float], objective: Any) -> str:
    """The one metric that a line has room for: what is sought, or else the first one."""
    wanted = [objective] if isinstance(objective, str) else list(objective or [])
    name = next((name for name in [*wanted, *metrics] if name in metrics), None)
    return "" if name is None else f": {name} {metrics[name]:.5g}"
