"""What torchrun tells the processes it starts, and what they tell each other before they are a group.

Torch is imported only where there is something to tell: ``genlab --help`` passes through here too.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genlab.errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

_OVERRIDES = {"hydra.run.dir": ".", "hydra/job_logging": "disabled"}
"""Of every process but the first: no folder, no log."""


@dataclass(frozen=True)
class Launch:
    """The place of this process among all, and among the ``local_size`` of its machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    @property
    def program(self) -> str:
        """What such processes are started with."""
        nodes = f" --nnodes={self.size // self.local_size}" if self.size > self.local_size else ""
        return f"torchrun{nodes} --nproc-per-node={self.local_size} -m genlab"


def launch() -> Launch | None:
    """The place of this process; ``None`` of one that torchrun did not start."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Launch(*(int(os.environ[name]) for name in names))


def program() -> str:
    """What to write before a verb to start this run again: ``genlab``, or torchrun and its options."""
    started = launch()
    return "genlab" if started is None else started.program


def arguments(verb: str, given: Sequence[str]) -> list[str]:
    """What Hydra is to be given in this process; all but the first fall silent and make no folder.

    Raises:
        ConfigError: ``verb`` or a sweep, which work in one process.
    """
    started = launch()
    if started is None:
        return list(given)
    if verb != "train":
        raise ConfigError(f"genlab {verb} works in one process: start it without torchrun")
    if {"-m", "--multirun"}.intersection(given):
        raise ConfigError("a sweep starts its jobs itself: start it without torchrun, or each job by torchrun")
    if started.rank == 0:
        return list(given)
    import rich

    rich.get_console().quiet = True  # the bars of downloads and of training, and what is logged
    warnings.simplefilter("ignore")  # the first process has the same
    kept = [a for a in given if a.partition("=")[0] not in _OVERRIDES]
    return [*(f"{key}={value}" for key, value in _OVERRIDES.items()), *kept]


def common_folder(own: Path) -> Path:
    """The folder of the first process: each has a time of its own, and one run has one folder."""
    started = launch()
    if started is None:
        return own
    if started.rank == 0:
        _store().set("folder", str(own))
    return Path(_store().get("folder").decode())


def first_to_say(message: str) -> bool:
    """Whether no other process has said ``message`` yet, so that what is wrong for all is printed once."""
    if launch() is None:
        return True
    try:
        _store().add("said", 1)
        return _store().add(f"said: {message}", 1) == 1
    except RuntimeError:  # whoever keeps the store is gone
        return True


def anyone_spoke() -> bool:
    """Whether some process has told what went wrong."""
    if launch() is None:
        return False
    try:
        return _store().add("said", 0) > 0
    except RuntimeError:
        return False


@functools.cache
def _store() -> Store:
    """A few keys that all processes see, kept by torchrun, which outlives any of them."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    keeper = os.environ["RANK"] == "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    # With several tenants the process group finds its own store on the same port.
    store = TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=keeper, multi_tenant=True
    )
    return PrefixStore(f"genlab {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
